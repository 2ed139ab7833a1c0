package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestSign(t *testing.T) {
	body, at := []byte(`{"type":"ping"}`), time.Unix(1_764_000_000, 0)
	signed := func(value string) http.Header { return http.Header{SignatureHeader: {value}} }

	t.Run("is what its documentation says", func(t *testing.T) {
		h := hmac.New(sha256.New, []byte("whsec_one"))
		h.Write([]byte(`1764000000.{"type":"ping"}`))
		if got, want := Sign(body, at, "whsec_one"), "t=1764000000,v1="+hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("verifies", func(t *testing.T) {
		both := Sign(body, at, "new", "old")
		for name, c := range map[string]struct {
			header  string
			body    string
			secrets []string
			now     time.Time
			want    error
		}{
			"the only secret":                {Sign(body, at, "new"), string(body), []string{"new"}, at, nil},
			"the old one of two":             {both, string(body), []string{"old"}, at, nil},
			"a receiver that knows both":     {Sign(body, at, "old"), string(body), []string{"new", "old"}, at, nil},
			"at the end of the tolerance":    {both, string(body), []string{"new"}, at.Add(5 * time.Minute), nil},
			"after it":                       {both, string(body), []string{"new"}, at.Add(5*time.Minute + time.Second), ErrTooOld},
			"from the future":                {both, string(body), []string{"new"}, at.Add(-6 * time.Minute), ErrTooOld},
			"another body":                   {both, string(body) + " ", []string{"new"}, at, ErrSignature},
			"another secret":                 {both, string(body), []string{"other"}, at, ErrSignature},
			"no secret":                      {both, string(body), nil, at, ErrSignature},
			"another time":                   {strings.Replace(both, "t=1764000000", "t=1764000001", 1), string(body), []string{"new"}, at, ErrSignature},
			"no time":                        {both[len("t=1764000000,"):], string(body), []string{"new"}, at, ErrSignature},
			"no signature":                   {"t=1764000000", string(body), []string{"new"}, at, ErrSignature},
			"an empty signature":             {"t=1764000000,v1=", string(body), []string{"new"}, at, ErrSignature},
			"no header":                      {"", string(body), []string{"new"}, at, ErrSignature},
			"a good one behind unknown ones": {"t=1764000000,v0=00,v2=11," + strings.TrimPrefix(both, "t=1764000000,"), string(body), []string{"new"}, at, nil},
		} {
			if err := Verify(signed(c.header), []byte(c.body), c.secrets, c.now, 5*time.Minute); err != c.want { //nolint:errorlint // the very values
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
	})
	t.Run("a secret is 256 random bits", func(t *testing.T) {
		if a, b := NewSecret(), NewSecret(); a == b || len(a) != len(secretPrefix)+43 {
			t.Errorf("%s and %s", a, b)
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add("t=1,v1=00", "x")
	f.Add(Sign([]byte("x"), time.Unix(1, 0), "k"), "x")
	f.Fuzz(func(t *testing.T, header, body string) {
		err := Verify(http.Header{SignatureHeader: {header}}, []byte(body), []string{"the receiver's secret"}, time.Unix(1, 0), time.Hour)
		if err == nil {
			t.Errorf("%q is a signature of %q", header, body)
		}
	})
}
