package cron

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const layout = "2006-01-02 15:04:05 -0700"

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := Zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func parse(t testing.TB, expr, tz string) Schedule {
	t.Helper()
	s, err := Parse(expr, zone(t, tz))
	if err != nil {
		t.Fatalf("%q: %v", expr, err)
	}
	return s
}

// fires checks the fires that follow a time, each given as "day time offset" within its month.
func fires(t *testing.T, s Schedule, after string, want ...string) {
	t.Helper()
	at, err := time.Parse(layout, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range s.NextN(at, len(want)) {
		got = append(got, f.Format("01-02 15:04:05 -0700"))
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestClocksGoForward(t *testing.T) {
	for _, c := range []struct {
		name, zone, expr, after string
		want                    []string
	}{
		{"New York: a skipped time fires at the change", "America/New_York", "30 2 * * *", "2026-03-07 12:00:00 -0500",
			[]string{"03-08 03:00:00 -0400", "03-09 02:30:00 -0400"}},
		{"New York: several skipped times fire once", "America/New_York", "0,20,40 2 * * *", "2026-03-07 12:00:00 -0500",
			[]string{"03-08 03:00:00 -0400", "03-09 02:00:00 -0400"}},
		{"New York: a skipped time and the time of the change fire once", "America/New_York", "0 2,3 * * *", "2026-03-07 12:00:00 -0500",
			[]string{"03-08 03:00:00 -0400", "03-09 02:00:00 -0400", "03-09 03:00:00 -0400"}},
		{"New York: from the instant of the change on", "America/New_York", "30 2 * * *", "2026-03-08 03:00:00 -0400",
			[]string{"03-09 02:30:00 -0400"}},
		{"New York: an interval goes by elapsed time", "America/New_York", "*/30 * * * *", "2026-03-08 01:00:00 -0500",
			[]string{"03-08 01:30:00 -0500", "03-08 03:00:00 -0400", "03-08 03:30:00 -0400"}},
		{"New York: every hour", "America/New_York", "0 * * * *", "2026-03-08 00:30:00 -0500",
			[]string{"03-08 01:00:00 -0500", "03-08 03:00:00 -0400", "03-08 04:00:00 -0400"}},
		{"New York: every second", "America/New_York", "* * * * * *", "2026-03-08 01:59:58 -0500",
			[]string{"03-08 01:59:59 -0500", "03-08 03:00:00 -0400", "03-08 03:00:01 -0400"}},
		{"Berlin: a skipped time", "Europe/Berlin", "15 2 * * *", "2026-03-28 12:00:00 +0100",
			[]string{"03-29 03:00:00 +0200", "03-30 02:15:00 +0200"}},
		{"Berlin: only on Sundays", "Europe/Berlin", "15 2 * * sun", "2026-03-28 12:00:00 +0100",
			[]string{"03-29 03:00:00 +0200", "04-05 02:15:00 +0200"}},
		{"Berlin: an interval", "Europe/Berlin", "*/20 * * * *", "2026-03-29 01:30:00 +0100",
			[]string{"03-29 01:40:00 +0100", "03-29 03:00:00 +0200", "03-29 03:20:00 +0200"}},
		{"Lord Howe: half an hour is skipped", "Australia/Lord_Howe", "15 2 * * *", "2026-10-03 12:00:00 +1030",
			[]string{"10-04 02:30:00 +1100", "10-05 02:15:00 +1100"}},
		{"Lord Howe: an interval", "Australia/Lord_Howe", "*/15 * * * *", "2026-10-04 01:30:00 +1030",
			[]string{"10-04 01:45:00 +1030", "10-04 02:30:00 +1100", "10-04 02:45:00 +1100"}},
		{"Cairo: there is no midnight", "Africa/Cairo", "0 0 * * *", "2026-04-23 12:00:00 +0200",
			[]string{"04-24 01:00:00 +0300", "04-25 00:00:00 +0300"}},
		{"Apia: a whole day is skipped", "Pacific/Apia", "0 9 * * *", "2011-12-29 12:00:00 -1000",
			[]string{"12-31 00:00:00 +1400", "12-31 09:00:00 +1400"}},
	} {
		t.Run(c.name, func(t *testing.T) { fires(t, parse(t, c.expr, c.zone), c.after, c.want...) })
	}
}

func TestClocksGoBack(t *testing.T) {
	for _, c := range []struct {
		name, zone, expr, after string
		want                    []string
	}{
		{"New York: a repeated time fires at its first pass", "America/New_York", "30 1 * * *", "2026-10-31 12:00:00 -0400",
			[]string{"11-01 01:30:00 -0400", "11-02 01:30:00 -0500"}},
		{"New York: not again from within the second pass", "America/New_York", "30 1 * * *", "2026-11-01 01:10:00 -0500",
			[]string{"11-02 01:30:00 -0500"}},
		{"New York: the end of the repeated hour", "America/New_York", "0 2 * * *", "2026-11-01 01:10:00 -0400",
			[]string{"11-01 02:00:00 -0500", "11-02 02:00:00 -0500"}},
		{"New York: an interval goes through both passes", "America/New_York", "*/30 * * * *", "2026-11-01 00:45:00 -0400",
			[]string{"11-01 01:00:00 -0400", "11-01 01:30:00 -0400", "11-01 01:00:00 -0500", "11-01 01:30:00 -0500", "11-01 02:00:00 -0500"}},
		{"New York: every hour", "America/New_York", "0 * * * *", "2026-11-01 00:30:00 -0400",
			[]string{"11-01 01:00:00 -0400", "11-01 01:00:00 -0500", "11-01 02:00:00 -0500"}},
		{"Berlin: a repeated time", "Europe/Berlin", "30 2 * * *", "2026-10-24 12:00:00 +0200",
			[]string{"10-25 02:30:00 +0200", "10-26 02:30:00 +0100"}},
		{"Berlin: with seconds", "Europe/Berlin", "10,20 59 2 * * *", "2026-10-25 02:59:15 +0200",
			[]string{"10-25 02:59:20 +0200", "10-26 02:59:10 +0100"}},
		{"Berlin: an interval", "Europe/Berlin", "45 * * * *", "2026-10-25 02:00:00 +0200",
			[]string{"10-25 02:45:00 +0200", "10-25 02:45:00 +0100", "10-25 03:45:00 +0100"}},
		{"Lord Howe: half an hour is repeated", "Australia/Lord_Howe", "45 1 * * *", "2026-04-04 12:00:00 +1100",
			[]string{"04-05 01:45:00 +1100", "04-06 01:45:00 +1030"}},
		{"Lord Howe: an interval", "Australia/Lord_Howe", "*/15 * * * *", "2026-04-05 01:30:00 +1100",
			[]string{"04-05 01:45:00 +1100", "04-05 01:30:00 +1030", "04-05 01:45:00 +1030", "04-05 02:00:00 +1030"}},
		{"Cairo: midnight comes once", "Africa/Cairo", "0 0 * * *", "2026-10-29 12:00:00 +0300",
			[]string{"10-30 00:00:00 +0200", "10-31 00:00:00 +0200"}},
	} {
		t.Run(c.name, func(t *testing.T) { fires(t, parse(t, c.expr, c.zone), c.after, c.want...) })
	}
}

func TestCalendar(t *testing.T) {
	for _, c := range []struct{ expr, after, want string }{
		{"0 0 29 2 *", "2026-01-01", "2028-02-29 2032-02-29"},
		{"0 0 29 2 *", "2096-03-01", "2104-02-29"},              // 2100 is no leap year
		{"0 0 29 2 fri", "2026-02-20", "2026-02-27 2027-02-05"}, // either
		{"0 0 ? 2 tue#5", "2026-01-01", "2028-02-29 2056-02-29"},
		{"0 0 31 * *", "2026-03-31", "2026-05-31 2026-07-31 2026-08-31 2026-10-31"},
		{"0 0 L * *", "2026-01-31", "2026-02-28 2026-03-31 2026-04-30"},
		{"0 0 L 2 *", "2026-03-01", "2027-02-28 2028-02-29"},
		{"0 0 L-1 * *", "2026-02-01", "2026-02-27 2026-03-30"},
		{"0 0 LW * *", "2026-05-01", "2026-05-29 2026-06-30"},
		{"0 0 15W * *", "2026-08-01", "2026-08-14 2026-09-15 2026-10-15 2026-11-16"},
		{"0 0 1W * *", "2026-07-02", "2026-08-03 2026-09-01"}, // the 1st is a Saturday
		{"0 0 31W * *", "2026-04-01", "2026-05-29 2026-07-31"},
		{"0 0 * * 5L", "2026-05-01", "2026-05-29 2026-06-26"},
		{"0 0 * * mon#1,wed#3", "2026-05-01", "2026-05-04 2026-05-20 2026-06-01"},
		{"0 0 * * 7", "2026-05-01", "2026-05-03"},
		{"0 0 * * 5-7", "2026-05-04", "2026-05-08 2026-05-09 2026-05-10 2026-05-15"},
		{"0 0 * * 1/2", "2026-05-03", "2026-05-04 2026-05-06 2026-05-08 2026-05-11"},
		{"0 0 13 * 5", "2026-05-09", "2026-05-13 2026-05-15"}, // either
		{"0 0 13 * *", "2026-05-09", "2026-05-13 2026-06-13"},
		{"0 0 1 jan,JUL ?", "2026-05-09", "2026-07-01 2027-01-01"},
		{"@yearly", "2026-05-09", "2027-01-01"}, {"@annually", "2026-05-09", "2027-01-01"}, {"@monthly", "2026-05-09", "2026-06-01"},
		{"@weekly", "2026-05-09", "2026-05-10"}, {"@daily", "2026-05-09", "2026-05-10"}, {"@Midnight", "2026-05-09", "2026-05-10"},
	} {
		after, err := time.Parse(time.DateOnly, c.after)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Fields(c.want)
		var got []string
		for _, f := range parse(t, c.expr, "UTC").NextN(after, len(want)) {
			got = append(got, f.Format(time.DateOnly))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s after %s: got %s, want %s", c.expr, c.after, g, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		expr, after string
		want        []string
	}{
		{"* * * * *", "2026-12-31 23:59:30 +0000", []string{"01-01 00:00:00 +0000", "01-01 00:01:00 +0000"}},
		{"*/20 * * * * *", "2026-01-01 00:00:00 +0000", []string{"01-01 00:00:20 +0000", "01-01 00:00:40 +0000", "01-01 00:01:00 +0000"}},
		{"5/20 8-9 * * *", "2026-01-01 08:06:00 +0000", []string{"01-01 08:25:00 +0000", "01-01 08:45:00 +0000", "01-01 09:05:00 +0000"}},
		{"10-30/10 8 * * *", "2026-01-01 08:10:00 +0000", []string{"01-01 08:20:00 +0000", "01-01 08:30:00 +0000", "01-02 08:10:00 +0000"}},
		{"@hourly", "2026-01-01 08:10:00 +0000", []string{"01-01 09:00:00 +0000"}},
		{"@every 90m", "2026-01-01 00:10:00 +0000", []string{"01-01 01:30:00 +0000", "01-01 03:00:00 +0000"}},
		{"@every 7s", "1969-12-31 23:59:50 +0000", []string{"12-31 23:59:53 +0000", "01-01 00:00:00 +0000", "01-01 00:00:07 +0000"}},
	} {
		fires(t, parse(t, c.expr, "UTC"), c.after, c.want...)
	}
	t.Run("within a second", func(t *testing.T) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC)
		if got, _ := parse(t, "* * * * * *", "UTC").Next(at); !got.Equal(at.Truncate(time.Second).Add(time.Second)) {
			t.Errorf("after %v comes %v", at, got)
		}
	})
	t.Run("every counts from the anchor, through changes of clocks", func(t *testing.T) {
		s := parse(t, "@every 24h", "America/New_York")
		s.Anchor = time.Date(2026, 3, 7, 12, 0, 0, 0, zone(t, "America/New_York"))
		fires(t, s, "2026-03-07 12:00:00 -0500", "03-08 13:00:00 -0400", "03-09 13:00:00 -0400")
	})
	t.Run("the zero schedule never fires", func(t *testing.T) {
		if at, ok := (Schedule{}).Next(time.Now()); ok {
			t.Errorf("it fires at %v", at)
		}
	})
}

func TestRefused(t *testing.T) {
	for expr, says := range map[string]string{
		"":                        "0 fields",
		"* * * *":                 "4 fields",
		"* * * * * * *":           "7 fields",
		"60 * * * *":              "minute: 60 is not between 0 and 59",
		"* 24 * * *":              "hour: 24",
		"* * 0 * *":               "day-of-month: 0",
		"* * 32 * *":              "day-of-month: 32",
		"* * * 13 *":              "month: 13",
		"* * * foo *":             `month: "foo" is not a value`,
		"* * * * 8":               "day-of-week: 8",
		"* * * * mon#6":           "# and 1 to 5",
		"60 * * * * *":            "second: 60",
		"30-10 * * * *":           "runs backwards",
		"*/0 * * * *":             "is not a step",
		"*/90 * * * *":            "@every",
		"*/-1 * * * *":            "is not a step",
		"+5 * * * *":              "not a value",
		"1,,2 * * * *":            "not a value",
		"? * * * *":               "not a value",
		"* * L-31 * *":            "L-",
		"* * W * *":               "day-of-month",
		"* * * * L":               "5L",
		"0 0 30 2 *":              "never fires",
		"0 0 31 4,6,9,11 *":       "never fires",
		"0 0 31W 2 *":             "never fires",
		"@never":                  "none of",
		"@every":                  "none of",
		"@every 1ms":              "whole seconds",
		"@every 1.5s":             "whole seconds",
		"@every -1h":              "whole seconds",
		"@every x":                "not a duration",
		strings.Repeat("1,", 200): "longer than",
	} {
		s, err := Parse(expr, time.UTC)
		if err == nil {
			t.Errorf("%q was taken: %+v", expr, s)
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %q does not say %q", expr, err, says)
		}
	}
	for _, name := range []string{"Local", "Europe/Nowhere", "../etc/passwd", strings.Repeat("x", 100), "europe/berlin\n"} {
		if _, err := Zone(name); err == nil {
			t.Errorf("zone %q was taken", name)
		}
	}
	if loc, err := Zone(""); err != nil || loc != time.UTC {
		t.Errorf("no zone is %v, %v", loc, err)
	}
}

func BenchmarkNext(b *testing.B) {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, expr := range []string{"*/5 * * * *", "30 2 * * *", "0 0 29 2 *"} {
		s := parse(b, expr, "America/New_York")
		b.Run(fmt.Sprintf("%q", expr), func(b *testing.B) {
			for b.Loop() {
				s.Next(at)
			}
		})
	}
}
