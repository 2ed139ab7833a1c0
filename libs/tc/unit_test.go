package tc_test

import (
	"strings"
	"testing"

	"agentyard.dev/libs/tc"
)

func TestParseRate(t *testing.T) {
	for _, tt := range []struct {
		text string
		want tc.BitsPerSecond
		err  string // a part of what is said; empty: fine
	}{
		{"50Mbit", 50 * tc.Mbit, ""},
		{"1.5Gbit", 1500 * tc.Mbit, ""},
		{"64kbit", 64_000, ""},
		{"64Kbit", 64_000, ""},
		{"0bit", 0, ""},
		{"18446744073709551615bit", 1<<64 - 1, ""},
		{"50Mbps", 0, "write 50Mbit for bits, or eight times"},
		{"50MBps", 0, "write 50Mbit for bits"},
		{"50kbps", 0, "write 50kbit for bits"},
		{"50bps", 0, "write 50bit for bits"},
		{"50", 0, "write the unit: 50kbit, 50Mbit or 50Gbit"},
		{"50M", 0, "unknown unit"},
		{"50Mib", 0, "unknown unit"},
		{"50Mibit", 0, "rates are decimal"},
		{"50mbit", 0, "unknown unit"},
		{"50 Mbit", 0, "unknown unit"},
		{" 50Mbit", 0, "no number"},
		{"-5Mbit", 0, "no number"},
		{"+5Mbit", 0, "no number"},
		{"1e3Mbit", 0, "unknown unit"},
		{"1.2.3Mbit", 0, "no proper number"},
		{".5Mbit", 0, "no proper number"},
		{"5.Mbit", 0, "no proper number"},
		{"0.5bit", 0, "not a whole number"},
		{"1.0000001Mbit", 0, "not a whole number"},
		{"18446744073709551616bit", 0, "too large"},
		{"18446745Tbit", 0, "too large"},
		{"", 0, "no number"},
		{"Mbit", 0, "no number"},
	} {
		got, err := tc.ParseRate(tt.text)
		check(t, tt.text, tt.err, err)
		if err == nil && got != tt.want {
			t.Errorf("ParseRate(%q) = %d, want %d", tt.text, got, tt.want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for _, tt := range []struct {
		text string
		want tc.Bytes
		err  string
	}{
		{"256KiB", 256 << 10, ""}, {"1.5MiB", 3 << 19, ""}, {"1500B", 1500, ""}, {"64kB", 64_000, ""}, {"1GB", 1e9, ""},
		{"256K", 0, "unknown unit"}, {"256KB", 0, "unknown unit"}, {"256kbit", 0, "counted in bytes"}, {"256", 0, "no unit"}, {"0.1KiB", 0, "whole number"},
	} {
		got, err := tc.ParseBytes(tt.text)
		check(t, tt.text, tt.err, err)
		if err == nil && got != tt.want {
			t.Errorf("ParseBytes(%q) = %d, want %d", tt.text, got, tt.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		text string
		want tc.Duration
		err  string
	}{
		{"10ms", 10 * tc.Millisecond, ""}, {"1.5s", 1500 * tc.Millisecond, ""}, {"250us", 250 * tc.Microsecond, ""}, {"1h30m", 5400 * tc.Second, ""},
		{"0", 0, "is not one"}, {"10", 0, "is not one"}, {"-1s", 0, "is not one"}, {"+1s", 0, "is not one"}, {"", 0, "is not one"}, {"10 ms", 0, "is not one"},
	} {
		got, err := tc.ParseDuration(tt.text)
		check(t, tt.text, tt.err, err)
		if err == nil && got != tt.want {
			t.Errorf("ParseDuration(%q) = %d, want %d", tt.text, got, tt.want)
		}
	}
}

func check(t *testing.T, text, want string, err error) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%q: %v", text, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%q: error %v, want one that says %q", text, err, want)
	}
}

// FuzzUnits holds that what is written is read back as it was, and that whatever is read can be written.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"50Mbit", "1.5Gbit", "256KiB", "10ms", "1h0m30s", "8000-8080", "443", "08:30", "50Mbps", "0.000000000001Tbit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := tc.ParseRate(s); err == nil {
			if back, err := tc.ParseRate(v.String()); err != nil || back != v {
				t.Errorf("rate %q is %d, written %s, read %d, %v", s, v, v, back, err)
			}
		} else if !strings.Contains(err.Error(), "; ") {
			t.Errorf("rate %q: %v has no remedy", s, err)
		}
		if v, err := tc.ParseBytes(s); err == nil {
			if back, err := tc.ParseBytes(v.String()); err != nil || back != v {
				t.Errorf("size %q is %d, written %s, read %d, %v", s, v, v, back, err)
			}
		}
		if v, err := tc.ParseDuration(s); err == nil {
			if back, err := tc.ParseDuration(v.String()); err != nil || back != v {
				t.Errorf("duration %q is %d, written %s, read %d, %v", s, v, v, back, err)
			}
		}
		if v, err := tc.ParsePorts(s); err == nil {
			if back, err := tc.ParsePorts(v.String()); err != nil || back != v || v.IsZero() {
				t.Errorf("ports %q are %v, read %v, %v", s, v, back, err)
			}
		}
		var c, back tc.ClockTime
		if c.UnmarshalText([]byte(s)) == nil && (back.UnmarshalText([]byte(c.String())) != nil || back != c) {
			t.Errorf("time %q is %d, read %d", s, c, back)
		}
	})
}
