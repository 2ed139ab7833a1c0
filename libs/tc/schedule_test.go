package tc_test

import (
	"testing"
	"time"

	"agentyard.dev/libs/tc"
)

// scheduled is a policy with these windows, each with a ceiling of its own.
func scheduled(zone string, windows ...tc.Window) tc.Policy {
	p := tc.Policy{Name: "p", Schedule: &tc.Schedule{Timezone: zone}}
	for i, w := range windows {
		w.Link.Download.Ceiling = tc.BitsPerSecond(i+1) * tc.Mbit
		p.Schedule.Windows = append(p.Schedule.Windows, w)
	}
	return p
}

func clock(t *testing.T, s string) tc.ClockTime {
	t.Helper()
	var c tc.ClockTime
	if err := c.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return c
}

func window(t *testing.T, from, to string, days ...tc.Weekday) tc.Window {
	t.Helper()
	return tc.Window{From: clock(t, from), To: clock(t, to), Days: days}
}

// TestSchedule walks from change to change and compares each with what a person would expect of the wall clock.
func TestSchedule(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy tc.Policy
		from   string
		want   []string // the changes in UTC and the window that opens; "": none
	}{
		{
			"office hours on workdays", scheduled("Europe/Berlin", window(t, "08:00", "18:00", "mon", "tue", "wed", "thu", "fri")),
			"2026-06-05T05:00:00Z", // Friday
			[]string{"2026-06-05T06:00:00Z 0", "2026-06-05T16:00:00Z ", "2026-06-08T06:00:00Z 0"},
		},
		{
			"over midnight, by the day on which it opens", scheduled("UTC", window(t, "22:00", "06:00", "fri")),
			"2026-06-05T00:00:00Z",
			[]string{"2026-06-05T22:00:00Z 0", "2026-06-06T06:00:00Z ", "2026-06-12T22:00:00Z 0"},
		},
		{
			"one behind the other", scheduled("UTC", window(t, "08:00", "12:00"), window(t, "12:00", "13:00")),
			"2026-06-05T09:00:00Z",
			[]string{"2026-06-05T12:00:00Z 1", "2026-06-05T13:00:00Z ", "2026-06-06T08:00:00Z 0"},
		},
		{
			"the first of two that are open", scheduled("UTC", window(t, "10:00", "11:00"), window(t, "09:00", "12:00")),
			"2026-06-05T08:00:00Z",
			[]string{"2026-06-05T09:00:00Z 1", "2026-06-05T10:00:00Z 0", "2026-06-05T11:00:00Z 1", "2026-06-05T12:00:00Z "},
		},
		{
			"to the end of the day", scheduled("UTC", window(t, "20:00", "24:00", "sat")),
			"2026-06-06T00:00:00Z",
			[]string{"2026-06-06T20:00:00Z 0", "2026-06-07T00:00:00Z "},
		},
		{
			"around the clock, never a change", scheduled("UTC", window(t, "00:00", "24:00")),
			"2026-06-06T10:00:00Z", nil,
		},
		{
			"equal ends are a whole day", scheduled("UTC", window(t, "09:00", "09:00", "mon")),
			"2026-06-08T00:00:00Z",
			[]string{"2026-06-08T09:00:00Z 0", "2026-06-09T09:00:00Z ", "2026-06-15T09:00:00Z 0"},
		},
		{
			// On 29 March 2026 the clock goes from 02:00 to 03:00.
			"an opening that is skipped is when the clock jumps", scheduled("Europe/Berlin", window(t, "02:30", "04:00")),
			"2026-03-28T12:00:00Z",
			[]string{"2026-03-29T01:00:00Z 0", "2026-03-29T02:00:00Z ", "2026-03-30T00:30:00Z 0"},
		},
		{
			"a window that is skipped does not open", scheduled("Europe/Berlin", window(t, "02:15", "02:45", "sun")),
			"2026-03-28T12:00:00Z",
			[]string{"2026-04-05T00:15:00Z 0", "2026-04-05T00:45:00Z "},
		},
		{
			// On 25 October 2026 the clock goes from 03:00 back to 02:00.
			"times that come twice open twice", scheduled("Europe/Berlin", window(t, "02:15", "02:45")),
			"2026-10-24T12:00:00Z",
			[]string{"2026-10-25T00:15:00Z 0", "2026-10-25T00:45:00Z ", "2026-10-25T01:15:00Z 0", "2026-10-25T01:45:00Z ", "2026-10-26T01:15:00Z 0"},
		},
		{
			"closing at a time that comes twice", scheduled("Europe/Berlin", window(t, "01:00", "02:30")),
			"2026-10-24T12:00:00Z",
			[]string{"2026-10-24T23:00:00Z 0", "2026-10-25T00:30:00Z ", "2026-10-25T01:00:00Z 0", "2026-10-25T01:30:00Z ", "2026-10-26T00:00:00Z 0"},
		},
		{
			// Lord Howe Island's clock moves by half an hour.
			"a zone whose clock moves by half an hour", scheduled("Australia/Lord_Howe", window(t, "01:45", "03:00")),
			"2026-04-04T00:00:00Z",
			[]string{"2026-04-04T14:45:00Z 0", "2026-04-04T15:00:00Z ", "2026-04-04T15:15:00Z 0", "2026-04-04T16:30:00Z "},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if problems := tt.policy.Validate(); len(problems) > 0 {
				t.Fatal(problems)
			}
			at, err := time.Parse(time.RFC3339, tt.from)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				_, _, next, _ := tt.policy.At(at)
				_, open, _, _ := tt.policy.At(next)
				if got := next.Format(time.RFC3339) + " " + open; got != want {
					t.Fatalf("after %s: %q, want %q", at.Format(time.RFC3339), got, want)
				}
				if _, before, _, _ := tt.policy.At(next.Add(-time.Nanosecond)); before == open {
					t.Errorf("nothing changes at %s", next)
				}
				at = next
			}
			if _, _, next, _ := tt.policy.At(at); tt.want == nil && !next.IsZero() {
				t.Errorf("a change at %s", next)
			}
		})
	}
}

