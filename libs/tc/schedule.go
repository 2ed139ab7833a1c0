package tc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // for machines without a zone database
)

// Schedule makes a policy's demands depend on the wall clock of a place.
type Schedule struct {
	Timezone string   `json:"timezone"` // IANA: "Europe/Berlin"
	Windows  []Window `json:"windows"`  // the first that is open decides
	Outside  Outside  `json:"outside,omitempty"`
}

// Outside says what a policy demands while no window is open.
type Outside string

// The values of Outside.
const (
	OutsideNone Outside = "none" // nothing, as if it were not there; the default
	OutsideBase Outside = "base" // what it says outside its windows' overrides
)

// Window is a time of the week: on each of Days from From until To by the wall clock; until the next day's To when that is not later.
// A wall clock that is turned back opens a window twice that day, and one whose times are skipped not at all.
type Window struct {
	Name string    `json:"name,omitempty"`
	Days []Weekday `json:"days,omitempty"` // on which it opens; empty: every day
	From ClockTime `json:"from"`
	To   ClockTime `json:"to"`
	// Mode and Rules replace the policy's own while the window is open, each value that is set; Classes as a whole.
	Mode Mode `json:"mode,omitempty"`
	Rules
}

// Weekday is a day: "mon", "tue", "wed", "thu", "fri", "sat", "sun".
type Weekday string

var weekdays = [...]Weekday{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// ClockTime is minutes since midnight: "08:30"; "24:00" is the day's end.
type ClockTime int

const day = 24 * 60

// String is "08:30".
func (c ClockTime) String() string { return fmt.Sprintf("%02d:%02d", int(c)/60, int(c)%60) }

// MarshalText is String.
func (c ClockTime) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads "08:30".
func (c *ClockTime) UnmarshalText(text []byte) error {
	h, m, ok := strings.Cut(string(text), ":")
	hours, err1 := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || len(h) != 2 || len(m) != 2 || err1 != nil || err2 != nil || minutes > 59 || hours*60+minutes > day {
		return fmt.Errorf("time %q is not one; write hours and minutes from 00:00 to 24:00, such as 08:30", text)
	}
	*c = ClockTime(hours*60 + minutes)
	return nil
}

// opensOn says whether the window opens on a day.
func (w Window) opensOn(d time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, weekdays[d])
}

// openAt says whether the window is open at a wall clock time.
func (w Window) openAt(local time.Time) bool {
	now, today := ClockTime(local.Hour()*60+local.Minute()), local.Weekday()
	if w.From < w.To {
		return w.opensOn(today) && w.From <= now && now < w.To
	}
	yesterday := (today + 6) % 7
	return w.opensOn(today) && now >= w.From || w.opensOn(yesterday) && now < w.To
}

// open is the index of the window that is open at t; -1: none is. The schedule is valid.
func (s *Schedule) open(t time.Time, zone *time.Location) int {
	local := t.In(zone)
	return slices.IndexFunc(s.Windows, func(w Window) bool { return w.openAt(local) })
}

// horizon is how far ahead a change is looked for: windows repeat each week, and a week may skip one when clocks change.
const horizon = 15 * 24 * time.Hour

// change is the first time after t at which another window, or none, is open; zero: never. Between two changes of a zone's
// offset the wall clock runs evenly, so that boundaries are found by arithmetic in each such period.
func (s *Schedule) change(t time.Time, zone *time.Location) time.Time {
	current := s.open(t, zone)
	for from := t; from.Before(t.Add(horizon)); {
		_, end := from.In(zone).ZoneBounds()
		until := t.Add(horizon)
		if !end.IsZero() && end.Before(until) {
			until = end
		}
		for _, at := range s.boundaries(from, until, zone) {
			if s.open(at, zone) != current {
				return at
			}
		}
		if s.open(until, zone) != current {
			return until.UTC()
		}
		from = until
	}
	return time.Time{}
}

// boundaries are the times in (from, until) at which a window may open or close, ordered, while the zone's offset stays.
func (s *Schedule) boundaries(from, until time.Time, zone *time.Location) []time.Time {
	_, offset := from.In(zone).Zone()
	wall := time.FixedZone("", offset)
	var found []time.Time
	start := from.In(wall)
	for midnight := time.Date(start.Year(), start.Month(), start.Day(), 0, 0, 0, 0, wall); midnight.Before(until); midnight = midnight.AddDate(0, 0, 1) {
		for _, w := range s.Windows {
			for _, c := range [...]ClockTime{w.From, w.To} {
				if at := midnight.Add(time.Duration(c) * time.Minute); at.After(from) && at.Before(until) {
					found = append(found, at.UTC())
				}
			}
		}
	}
	slices.SortFunc(found, time.Time.Compare)
	return found
}

// At returns the policy as it is at t: without a schedule, its windows applied. ok is false when it demands nothing then. next is when that
// changes; zero: never. The policy is valid.
func (p Policy) At(t time.Time) (now Policy, window string, next time.Time, ok bool) {
	return p.at(t, p.zone())
}

// zone is that of the schedule, nil without one. Loading it reads a file.
func (p Policy) zone() *time.Location {
	if p.Schedule == nil {
		return nil
	}
	zone, err := time.LoadLocation(p.Schedule.Timezone)
	if err != nil { // Validate has refused it
		return time.UTC
	}
	return zone
}

// at is At with the zone loaded.
func (p Policy) at(t time.Time, zone *time.Location) (now Policy, window string, next time.Time, ok bool) {
	s := p.Schedule
	if s == nil {
		return p, "", time.Time{}, true
	}
	p.Schedule = nil
	next = s.change(t, zone)
	i := s.open(t, zone)
	if i < 0 {
		return p, "", next, s.Outside == OutsideBase
	}
	w := s.Windows[i]
	p.Rules = p.Rules.overridden(w.Rules)
	if w.Mode != "" {
		p.Mode = w.Mode
	}
	window = w.Name
	if window == "" {
		window = strconv.Itoa(i)
	}
	return p, window, next, true
}

// overridden is r with every value that o sets.
func (r Rules) overridden(o Rules) Rules {
	link := func(mine *LinkRate, theirs LinkRate) {
		if theirs.Ceiling != 0 {
			*mine = LinkRate{Ceiling: theirs.Ceiling} // a burst belongs to its ceiling
		}
		if theirs.Burst != 0 {
			mine.Burst = theirs.Burst
		}
	}
	limits := func(mine *DirectionLimits, theirs DirectionLimits) {
		for _, v := range [...]struct{ mine, theirs *uint32 }{
			{&mine.PacketsPerSecond, &theirs.PacketsPerSecond},
			{&mine.Connections, &theirs.Connections},
			{&mine.ConnectionsPerSecond, &theirs.ConnectionsPerSecond},
		} {
			if *v.theirs != 0 {
				*v.mine = *v.theirs
			}
		}
	}
	link(&r.Link.Upload, o.Link.Upload)
	link(&r.Link.Download, o.Link.Download)
	limits(&r.Limits.Upload, o.Limits.Upload)
	limits(&r.Limits.Download, o.Limits.Download)
	if len(o.Classes) > 0 {
		r.Classes = o.Classes
	}
	return r
}
