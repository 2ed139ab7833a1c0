package tc

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// BitsPerSecond is a rate as it is on the wire at layer 2, which is what HTB counts. Its text is an integer or decimal number and a
// decimal unit: "50Mbit". The unit is never guessed, and "50Mbps" is refused: in tc that is fifty megabytes a second.
type BitsPerSecond uint64

// Bytes is a size: "256KiB" (1024) or "256kB" (1000).
type Bytes uint64

// Duration is a time.Duration whose text is the shortest exact one: "10ms", "1h30m".
type Duration time.Duration

// The units, for policies that are built in Go: 50 * tc.Mbit.
const (
	Bit  BitsPerSecond = 1
	Kbit               = 1000 * Bit
	Mbit               = 1000 * Kbit
	Gbit               = 1000 * Mbit
	Tbit               = 1000 * Gbit

	Byte Bytes = 1
	KiB        = 1024 * Byte
	MiB        = 1024 * KiB
	GiB        = 1024 * MiB
	TiB        = 1024 * GiB
	KB         = 1000 * Byte
	MB         = 1000 * KB
	GB         = 1000 * MB
	TB         = 1000 * GB

	Microsecond = Duration(time.Microsecond)
	Millisecond = Duration(time.Millisecond)
	Second      = Duration(time.Second)
)

// unit is one way to write a multiple.
type unit struct {
	name  string
	scale uint64
}

var (
	// Largest first: the first that divides a value exactly writes it.
	rateUnits = []unit{{"Tbit", uint64(Tbit)}, {"Gbit", uint64(Gbit)}, {"Mbit", uint64(Mbit)}, {"kbit", uint64(Kbit)}, {"bit", 1}}
	sizeUnits = []unit{
		{"TiB", uint64(TiB)}, {"GiB", uint64(GiB)}, {"MiB", uint64(MiB)}, {"KiB", uint64(KiB)},
		{"TB", uint64(TB)}, {"GB", uint64(GB)}, {"MB", uint64(MB)}, {"kB", uint64(KB)}, {"B", 1},
	}
)

// ParseRate reads "50Mbit", "1.5Gbit", "64kbit" or "64Kbit".
func ParseRate(s string) (BitsPerSecond, error) {
	number, name := split(s)
	if name == "Kbit" { // as tc writes it
		name = "kbit"
	}
	v, err := scaled(number, name, rateUnits)
	if err != nil {
		return 0, fmt.Errorf("rate %q %w; %s", s, err, rateRemedy(number, name))
	}
	return BitsPerSecond(v), nil
}

// rateRemedy says what to write instead, for the ways in which rates are mostly written wrong.
func rateRemedy(number, name string) string {
	if number == "" {
		number = "50"
	}
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return fmt.Sprintf("write the unit: %skbit, %sMbit or %sGbit", number, number, number)
	case strings.HasSuffix(lower, "bps"), strings.HasSuffix(lower, "b/s"):
		prefix := strings.ToUpper(lower[:len(lower)-3])
		if prefix == "K" {
			prefix = "k"
		}
		if len(prefix) > 1 || !strings.Contains("kMGT", prefix) {
			prefix = "M"
		}
		return fmt.Sprintf("in tc, bps means bytes per second; write %s%sbit for bits, or eight times as much for bytes", number, prefix)
	case strings.HasSuffix(lower, "ibit"):
		return "rates are decimal: write kbit, Mbit or Gbit"
	}
	return "write a number and bit, kbit, Mbit, Gbit or Tbit, such as 50Mbit"
}

// ParseBytes reads "256KiB", "1.5MiB", "64kB" or "1500B".
func ParseBytes(s string) (Bytes, error) {
	number, name := split(s)
	v, err := scaled(number, name, sizeUnits)
	if err != nil {
		remedy := "write a number and B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, such as 256KiB"
		if strings.HasSuffix(name, "bit") || strings.HasSuffix(name, "b") {
			remedy = "a size is counted in bytes; " + remedy
		}
		return 0, fmt.Errorf("size %q %w; %s", s, err, remedy)
	}
	return Bytes(v), nil
}

// ParseDuration reads a duration that is not negative as Go writes it: "10ms", "1h30m". A number needs its unit, 0 too.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || s == "" || strings.ContainsAny(s[:1], "+-") || !letter(s[len(s)-1]) {
		return 0, fmt.Errorf("duration %q is not one; write a number and us, ms, s, m or h, such as 10ms", s)
	}
	return Duration(d), nil
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' }

// split parts the leading number from the unit.
func split(s string) (number, name string) {
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

// scaled is number × the unit's scale, exactly: what is lost to rounding or overflow is an error.
func scaled(number, name string, units []unit) (uint64, error) {
	if number == "" {
		return 0, fmt.Errorf("has no number")
	}
	if name == "" {
		return 0, fmt.Errorf("has no unit")
	}
	scale := uint64(0)
	for _, u := range units {
		if u.name == name {
			scale = u.scale
		}
	}
	if scale == 0 {
		return 0, fmt.Errorf("has the unknown unit %q", name)
	}
	whole, fraction, dotted := strings.Cut(number, ".")
	if whole == "" || dotted && (fraction == "" || len(fraction) > 12) {
		return 0, fmt.Errorf("has no proper number")
	}
	v, err := strconv.ParseUint(whole, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("is too large")
	}
	high, v := bits.Mul64(v, scale)
	if high != 0 {
		return 0, fmt.Errorf("is too large")
	}
	if fraction != "" {
		f, err := strconv.ParseUint(fraction, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("has no proper number")
		}
		divisor := uint64(math.Pow10(len(fraction)))
		high, low := bits.Mul64(f, scale)
		q, rest := bits.Div64(high, low, divisor) // f < divisor, so high < divisor
		if rest != 0 {
			return 0, fmt.Errorf("is not a whole number of the smallest unit")
		}
		sum, carry := bits.Add64(v, q, 0)
		if carry != 0 {
			return 0, fmt.Errorf("is too large")
		}
		v = sum
	}
	return v, nil
}

// written is v in the largest unit that divides it.
func written(v uint64, units []unit) string {
	for _, u := range units {
		if v != 0 && v%u.scale == 0 {
			return strconv.FormatUint(v/u.scale, 10) + u.name
		}
	}
	return "0" + units[len(units)-1].name
}

// String is exact: ParseRate reads the same value back.
func (r BitsPerSecond) String() string { return written(uint64(r), rateUnits) }

// String is exact: ParseBytes reads the same value back.
func (b Bytes) String() string { return written(uint64(b), sizeUnits) }

// String is exact and leaves zero parts out: "1h" rather than "1h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return strings.ReplaceAll(s, "µs", "us")
}

// MarshalText is String.
func (r BitsPerSecond) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalText is String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseRate.
func (r *BitsPerSecond) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// UnmarshalText is ParseBytes.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}

// mulDiv is a × b / c rounded down, without overflow in between; what does not fit is the greatest number.
func mulDiv(a, b, c uint64) uint64 {
	high, low := bits.Mul64(a, b)
	if high >= c {
		return math.MaxUint64
	}
	q, _ := bits.Div64(high, low, c)
	return q
}
