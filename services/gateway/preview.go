package gateway

import (
	"net/http"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// The preview address serves what sessions' web servers say, and nothing else, each session and port under a host name of its own,
// "{port}-{session}.<any domain>", such as 3000-sabc….localhost:8081. So each has an origin of its own: its pages use their storage and call
// their server as on a developer's machine, and reach neither the gateway nor one another.
//
// A browser enters with ?ticket= (POST /api/v1/tickets), which is exchanged for a cookie of that one host name. The cookie holds
// a short-lived access token narrowed to sessions; the session's server never sees it.

const previewCookie = "agentyard_preview"

// previewLife bounds the cookie of a caller whose token's life is not known here.
const previewLife = 5 * time.Minute

func (g *Gateway) servePreview(rw http.ResponseWriter, r *http.Request) {
	g.observed(rw, r, func(w *recorder, r *http.Request) {
		w.class = routePorts
		if err := g.allowAddress(r.Context(), g.remoteIP(r)); err != nil {
			fail(w, r, err)
			return
		}
		port, id, err := parsePreviewHost(r.Host)
		if err != nil {
			fail(w, r, err)
			return
		}
		if r.URL.Query().Has("ticket") {
			g.enterPreview(w, r, id)
			return
		}
		g.forward(w, r, id, g.authenticatePreview, func(t *target) error {
			path, err := portPath(port, r.URL.EscapedPath())
			t.path, t.ownOrigin = path, true
			return err
		})
	})
}

// parsePreviewHost reads "{port}-{session}.<domain>".
func parsePreviewHost(host string) (port, id string, err error) {
	label, domain, _ := strings.Cut(hostname(host), ".")
	port, id, _ = strings.Cut(label, "-")
	if domain == "" || !api.ValidID(api.KindSession, id) {
		return "", "", api.Errorf(api.CodeNotFound, "a preview's host name is <port>-<session>.<domain>")
	}
	port, err = parsePort(port)
	return port, id, err
}

// enterPreview exchanges a ticket for the preview's cookie and takes the ticket out of the address.
func (g *Gateway) enterPreview(w *recorder, r *http.Request, id string) {
	if r.Method != http.MethodGet {
		failStatus(w, r, http.StatusMethodNotAllowed, "a ticket enters a preview with GET")
		return
	}
	c, err := g.authenticateStream(r)
	if err == nil {
		_, err = g.table.find(c.Principal, id, api.SessionRead)
	}
	if err != nil {
		g.chargeFailure(r.Context(), g.remoteIP(r), err)
		fail(w, r, err)
		return
	}
	w.caller = c
	raw, life := c.raw, previewLife
	if c.raw != c.credential {
		var scopes []api.Permission
		for _, p := range []api.Permission{api.SessionRead, api.SessionWrite, api.SessionRead.Any(), api.SessionWrite.Any()} {
			if c.Can(p) {
				scopes = append(scopes, p)
			}
		}
		resp, err := g.auth.exchange(r.Context(), api.ExchangeRequest{Key: c.credential, Scopes: scopes, RemoteIP: g.remoteIP(r)})
		if err != nil {
			fail(w, r, err)
			return
		}
		raw, life = resp.AccessToken, time.Duration(resp.ExpiresIn)*time.Second
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure when the gateway is reached by TLS
		Name: previewCookie, Value: raw, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: g.guard.secure, SameSite: http.SameSiteLaxMode,
	})
	q := r.URL.Query()
	q.Del("ticket")
	to := strings.TrimLeft(r.URL.EscapedPath(), "/")
	if len(q) > 0 {
		to += "?" + q.Encode()
	}
	w.Header().Set("Location", "/"+to)
	w.WriteHeader(http.StatusSeeOther)
}

// authenticatePreview accepts the preview's cookie or a bearer credential; never the gateway's own cookie, which browsers send to
// every port of a host.
func (g *Gateway) authenticatePreview(r *http.Request) (*caller, error) {
	cred := ""
	if len(r.Header["Authorization"]) > 0 {
		var err error
		if cred, _, err = g.credential(r); err != nil {
			return nil, err
		}
	} else if c, err := r.Cookie(previewCookie); err == nil {
		if err := g.guard.checkWriteMethod(r); err != nil {
			return nil, err
		}
		cred = c.Value
	}
	return g.auth.caller(r.Context(), cred, g.remoteIP(r))
}
