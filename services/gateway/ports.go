package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
)

// servePort is ANY /api/v1/sessions/{id}/ports/{port}/{path…}: a web server that the session's agent started.
//
// Its pages stand on the gateway's own address, so each answer is sandboxed into an opaque origin: scripts run, but read neither the
// gateway's cookies nor its API. What such a page asks of its own server carries no cookie either; a page that needs that belongs
// on the preview address (preview.go), where it has an origin of its own.
func (g *Gateway) servePort(w *recorder, r *http.Request, id, rest string) {
	text, tail := strings.TrimPrefix(rest, "/"), ""
	if i := strings.IndexByte(text, '/'); i >= 0 {
		text, tail = text[:i], text[i:]
	}
	g.forward(w, r, id, g.authenticatePort, func(t *target) error {
		port, err := parsePort(text)
		if err != nil {
			return err
		}
		t.prefix = "/api/v1/sessions/" + id + "/ports/" + port
		t.path, err = portPath(port, tail)
		return err
	})
}

// portPath returns the runner's path for tail on port.
func portPath(port, tail string) (string, error) {
	path, err := cleanPath(tail)
	if err != nil {
		return "", err
	}
	return "/_yard/ports/" + port + path, nil
}

// parsePort accepts 1 to 65535 in its plain form only.
func parsePort(s string) (string, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return "", api.Invalid("/port", "must be a number from 1 to 65535")
	}
	return s, nil
}
