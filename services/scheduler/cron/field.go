package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// field is what one place of an expression may hold.
type field struct {
	name     string
	min, max int
	names    []string // of the values from min on
}

var (
	seconds = field{name: "second", max: 59}
	minutes = field{name: "minute", max: 59}
	hours   = field{name: "hour", max: 23}
	months  = field{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}}
	dates   = field{name: "day-of-month", min: 1, max: 31}
	// 7 is Sunday, as 0 is.
	week = field{name: "day-of-week", max: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}}
)

func (f field) errorf(format string, args ...any) error {
	return fmt.Errorf(f.name+": "+format, args...)
}

// parse reads a list into bits; star tells whether a part of it is * or */n.
func (f field) parse(text string) (set uint64, star bool, err error) {
	for part := range strings.SplitSeq(text, ",") {
		more, s, err := f.part(part)
		if err != nil {
			return 0, false, err
		}
		set |= more
		star = star || s
	}
	return set, star, nil
}

// part reads *, a, a-b, */n, a-b/n or a/n.
func (f field) part(text string) (set uint64, star bool, err error) {
	span, stepText, stepped := strings.Cut(text, "/")
	lo, hi := f.min, f.max
	if hi == 7 {
		hi-- // Sunday once
	}
	if span == "*" {
		star = true
	} else {
		from, to, isRange := strings.Cut(span, "-")
		if lo, err = f.value(from); err != nil {
			return 0, false, err
		}
		switch {
		case isRange:
			if hi, err = f.value(to); err != nil {
				return 0, false, err
			}
			if hi < lo {
				return 0, false, f.errorf("%q runs backwards; write two ranges", clip(span))
			}
		case !stepped:
			hi = lo
		}
	}
	step := 1
	if stepped {
		step, err = number(stepText)
		if err != nil || step == 0 {
			return 0, false, f.errorf("%q is not a step", clip(stepText))
		}
		if span := f.max - f.min; step > span {
			return 0, false, f.errorf("a step of %d is longer than the field; for long intervals there is @every", step)
		}
	}
	for v := lo; v <= hi; v += step {
		set |= 1 << uint(v)
	}
	return set, star, nil
}

func (f field) value(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.min + i, nil
		}
	}
	n, err := number(text)
	if err != nil {
		return 0, f.errorf("%q is not a value", clip(text))
	}
	if n < f.min || n > f.max {
		return 0, f.errorf("%d is not between %d and %d", n, f.min, f.max)
	}
	return n, nil
}

// number reads at most three digits and nothing else.
func number(text string) (int, error) {
	if len(text) > 3 || strings.ContainsAny(text, "+-") {
		return 0, strconv.ErrRange
	}
	return strconv.Atoi(text)
}

// month is one month of one year.
type month struct {
	length int
	first  time.Weekday // of its first day
}

func monthOf(year int, m time.Month) month {
	return month{
		length: time.Date(year, m+1, 0, 0, 0, 0, 0, time.UTC).Day(),
		first:  time.Date(year, m, 1, 0, 0, 0, 0, time.UTC).Weekday(),
	}
}

func (m month) all() uint64 { return 1<<uint(m.length+1) - 2 }

func (m month) weekday(day int) time.Weekday { return (m.first + time.Weekday(day-1)) % 7 }

// nearest returns the weekday (Monday to Friday) of the month that is nearest to day.
func (m month) nearest(day int) int {
	switch m.weekday(day) {
	case time.Saturday:
		if day == 1 {
			return 3
		}
		return day - 1
	case time.Sunday:
		if day == m.length {
			return day - 2
		}
		return day + 1
	}
	return day
}

// monthdays is the day-of-month field.
type monthdays struct {
	any         bool
	dates       uint64
	nearest     uint64 // dates with W
	beforeLast  uint64 // L-n: bit n
	lastWeekday bool   // LW
}

func parseMonthdays(text string) (monthdays, error) {
	var d monthdays
	if text == "*" || text == "?" {
		return monthdays{any: true}, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		upper := strings.ToUpper(part)
		switch {
		case upper == "L":
			d.beforeLast |= 1
		case upper == "LW":
			d.lastWeekday = true
		case strings.HasPrefix(upper, "L-"):
			n, err := number(upper[2:])
			if err != nil || n < 1 || n > 30 {
				return d, dates.errorf("%q is not L- and 1 to 30", clip(part))
			}
			d.beforeLast |= 1 << uint(n)
		case strings.HasSuffix(upper, "W"):
			n, err := dates.value(strings.TrimSuffix(upper, "W"))
			if err != nil {
				return d, err
			}
			d.nearest |= 1 << uint(n)
		default:
			set, _, err := dates.part(part)
			if err != nil {
				return d, err
			}
			d.dates |= set
		}
	}
	return d, nil
}

func (d monthdays) in(m month) uint64 {
	if d.any {
		return m.all()
	}
	set := d.dates
	for left := d.nearest & m.all(); left != 0; left &= left - 1 {
		set |= 1 << uint(m.nearest(lowest(left)))
	}
	for left := d.beforeLast; left != 0; left &= left - 1 {
		if day := m.length - lowest(left); day > 0 {
			set |= 1 << uint(day)
		}
	}
	if d.lastWeekday {
		set |= 1 << uint(m.nearest(m.length))
	}
	return set & m.all()
}

// weekdays is the day-of-week field.
type weekdays struct {
	any  bool
	days uint64
	nth  [7]uint64 // day#n: bit n
	last uint64    // dayL
}

func parseWeekdays(text string) (weekdays, error) {
	var d weekdays
	if text == "*" || text == "?" {
		return weekdays{any: true}, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		if day, nth, ok := strings.Cut(part, "#"); ok {
			v, err := week.value(day)
			if err != nil {
				return d, err
			}
			n, err := number(nth)
			if err != nil || n < 1 || n > 5 {
				return d, week.errorf("%q is not a day, # and 1 to 5", clip(part))
			}
			d.nth[v%7] |= 1 << uint(n)
			continue
		}
		if day, ok := strings.CutSuffix(strings.ToUpper(part), "L"); ok {
			v, err := week.value(day)
			if err != nil {
				return d, week.errorf("%q is not a day and L, such as 5L", clip(part))
			}
			d.last |= 1 << uint(v%7)
			continue
		}
		set, _, err := week.part(part)
		if err != nil {
			return d, err
		}
		d.days |= set
	}
	d.days |= d.days >> 7 & 1
	return d, nil
}

func (d weekdays) in(m month) uint64 {
	if d.any {
		return m.all()
	}
	var set uint64
	for day := 1; day <= m.length; day++ {
		w := uint(m.weekday(day))
		if d.days&(1<<w) != 0 || d.nth[w]&(1<<uint((day-1)/7+1)) != 0 || d.last&(1<<w) != 0 && day+7 > m.length {
			set |= 1 << uint(day)
		}
	}
	return set
}

func lowest(set uint64) int { return bits.TrailingZeros64(set) }

// clip keeps a message short whatever was typed.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
