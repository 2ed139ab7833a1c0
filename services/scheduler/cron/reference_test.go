package cron

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/cronexpr"
)

// The reference, hashicorp/cronexpr, says in UTC, which knows no changes of clocks, which local times match. (Near a change of half an hour or
// at midnight its own times are wrong.) An interval expression fires at those that the clocks show, before the change and after
// it; a fixed-time one once for each, at an instant that is found here by a search that has nothing in common with ours.

// generator writes random expressions that both implementations read alike.
type generator struct{ *rand.Rand }

func (g generator) pick(of ...func() string) string { return of[g.IntN(len(of))]() }

func (g generator) list(lo, hi int) string {
	parts := make([]string, 1+g.IntN(3))
	for i := range parts {
		a := lo + g.IntN(hi-lo+1)
		b := a + g.IntN(hi-a+1)
		parts[i] = g.pick(
			func() string { return fmt.Sprint(a) },
			func() string { return fmt.Sprintf("%d-%d", a, b) },
			func() string { return fmt.Sprintf("%d-%d/%d", a, b, 1+g.IntN((hi-lo+1)/2)) },
		)
	}
	return strings.Join(parts, ",")
}

func (g generator) star(lo, hi int) string {
	return g.pick(func() string { return "*" }, func() string { return fmt.Sprintf("*/%d", 2+g.IntN((hi-lo)/2)) })
}

func (g generator) monthday() string {
	return g.pick(func() string { return "*" }, func() string { return "*" }, func() string { return g.list(1, 28) },
		func() string { return "L" }, func() string { return fmt.Sprintf("%dW", 2+g.IntN(26)) })
}

// weekday writes Sunday alone: the reference takes 0-0 for the whole week.
func (g generator) weekday() string {
	return g.pick(func() string { return "*" }, func() string { return "*" }, func() string { return g.list(1, 6) }, func() string { return "0" },
		func() string { return fmt.Sprintf("%dL", g.IntN(7)) }, func() string { return fmt.Sprintf("%d#%d", g.IntN(7), 1+g.IntN(4)) })
}

// expression returns six fields.
func (g generator) expression(interval bool) string {
	sec, minute, hour := "0", g.list(0, 59), g.list(0, 23)
	if g.IntN(3) == 0 {
		sec = g.list(0, 59)
	}
	if interval {
		switch g.IntN(4) {
		case 0:
			minute = g.star(0, 59)
		case 1:
			hour = g.star(0, 23)
		case 2:
			minute, hour = g.star(0, 59), g.star(0, 23)
		case 3:
			sec = g.star(0, 59)
		}
	}
	month := "*"
	if g.IntN(4) == 0 {
		month = g.list(1, 12)
	}
	return strings.Join([]string{sec, minute, hour, g.monthday(), month, g.weekday()}, " ")
}

// changes are the zones and, in UTC, when their clocks change.
var changes = []struct {
	zone string
	at   []string
}{
	{"America/New_York", []string{"2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z"}},
	{"Europe/Berlin", []string{"2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"}},
	{"Australia/Lord_Howe", []string{"2026-10-03T15:30:00Z", "2026-04-04T15:00:00Z"}},
	{"Africa/Cairo", []string{"2026-04-23T22:00:00Z", "2026-10-29T21:00:00Z"}},
	{"UTC", []string{"2028-02-28T12:00:00Z", "2080-02-28T12:00:00Z"}},
}

// start returns a time within two days of a change, mostly close to it.
func (g generator) start(change time.Time) time.Time {
	around := 48 * time.Hour
	if g.IntN(2) == 0 {
		around = 3 * time.Hour
	}
	return change.Add(time.Duration(g.Int64N(int64(2*around))) - around).Truncate(time.Second)
}

