package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"agentyard.dev/libs/api"
)

// endpoint is where a session's runner serves HTTP.
type endpoint struct {
	network string // "unix" or "tcp"; empty: nowhere
	addr    string
	key     string // what the runner demands in api.RunnerKeyHeader
}

// parseEndpoint reads "unix:/path" or "http://host:port". Anything else is nowhere.
func parseEndpoint(s, key string) endpoint {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && strings.HasPrefix(path, "/") {
		return endpoint{network: "unix", addr: path, key: key}
	}
	if u, err := url.Parse(s); err == nil && u.Scheme == "http" && u.Port() != "" {
		return endpoint{network: "tcp", addr: u.Host, key: key}
	}
	return endpoint{}
}

// reach returns the session's endpoint, or why there is none now.
func (r *row) reach() (endpoint, error) {
	switch r.rec.State {
	case api.StateRunning:
		if r.to.network != "" {
			return r.to, nil
		}
	case api.StateTerminated, api.StateFailed, api.StateStopping:
		return endpoint{}, api.Errorf(api.CodeConflict, "the session is %s; its agent cannot be reached any more", r.rec.State)
	case api.StatePaused, api.StatePausing:
		return endpoint{}, api.Errorf(api.CodeConflict, "the session is %s; who may write to it can resume it", r.rec.State)
	}
	return endpoint{}, &api.Error{Code: api.CodeUnavailable, Detail: "the session is " + string(r.rec.State) + "; try again when it runs", RetryAfter: retrySoon}
}

var errPath = api.Errorf(api.CodeInvalid, "the path is not acceptable: it must not hold traversal, control characters or backslashes, plain or encoded")

// cleanPath returns the escaped form of rest, the part of a request's path that goes on to a session, or errPath. It refuses
// whatever some server may read as traversal, however often it was encoded, and the runner's own names (/_yard).
func cleanPath(rest string) (string, error) {
	if rest == "" {
		return "/", nil
	}
	plain := rest
	for round := 0; ; round++ {
		if err := checkPath(plain); err != nil {
			return "", err
		}
		if !strings.Contains(plain, "%") {
			return rest, nil
		}
		next, err := url.PathUnescape(plain)
		if err != nil {
			if round == 0 {
				return "", errPath
			}
			return rest, nil // a plain % inside, which nobody decodes further
		}
		if round == 4 {
			return "", errPath // whoever encodes five times means harm
		}
		plain = next
	}
}

func checkPath(p string) error {
	if p[0] != '/' {
		return errPath
	}
	for i := range len(p) {
		if c := p[i]; c < 0x20 || c == 0x7f || c == '\\' {
			return errPath
		}
	}
	if len(p) >= 6 && strings.EqualFold(p[:6], "/_yard") {
		return errReserved
	}
	if !strings.Contains(p, "/.") && !strings.Contains(p, "//") {
		return nil
	}
	first := true
	for seg := range strings.SplitSeq(p[1:], "/") {
		name, _, _ := strings.Cut(seg, ";")
		if name == "." || name == ".." {
			return errPath
		}
		if first && len(seg) > 0 {
			if strings.HasPrefix(strings.ToLower(seg), "_yard") {
				return errReserved
			}
			first = false
		}
	}
	return nil
}

var errReserved = api.Errorf(api.CodeNotFound, "no such path")

// splitSession takes apart /api/v1/sessions/{id}/{what}/{rest…} without decoding, and reports whether path has that form.
// rest begins with a slash or is empty.
func splitSession(escaped string) (id, what, rest string, ok bool) {
	tail, ok := strings.CutPrefix(escaped, "/api/v1/sessions/")
	if !ok {
		return "", "", "", false
	}
	id, tail, ok = strings.Cut(tail, "/")
	if !ok {
		return "", "", "", false
	}
	what = tail
	if i := strings.IndexByte(tail, '/'); i >= 0 {
		what, rest = tail[:i], tail[i:]
	}
	return id, what, rest, true
}

// isUpgrade reports whether r asks for another protocol.
func isUpgrade(r *http.Request) bool {
	return len(r.Header["Upgrade"]) > 0 && headerHas(r.Header["Connection"], "upgrade")
}

func headerHas(values []string, token string) bool {
	for _, v := range values {
		for item := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}
