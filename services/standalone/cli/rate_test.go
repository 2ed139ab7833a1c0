package cli

import (
	"fmt"
	"testing"
)

func FuzzRate(f *testing.F) {
	for _, s := range []string{"10/1h", "ten/1h", "1/", "/1m", "1/2/3s", "-1/1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRate(text)
		if err != nil {
			return
		}
		if again, err := parseRate(fmt.Sprintf("%d/%s", r.Count, r.Per.D())); err != nil || again != r {
			t.Errorf("%q became %+v, and that %+v (%v)", text, r, again, err)
		}
	})
}