// firstInstant returns the first instant at which the clocks of loc show local or later, by looking at each second around it.
func firstInstant(local time.Time, loc *time.Location) time.Time {
	const widest = 15 * time.Hour // no zone is further from UTC
	wall := func(t time.Time) time.Time {
		y, mo, d := t.In(loc).Date()
		h, mi, s := t.In(loc).Clock()
		return time.Date(y, mo, d, h, mi, s, 0, time.UTC)
	}
	// The zones of the test change by at most an hour, at full minutes: what is two hours back was not later by the clock.
	at := local.Add(-widest)
	for wall(at.Add(2 * time.Hour)).Before(local) {
		at = at.Add(time.Hour)
	}
	for ; ; at = at.Add(time.Minute) {
		if w := wall(at); !w.Before(local.Truncate(time.Minute)) {
			for back := at.Add(-time.Minute); ; back = back.Add(time.Second) {
				if !wall(back).Before(local) {
					return back
				}
			}
		}
	}
}

// reference returns the next fires of expr after after, at most n.
func reference(t *testing.T, expr string, interval bool, after, change time.Time, loc *time.Location, n int) []time.Time {
	t.Helper()
	ref, err := cronexpr.Parse(expr + " *") // its seventh field is the year
	if err != nil {
		t.Fatalf("reference: %q: %v", expr, err)
	}
	next := func(t *testing.T, at time.Time) time.Time {
		if at = ref.Next(at); at.IsZero() {
			t.Fatalf("reference: %q ends", expr) // its years do, in 2099
		}
		return at
	}
	var want []time.Time
	if !interval {
		for local := after.Add(-24 * time.Hour); len(want) < n; {
			local = next(t, local)
			if at := firstInstant(local, loc); at.After(after) && (len(want) == 0 || at.After(want[len(want)-1])) {
				want = append(want, at)
			}
		}
		return want
	}
	// The local times before the change, as the clocks of before show them, and those after it.
	for _, stretch := range [][2]time.Time{{after, change}, {latest(after, change.Add(-time.Second)), change.AddDate(0, 3, 0)}} {
		from, end := stretch[0], stretch[1]
		_, offset := end.Add(-time.Second).In(loc).Zone()
		ahead := time.Duration(offset) * time.Second
		for local := next(t, from.UTC().Add(ahead)); len(want) < n && local.Add(-ahead).Before(end); local = next(t, local) {
			want = append(want, local.Add(-ahead))
		}
	}
	return want
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestReference is the property: around both changes of clocks of each zone, and around leap days, our fires are the reference's.
func TestReference(t *testing.T) {
	const each, follow = 60, 8
	for _, c := range changes {
		t.Run(c.zone, func(t *testing.T) {
			t.Parallel()
			loc := zone(t, c.zone)
			for i := range each * 2 * len(c.at) {
				change, err := time.Parse(time.RFC3339, c.at[i/2%len(c.at)])
				if err != nil {
					t.Fatal(err)
				}
				seed := uint64(i)
				g := generator{rand.New(rand.NewPCG(seed, uint64(len(c.zone))))} //nolint:gosec // a test's choice
				interval := i%2 == 0
				expr, after := g.expression(interval), g.start(change)
				s, err := Parse(expr, loc)
				if err != nil {
					t.Fatalf("%q: %v", expr, err)
				}
				if s.interval != interval {
					t.Fatalf("%q: taken for an interval: %v", expr, s.interval)
				}
				at := after
				for n, want := range reference(t, expr, interval, after, change, loc, follow) {
					got, ok := s.Next(at)
					if !ok || !got.Equal(want) {
						t.Fatalf("seed %d: %q after %s: fire %d is %s, want %s", seed, expr, after.In(loc), n+1, got, want.In(loc))
					}
					at = got
				}
			}
		})
	}
}

// FuzzParse looks for text that makes the parser or the search panic, hang or go back.
func FuzzParse(f *testing.F) {
	for _, expr := range []string{"* * * * *", "0 */5 1-3,7 L-2 jan-mar/2 5#3", "@every 90m", "0 0 29 2 *", "0 0 LW,15W * 5L", "@daily", "?"} {
		f.Add(expr, int64(1_772_956_800))
	}
	loc := zone(f, "America/New_York")
	f.Fuzz(func(t *testing.T, expr string, unix int64) {
		s, err := Parse(expr, loc)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		at := time.Unix(unix%(1<<33), 0)
		for range 4 {
			next, ok := s.Next(at)
			if !ok {
				t.Fatalf("%q never fires after %v", expr, at)
			}
			if !next.After(at) {
				t.Fatalf("%q: after %v comes %v", expr, at, next)
			}
			at = next
		}
	})
}
