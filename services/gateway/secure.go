package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"agentyard.dev/libs/api"
)

// guard refuses what a browser was tricked into sending: requests under a foreign Host (DNS rebinding), writes with a
// cookie from another site (CSRF), WebSockets from another origin.
type guard struct {
	anyHost bool
	hosts   map[string]bool // lower case, without port
	origins map[string]bool // other origins whose pages may use the API
	csrf    *http.CrossOriginProtection
	secure  bool // the public URL is https, so cookies are Secure
}

func newGuard(cfg Config) (*guard, error) {
	g := &guard{hosts: map[string]bool{"localhost": true}, origins: map[string]bool{}, csrf: http.NewCrossOriginProtection()}
	public, err := cfg.publicURL()
	if err != nil {
		return nil, err
	}
	if public != nil {
		g.hosts[strings.ToLower(public.Hostname())] = true
		g.secure = public.Scheme == "https"
		// Behind a proxy that ends TLS the gateway may see another Host than the browser.
		if err := g.csrf.AddTrustedOrigin(public.Scheme + "://" + public.Host); err != nil {
			return nil, fmt.Errorf("-gateway.public-url: %w", err)
		}
		g.origins[public.Scheme+"://"+strings.ToLower(public.Host)] = true
	}
	for _, h := range cfg.AllowedHosts {
		if h == "*" {
			g.anyHost = true
		}
		g.hosts[strings.ToLower(h)] = true
	}
	for _, o := range cfg.AllowedOrigins {
		if o == "*" || o == "null" {
			return nil, fmt.Errorf("-gateway.allowed-origins: %q is not an origin; name each site", o)
		}
		if err := g.csrf.AddTrustedOrigin(o); err != nil {
			return nil, fmt.Errorf("-gateway.allowed-origins: %w", err)
		}
		g.origins[strings.ToLower(o)] = true
	}
	return g, nil
}

// checkHost refuses a Host that the gateway does not answer to. An IP address passes: a page that an attacker rebinds
// always has a name.
func (g *guard) checkHost(host string) error {
	name := hostname(host)
	if g.anyHost || g.hosts[name] || strings.HasSuffix(name, ".localhost") {
		return nil
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	return api.Errorf(api.CodeDenied, "this gateway does not answer to the host name of the request; name it with -gateway.allowed-hosts or -gateway.public-url")
}

// hostname returns the host without its port, in lower case.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// checkOrigin refuses a WebSocket that a page of another origin opens. No Origin means no browser.
func (g *guard) checkOrigin(r *http.Request) error {
	origins := r.Header.Values("Origin")
	switch {
	case len(origins) == 0:
		return nil
	case len(origins) == 1:
		if g.origins[strings.ToLower(origins[0])] {
			return nil
		}
		if u, err := url.Parse(origins[0]); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
			return nil
		}
	}
	return api.Errorf(api.CodeDenied, "the page's origin may not open a WebSocket here; name it with -gateway.allowed-origins")
}

// checkWrite refuses a request with a cookie that may have been sent by another site's page.
func (g *guard) checkWrite(r *http.Request) error {
	if err := g.csrf.Check(r); err != nil {
		return api.Errorf(api.CodeDenied, "a page of another origin sent this request; it may not act with your cookie")
	}
	return nil
}

// checkWriteMethod is checkWrite for the methods that change something.
func (g *guard) checkWriteMethod(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	return g.checkWrite(r)
}

// Header values that are the same on each response, made once.
var (
	valNosniff    = []string{"nosniff"}
	valNoReferrer = []string{"no-referrer"}
	valDeny       = []string{"DENY"}
	valNoStore    = []string{"no-store"}
	valSameOrigin = []string{"same-origin"}
	valAPICSP     = []string{"default-src 'none'; frame-ancestors 'none'"}
	valHSTS       = []string{"max-age=31536000"}
)

// setHeaders sets what every response of the gateway itself carries. A forwarded response replaces them.
func (g *guard) setHeaders(h http.Header) {
	h["X-Content-Type-Options"] = valNosniff
	h["Referrer-Policy"] = valNoReferrer
	h["X-Frame-Options"] = valDeny
	h["Cache-Control"] = valNoStore
	h["Content-Security-Policy"] = valAPICSP
	h["Cross-Origin-Opener-Policy"] = valSameOrigin
	h["Cross-Origin-Resource-Policy"] = valSameOrigin
	if g.secure {
		h["Strict-Transport-Security"] = valHSTS
	}
}

// cors answers for an allowed other origin, and reports whether the request was a preflight that is now answered.
// Cookies are never allowed across origins: such a page uses a bearer credential.
func (g *guard) cors(w http.ResponseWriter, r *http.Request) (done bool) {
	origin := r.Header.Get("Origin")
	if origin == "" || !g.origins[strings.ToLower(origin)] {
		return false
	}
	h := w.Header()
	h["Access-Control-Allow-Origin"] = []string{origin}
	h.Add("Vary", "Origin")
	h["Cross-Origin-Resource-Policy"] = []string{"cross-origin"}
	h["Access-Control-Expose-Headers"] = []string{"ETag, Retry-After, X-Request-Id, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Idempotent-Replayed"}
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h["Access-Control-Allow-Methods"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE"}
	h["Access-Control-Allow-Headers"] = []string{"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Request-Id"}
	h["Access-Control-Max-Age"] = []string{"600"}
	w.WriteHeader(http.StatusNoContent)
	return true
}

// remoteIP returns the client's address: the connection's, or what a trusted proxy says of it.
func (g *Gateway) remoteIP(r *http.Request) string {
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return g.clientIP(ip, r.Header["X-Forwarded-For"])
}

// clientIP returns ip, or what a trusted proxy at ip says in forwarded.
func (g *Gateway) clientIP(ip string, forwarded []string) string {
	if len(g.proxies) == 0 {
		return ip
	}
	// From the right: each trusted proxy vouches for the address to its left.
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !slices.ContainsFunc(g.proxies, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) }) {
			break
		}
		next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		ip = next.Unmap().String()
	}
	return ip
}
