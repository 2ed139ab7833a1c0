// Package authfile knows the files in which agents keep their own sign-in fresh: where they are, how fresh one says it is, and what two
// versions of one are together.
//
// Nothing here interprets a token. A file is JSON with moments in it, or it is opaque.
package authfile

import (
	"bytes"
	"encoding/json"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxFile bounds one file.
const MaxFile = 64 << 10

// maxDepth is how far into a file moments are looked for.
const maxDepth = 8

// Files returns where agents of a kind keep their sign-in, below the home and slash-separated; none for a kind that keeps none
// in a file.
func Files(kind string) []string {
	switch kind {
	case "claude":
		return []string{".claude/.credentials.json"}
	case "codex":
		return []string{".codex/auth.json"}
	case "opencode":
		return []string{".local/share/opencode/auth.json"}
	case "gemini":
		return []string{".gemini/oauth_creds.json"}
	}
	return nil
}

// Whole reports whether data may be all of the file called name: one that an agent is just writing is not. Only of JSON
// can that be told.
func Whole(name string, data []byte) bool {
	if len(data) == 0 || len(data) > MaxFile {
		return false
	}
	return path.Ext(name) != ".json" || json.Valid(data)
}

// The names of members that hold moments, in lower case and without '_' and '-'. That of a refresh says more than that of an expiry.
var (
	refreshNames = []string{"lastrefresh", "lastrefreshed", "refreshedat", "updatedat", "lastupdated"}
	expiryNames  = []string{"expiresat", "expires", "expiry", "expirydate", "expiration", "expireson"}
)

// Stamp returns the newest moment that a file says it was refreshed at or, if it says nothing of that, expires at; zero when it says neither.
// Two versions of one file are compared by it.
func Stamp(data []byte) time.Time { return stamp(data, 0) }

func stamp(data json.RawMessage, depth int) time.Time {
	members := object(data)
	if members == nil || depth > maxDepth {
		return time.Time{}
	}
	newest := direct(members)
	for _, v := range members {
		if at := stamp(v, depth+1); at.After(newest) {
			newest = at
		}
	}
	return newest
}

// direct is Stamp of an object's own members.
func direct(members map[string]json.RawMessage) time.Time {
	for _, names := range [][]string{refreshNames, expiryNames} {
		var newest time.Time
		for name, v := range members {
			plain := strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
			if at := moment(v); slices.Contains(names, plain) && at.After(newest) {
				newest = at
			}
		}
		if !newest.IsZero() {
			return newest
		}
	}
	return time.Time{}
}

// moment reads RFC 3339, or a Unix time in seconds or milliseconds, as a number or text.
func moment(v json.RawMessage) time.Time {
	text := string(v)
	if len(v) > 0 && v[0] == '"' {
		if json.Unmarshal(v, &text) != nil {
			return time.Time{}
		}
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return at.UTC()
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	const earliest, milliseconds, latest = 1e9, 1e11, 1e14 // seconds of 2001; beyond 1e11 they are milliseconds, of up to the year 5138
	if err != nil || math.IsNaN(n) || n < earliest || n > latest {
		return time.Time{}
	}
	if n >= milliseconds {
		return time.UnixMilli(int64(n)).UTC()
	}
	return time.Unix(int64(n), 0).UTC()
}

func object(data json.RawMessage) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil {
		return nil
	}
	return members
}

// Merge returns what a stored file and one that was made from an older version of it are together. Of each sign-in in them, the one with
// the newer moment stays; what only one of them has stays too. So a refresh is never lost to another session's older
// one. Where neither has a moment, that which was sent is the later.
func Merge(stored, sent []byte) []byte { return merge(stored, sent, 0) }

func merge(stored, sent json.RawMessage, depth int) json.RawMessage {
	if bytes.Equal(stored, sent) {
		return stored
	}
	a, b := object(stored), object(sent)
	if a == nil || b == nil || depth > maxDepth {
		return newer(stored, sent)
	}
	if at, bt := direct(a), direct(b); !at.IsZero() || !bt.IsZero() {
		if bt.After(at) {
			return sent
		}
		return stored
	}
	for name, v := range b {
		if old, both := a[name]; both {
			v = merge(old, v, depth+1)
		}
		a[name] = v
	}
	out, err := json.Marshal(a)
	if err != nil {
		return stored // cannot happen: its parts were JSON
	}
	return out
}

// newer returns which of two has the newer moment inside; that which was sent, when neither has one.
func newer(stored, sent json.RawMessage) json.RawMessage {
	at, bt := Stamp(stored), Stamp(sent)
	if at.After(bt) || at.Equal(bt) && !at.IsZero() {
		return stored
	}
	return sent
}

// Same reports whether two versions say the same, however they are written.
func Same(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y bytes.Buffer
	if json.Compact(&x, a) != nil || json.Compact(&y, b) != nil {
		return false
	}
	return bytes.Equal(x.Bytes(), y.Bytes())
}
