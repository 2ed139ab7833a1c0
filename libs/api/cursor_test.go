package api_test

import (
	"testing"

	"agentyard.dev/libs/api"
)

// TestCursorText: clients hold cursors that an earlier release gave out.
func TestCursorText(t *testing.T) {
	for _, c := range []struct {
		kind     byte
		position uint64
		want     string
	}{{'s', 1, "AXMB"}, {'t', 300, "AXSsAg"}, {'h', 1<<64 - 1, "AWj___________8B"}} {
		if got := api.EncodeCursor(c.kind, c.position); got != c.want {
			t.Errorf("%c %d is %q, not %q", c.kind, c.position, got, c.want)
		}
	}
}

func FuzzCursor(f *testing.F) {
	for _, kind := range []byte{'s', 'h', 'm', 'p'} {
		for _, n := range []uint64{0, 1, 127, 128, 1 << 40, 1<<64 - 1} {
			c := api.EncodeCursor(kind, n)
			if got, err := api.DecodeCursor(kind, c); err != nil || got != n {
				f.Fatalf("%q: %d, %v", c, got, err)
			}
			if _, err := api.DecodeCursor(kind^1, c); api.CodeOf(err) != api.CodeInvalid {
				f.Fatalf("%q is taken for another list's", c)
			}
			f.Add(c)
		}
	}
	f.Add("AXMB=")
	f.Add("AXOAAQ")
	f.Fuzz(func(t *testing.T, c string) {
		n, err := api.DecodeCursor('s', c)
		switch {
		case c == "" && n == 0 && err == nil:
		case err != nil && api.CodeOf(err) != api.CodeInvalid:
			t.Errorf("%q: %v", c, err)
		case err == nil && api.EncodeCursor('s', n) != c:
			t.Errorf("%q and %q are the same position", c, api.EncodeCursor('s', n))
		}
	})
}
