package rpc

import (
	"net/http"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
)

// etag is the strong entity tag of a revision (RFC 9110, 8.8.3).
func etag(rev uint64) string { return `"` + strconv.FormatUint(rev, 10) + `"` }

// parseIfMatch returns the revision that If-Match asks for; 0 for "*", any revision. A tag that is none of ours names no revision there ever was: conflict,
// which the edge answers with 412.
func parseIfMatch(values []string) (uint64, error) {
	value := strings.TrimSpace(values[0])
	if len(values) == 1 && value == "*" {
		return 0, nil
	}
	tag, quoted := strings.CutPrefix(value, `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	switch {
	case len(values) > 1 || strings.Contains(tag, `"`):
		return 0, invalid("/if_match", "must be one entity tag (header If-Match)")
	case strings.HasPrefix(value, "W/"):
		return 0, invalid("/if_match", "must be a strong entity tag, not W/ (header If-Match)")
	case !quoted || !closed:
		return 0, invalid("/if_match", `must be an entity tag such as "123", with its quotes, or * (header If-Match)`)
	}
	rev, err := strconv.ParseUint(tag, 10, 64)
	if err != nil || rev == 0 || etag(rev) != value {
		return 0, api.Errorf(api.CodeConflict, "nothing ever had the entity tag %q; read it again", short(tag))
	}
	return rev, nil
}

// matches reports whether If-None-Match names the entity tag of rev, by the weak comparison that RFC 9110 asks for.
func matches(h http.Header, rev uint64) bool {
	for _, value := range h.Values("If-None-Match") {
		for _, tag := range strings.Split(value, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == etag(rev) {
				return true
			}
		}
	}
	return false
}
