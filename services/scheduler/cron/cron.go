// Package cron reads cron expressions and computes when they fire. It is pure: no clock, no timers.
//
// An expression has five fields, minute hour day-of-month month day-of-week, or six with seconds in front; or it is one of
// @yearly @annually @monthly @weekly @daily @midnight @hourly, or "@every 90m". A field is a list of *, a, a-b, */n, a-b/n and a/n
// (from a to the field's end). Months and days of the week have English names of three letters; 0 and 7 are Sunday. Days of the month
// also take L (the last), L-n (n days before it), 15W (the weekday nearest to the 15th, within its month) and LW (the last weekday); days
// of the week 5L (the last Friday) and 5#3 (the third). ? is * in both day fields. When both are restricted, that is neither is
// exactly * or ?, a day that matches either of them fires.
//
// # When clocks change
//
// A field of seconds, minutes or hours that holds a * (as * or */n) makes an interval expression, any other is a fixed-time one. This is
// the distinction of Vixie cron.
//
//   - An interval expression fires at every instant whose local time matches, so by elapsed time: "*/15 * * * *" fires each quarter of
//     an hour through both passes of a repeated hour, and goes from 01:45 to 03:00 where 02:00 to 03:00 is skipped.
//   - A fixed-time expression fires once for each local time that matches: at the first pass of a repeated one, and at the instant of the change
//     for one that is skipped ("30 2 * * *" fires at what the clock calls 03:00). Several skipped ones fire once together.
//
// "@every d" counts from Schedule.Anchor and knows no zone.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a host without a zone database has the zones too
)

// Bounds of an expression.
const (
	maxLength = 256
	// searchYears bounds the search for the next fire. The rarest day, a certain weekday on 29 February, comes after 40 years at most.
	searchYears = 50
	minEvery    = time.Second
	maxEvery    = 366 * 24 * time.Hour
)

// Schedule is a parsed expression in a time zone. Its zero value never fires.
type Schedule struct {
	// Anchor is what "@every" counts from; zero: the Unix epoch.
	Anchor time.Time

	loc      *time.Location
	every    time.Duration
	interval bool
	second   uint64
	minute   uint64
	hour     uint64
	month    uint64
	monthday monthdays
	weekday  weekdays
}

var macros = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// Zone returns the IANA time zone of that name; an empty name is UTC. The process's own zone ("Local") is refused: a schedule means the
// same on every host.
func Zone(name string) (*time.Location, error) {
	const longest = 64
	if name == "" {
		return time.UTC, nil
	}
	if name != "Local" && len(name) <= longest {
		if loc, err := time.LoadLocation(name); err == nil {
			return loc, nil
		}
	}
	return nil, fmt.Errorf("%q is not a time zone such as Europe/Berlin or UTC", clip(name))
}

// Parse reads an expression whose times are those of loc. An error says which field is wrong and how; an expression that never
// fires (30 February) is an error too.
func Parse(expr string, loc *time.Location) (Schedule, error) {
	if len(expr) > maxLength {
		return Schedule{}, fmt.Errorf("is longer than %d bytes", maxLength)
	}
	expr = strings.TrimSpace(expr)
	if strings.HasPrefix(expr, "@") {
		if d, ok := strings.CutPrefix(expr, "@every "); ok {
			return parseEvery(strings.TrimSpace(d), loc)
		}
		fields, ok := macros[strings.ToLower(expr)]
		if !ok {
			return Schedule{}, fmt.Errorf("%q is none of @yearly, @monthly, @weekly, @daily, @hourly and @every", clip(expr))
		}
		expr = fields
	}
	fields := strings.Fields(expr)
	switch len(fields) {
	case 5:
		fields = append([]string{"0"}, fields...)
	case 6:
	default:
		return Schedule{}, fmt.Errorf("has %d fields; it takes 5 (minute hour day-of-month month day-of-week) or 6 with seconds in front", len(fields))
	}
	s := Schedule{loc: loc}
	var stars [3]bool
	var err error
	for i, f := range []struct {
		field field
		into  *uint64
		star  *bool
	}{{seconds, &s.second, &stars[0]}, {minutes, &s.minute, &stars[1]}, {hours, &s.hour, &stars[2]}} {
		if *f.into, *f.star, err = f.field.parse(fields[i]); err != nil {
			return Schedule{}, err
		}
	}
	s.interval = stars[0] || stars[1] || stars[2]
	if s.monthday, err = parseMonthdays(fields[3]); err != nil {
		return Schedule{}, err
	}
	if s.month, _, err = months.parse(fields[4]); err != nil {
		return Schedule{}, err
	}
	if s.weekday, err = parseWeekdays(fields[5]); err != nil {
		return Schedule{}, err
	}
	if _, ok := s.nextLocal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)); !ok {
		return Schedule{}, errors.New("never fires: there is no such day")
	}
	return s, nil
}

func parseEvery(text string, loc *time.Location) (Schedule, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return Schedule{}, fmt.Errorf("@every: %q is not a duration such as 90m", clip(text))
	}
	if d < minEvery || d > maxEvery || d%time.Second != 0 {
		return Schedule{}, fmt.Errorf("@every: must be whole seconds between %v and %v", minEvery, maxEvery)
	}
	return Schedule{loc: loc, every: d}, nil
}

// Next returns the first instant after after at which s fires, in s's zone, and false when there is none (in the years
// that a search covers).
func (s Schedule) Next(after time.Time) (time.Time, bool) {
	switch {
	case s.loc == nil:
		return time.Time{}, false
	case s.every > 0:
		return s.nextEvery(after), true
	case s.interval:
		return s.nextInterval(after)
	}
	return s.nextFixed(after)
}