// TestScheduleNeverMissesAChange compares the changes with a look at every quarter of an hour around both switches of the clock.
func TestScheduleNeverMissesAChange(t *testing.T) {
	p := scheduled("America/New_York", window(t, "22:00", "02:30", "sat", "wed"), window(t, "01:15", "03:45", "sun"), window(t, "09:00", "09:15", "mon"))
	changes := 0
	for _, at := range []time.Time{time.Date(2026, time.March, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, time.October, 25, 0, 0, 0, 0, time.UTC)} {
		_, open, next, _ := p.At(at)
		for end := at.AddDate(0, 0, 21); at.Before(end); at = at.Add(15 * time.Minute) {
			_, now, _, _ := p.At(at)
			if at.Before(next) {
				if now != open {
					t.Fatalf("at %s window %q is open and not %q, and the next change was said to be at %s", at, now, open, next)
				}
				continue
			}
			if now == open || !at.Equal(next) {
				t.Fatalf("at %s window %q is open; the change was said to be at %s", at, now, next)
			}
			_, open, next, _ = p.At(at)
			changes++
		}
	}
	if changes < 40 {
		t.Errorf("%d changes in six weeks", changes)
	}
}

func TestOutside(t *testing.T) {
	p := scheduled("UTC", window(t, "08:00", "18:00"))
	p.Link.Upload.Ceiling = 7 * tc.Mbit
	for _, tt := range []struct {
		outside tc.Outside
		mode    tc.Mode
		up      tc.BitsPerSecond
	}{{"", tc.Off, 0}, {tc.OutsideNone, tc.Off, 0}, {tc.OutsideBase, tc.Enforce, 7 * tc.Mbit}} {
		p.Schedule.Outside = tt.outside
		set, err := tc.NewSet([]tc.Policy{p})
		if err != nil {
			t.Fatal(err)
		}
		e := set.Resolve(ofAcme, time.Date(2026, 6, 1, 3, 0, 0, 0, time.UTC))
		if e.Mode != tt.mode || tt.up != 0 && e.Upload.Ceiling.Value != tt.up || tt.up == 0 && e.Upload.Ceiling != nil {
			t.Errorf("outside %q: %+v", tt.outside, e)
		}
		if e.Download.Ceiling != nil {
			t.Errorf("outside %q: the window's ceiling of %v holds", tt.outside, e.Download.Ceiling)
		}
	}
}
