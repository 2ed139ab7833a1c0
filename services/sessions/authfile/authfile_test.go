package authfile_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"agentyard.dev/services/sessions/authfile"
)

func TestStamp(t *testing.T) {
	for data, want := range map[string]string{
		`{"claudeAiOauth":{"accessToken":"a","expiresAt":1767225600000,"scopes":["x"]}}`:        "2026-01-01T00:00:00Z",
		`{"tokens":{"id_token":"t"},"last_refresh":"2026-02-03T04:05:06.5Z","expires":1}`:       "2026-02-03T04:05:06.5Z",
		`{"a":{"type":"oauth","expires":1767225600},"b":{"type":"oauth","expires":1767225601}}`: "2026-01-01T00:00:01Z",
		`{"expiry_date":"1767225600000"}`: "2026-01-01T00:00:00Z",
		`{"type":"api","key":"k"}`:        "",
		`{"expires":3600}`:                "", // a duration
		`{"expires":1e300}`:               "",
		`{"last_refresh":"yesterday"}`:    "",
		`[1,2]`:                           "", `no JSON`: "", ``: "",
	} {
		var at time.Time
		if want != "" {
			at, _ = time.Parse(time.RFC3339Nano, want)
		}
		if got := authfile.Stamp([]byte(data)); !got.Equal(at) {
			t.Errorf("%s: %s, want %s", data, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct{ stored, sent, want string }{
		"the newer sign-in stays, whoever sent it": {
			`{"o":{"t":"old","expiresAt":1767225600000}}`, `{"o":{"t":"new","expiresAt":1767225700000}}`, `{"o":{"t":"new","expiresAt":1767225700000}}`,
		},
		"an older one erases nothing": {
			`{"o":{"t":"new","expiresAt":1767225700000}}`, `{"o":{"t":"old","expiresAt":1767225600000}}`, `{"o":{"t":"new","expiresAt":1767225700000}}`,
		},
		"two sessions that refreshed different sign-ins both keep theirs": {
			`{"a":{"t":"a2","expires":1767225700},"b":{"t":"b1","expires":1767225600}}`,
			`{"a":{"t":"a1","expires":1767225600},"b":{"t":"b2","expires":1767225700}}`,
			`{"a":{"t":"a2","expires":1767225700},"b":{"t":"b2","expires":1767225700}}`,
		},
		"nested ones too, and what only one has": {
			`{"m":{"x":{"t":"x2","expiresAt":1767225700000}},"only":1}`,
			`{"m":{"x":{"t":"x1","expiresAt":1767225600000},"y":{"t":"y1","expiresAt":1767225600000}}}`,
			`{"m":{"x":{"t":"x2","expiresAt":1767225700000},"y":{"t":"y1","expiresAt":1767225600000}},"only":1}`,
		},
		"a file with a refresh of its own is one sign-in": {
			`{"tokens":{"a":"new"},"last_refresh":"2026-02-03T00:00:00Z"}`, `{"tokens":{"b":"old"},"last_refresh":"2026-02-02T00:00:00Z"}`,
			`{"tokens":{"a":"new"},"last_refresh":"2026-02-03T00:00:00Z"}`,
		},
		"without moments the later stays": {`token 1`, `token 2`, `token 2`},
		"with equal moments the stored":   {`{"t":1,"expires":1767225600}`, `{"t":2,"expires":1767225600}`, `{"t":1,"expires":1767225600}`},
	} {
		if got := string(authfile.Merge([]byte(c.stored), []byte(c.sent))); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestWhole(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       bool
	}{
		{"auth.json", `{"a":1}`, true}, {"auth.json", `{"a":`, false}, {"auth.json", "", false}, {"token", "abc", true},
		{"token", strings.Repeat("x", authfile.MaxFile+1), false},
	} {
		if got := authfile.Whole(c.name, []byte(c.data)); got != c.want {
			t.Errorf("%s %.10q: %v", c.name, c.data, got)
		}
	}
}

// FuzzMerge: a merge is never older than either, is JSON if both were, and merging again changes nothing.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a":{"expires":1767225600}}`), []byte(`{"a":{"expires":1767225700},"b":{}}`))
	f.Add([]byte(`{"last_refresh":"2026-02-03T00:00:00Z"}`), []byte(`x`))
	f.Fuzz(func(t *testing.T, stored, sent []byte) {
		got := authfile.Merge(stored, sent)
		if json.Valid(stored) && json.Valid(sent) && !json.Valid(got) {
			t.Errorf("%s and %s became %s", stored, sent, got)
		}
		if again := authfile.Merge(got, got); !authfile.Same(again, got) {
			t.Errorf("%s became %s", got, again)
		}
	})
}