// NextN returns the first n instants after after.
func (s Schedule) NextN(after time.Time, n int) []time.Time {
	var fires []time.Time
	for range n {
		next, ok := s.Next(after)
		if !ok {
			break
		}
		fires = append(fires, next)
		after = next
	}
	return fires
}

func (s Schedule) nextEvery(after time.Time) time.Time {
	anchor := s.Anchor
	if anchor.IsZero() {
		anchor = time.Unix(0, 0)
	}
	every, base := int64(s.every/time.Second), anchor.Unix()
	passed := after.Unix() - base
	n := passed / every
	if passed < 0 && passed%every != 0 {
		n-- // towards the past, too
	}
	return time.Unix(base+(n+1)*every, 0).In(s.loc)
}

// nextInterval looks through the stretches of time in which the zone's offset is the same.
func (s Schedule) nextInterval(after time.Time) (time.Time, bool) {
	at := after.Truncate(time.Second).In(s.loc)
	for limit := at.Year() + searchYears; at.Year() <= limit; {
		_, offset := at.Zone()
		local, ok := s.nextLocal(shift(at, offset))
		if !ok {
			return time.Time{}, false
		}
		next := shift(local, -offset).In(s.loc)
		_, end := at.ZoneBounds()
		if end.IsZero() || next.Before(end) {
			return next, true
		}
		// The stretch that begins at end may match at its first second.
		at = end.In(s.loc)
		_, offset = at.Zone()
		if local = shift(at, offset); s.matches(local) {
			return at, true
		}
	}
	return time.Time{}, false
}

// nextFixed goes through the local times that match, which know no change of clocks, and asks when each one is.
func (s Schedule) nextFixed(after time.Time) (time.Time, bool) {
	at := after.Truncate(time.Second).In(s.loc)
	_, offset := at.Zone()
	local := shift(at, offset)
	// In the second pass of a repeated stretch, all of its local times have had their turn.
	if start, _ := at.ZoneBounds(); !start.IsZero() {
		_, before := start.Add(-time.Second).In(s.loc).Zone()
		if last := shift(start, before).Add(-time.Second); last.After(local) {
			local = last
		}
	}
	for {
		var ok bool
		if local, ok = s.nextLocal(local); !ok {
			return time.Time{}, false
		}
		if next := instant(local, s.loc); next.After(after) {
			return next, true
		}
	}
}

// shift returns the local time, carried as UTC, of an instant in a zone that is offset seconds ahead; with -offset its inverse.
func shift(t time.Time, offset int) time.Time {
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant returns when local is in loc: the first time if it is repeated, the end of the gap if it is skipped.
func instant(local time.Time, loc *time.Location) time.Time {
	y, mo, d := local.Date()
	h, mi, s := local.Clock()
	t := time.Date(y, mo, d, h, mi, s, 0, loc) // one of two if local is repeated, and beside the gap if it is skipped
	_, offset := t.Zone()
	start, end := t.ZoneBounds()
	if !start.IsZero() {
		_, before := start.Add(-time.Second).In(loc).Zone()
		earlier := shift(local, -before)
		switch {
		case earlier.Before(start):
			return earlier.In(loc)
		case local.Before(shift(start, offset)):
			return start.In(loc)
		}
	}
	if !end.IsZero() && !local.Before(shift(end, offset)) {
		return end.In(loc)
	}
	return t
}

// nextLocal returns the first local time after local that matches.
func (s Schedule) nextLocal(local time.Time) (time.Time, bool) {
	local = local.Add(time.Second)
	year, month, first := local.Date()
	clock := true // look at local's own time of day, not at the day's first
	for limit := year + searchYears; year <= limit; {
		if s.month&(1<<uint(month)) != 0 {
			for days := s.days(year, month) &^ (1<<uint(first) - 1); days != 0; days &= days - 1 {
				day := lowest(days)
				h, m, sec := lowest(s.hour), lowest(s.minute), lowest(s.second)
				if clock && day == local.Day() {
					var ok bool
					if h, m, sec, ok = s.timeOfDay(local.Clock()); !ok {
						continue
					}
				}
				return time.Date(year, month, day, h, m, sec, 0, time.UTC), true
			}
		}
		clock, first = false, 1
		if month++; month > time.December {
			year, month = year+1, time.January
		}
	}
	return time.Time{}, false
}

// timeOfDay returns the first time of day that matches, from h:m:s on; ok is false when the day has none left.
func (s Schedule) timeOfDay(h, m, sec int) (hour, minute, second int, ok bool) {
	if s.hour&(1<<uint(h)) != 0 {
		if s.minute&(1<<uint(m)) != 0 {
			if left := s.second &^ (1<<uint(sec) - 1); left != 0 {
				return h, m, lowest(left), true
			}
		}
		if left := s.minute &^ (1<<uint(m+1) - 1); left != 0 {
			return h, lowest(left), lowest(s.second), true
		}
	}
	if left := s.hour &^ (1<<uint(h+1) - 1); left != 0 {
		return lowest(left), lowest(s.minute), lowest(s.second), true
	}
	return 0, 0, 0, false
}

func (s Schedule) matches(local time.Time) bool {
	y, mo, d := local.Date()
	h, mi, sec := local.Clock()
	return s.month&(1<<uint(mo)) != 0 && s.hour&(1<<uint(h)) != 0 && s.minute&(1<<uint(mi)) != 0 && s.second&(1<<uint(sec)) != 0 &&
		s.days(y, mo)&(1<<uint(d)) != 0
}

// days returns the days of a month that match, as bits.
func (s Schedule) days(year int, month time.Month) uint64 {
	m := monthOf(year, month)
	byDate, byWeekday := s.monthday.in(m), s.weekday.in(m)
	if s.monthday.any || s.weekday.any {
		return byDate & byWeekday
	}
	return byDate | byWeekday
}
