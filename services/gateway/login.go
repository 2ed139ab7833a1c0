package gateway

import (
	"net/http"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// cookieLife is how long a browser stays signed in. The cookie holds the API key, so revoking the key ends it at once.
const cookieLife = 30 * 24 * time.Hour

const maxLoginBody = 16 << 10

// cookieName has the prefix __Host- where browsers accept it: over https. It binds the cookie to this host, path / and
// secure transport.
func (g *guard) cookieName() string {
	if g.secure {
		return "__Host-agentyard"
	}
	return "agentyard"
}

func (g *guard) cookie(value string, life time.Duration) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // Secure when the gateway is reached by TLS, which a laptop is not
		Name: g.cookieName(), Value: value, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: g.secure, SameSite: http.SameSiteLaxMode,
	}
}

// handleLogin is POST /api/v1/login {key}: it sets the cookie of a browser.
func (g *Gateway) handleLogin(w http.ResponseWriter, r *http.Request) {
	if err := g.guard.checkWrite(r); err != nil {
		fail(w, r, err)
		return
	}
	if err := bound(w, r, maxLoginBody); err != nil {
		fail(w, r, err)
		return
	}
	var req struct {
		Key string `json:"key"`
	}
	if err := rpc.ReadBody(w, r, maxLoginBody, &req); err != nil {
		fail(w, r, err)
		return
	}
	if req.Key == "" || !cookieSafe(req.Key) {
		fail(w, r, api.Invalid("/key", "must be an API key"))
		return
	}
	ip := g.remoteIP(r)
	c, err := g.auth.caller(r.Context(), req.Key, ip)
	if err != nil {
		g.chargeFailure(r.Context(), ip, err)
		fail(w, r, err)
		return
	}
	http.SetCookie(w, g.guard.cookie(req.Key, cookieLife))
	rpc.WriteJSON(w, r, http.StatusOK, map[string]api.Principal{"principal": c.Principal})
}

// handleLogout is POST /api/v1/logout: it clears the cookie.
func (g *Gateway) handleLogout(w http.ResponseWriter, r *http.Request) {
	if err := g.guard.checkWrite(r); err != nil {
		fail(w, r, err)
		return
	}
	http.SetCookie(w, g.guard.cookie("", -time.Second))
	w.WriteHeader(http.StatusNoContent)
}

// cookieSafe reports whether a key can stand in a cookie as it is (RFC 6265 §4.1.1).
func cookieSafe(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return len(s) <= 4000
}
