package gateway

import (
	"context"
	"errors"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
)

const (
	dialTimeout = 3 * time.Second
	// answerTimeout is how long a session may take to begin its answer. An agent's POST /message may
	// wait for the agent.
	answerTimeout = 2 * time.Minute
	idleUpstream  = time.Minute
	maxIdle       = 64 // kept connections per session
)

// target is a request to a session, checked and allowed.
type target struct {
	to     endpoint
	path   string // escaped, as the runner sees it
	prefix string // escaped, what stands before the session's own path in the public URL
	query  string
	ip     string
	proto  string // of the public URL
	// long registers an answer without an end, so that it ends with the caller's access.
	long func(context.Context) (ctx context.Context, done func(), err error)
	// ownOrigin says that the answer stands on an origin that nothing else is on, and needs no sandbox.
	ownOrigin bool
	name      string // of a file: the answer is a download, never a page
}

// proxy forwards requests to sessions. It keeps connections per endpoint.
type proxy struct {
	mu sync.Mutex
	to map[endpoint]*upstream
}

// upstream is one session's runner.
type upstream struct {
	transport *http.Transport
	lean      leanPool
	polls     polls
	used      atomic.Bool // since run looked last
}

func newProxy() *proxy { return &proxy{to: map[endpoint]*upstream{}} }

func (p *proxy) upstream(e endpoint) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.to[e]
	if u == nil {
		dialer := &net.Dialer{Timeout: dialTimeout}
		dial := func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, e.network, e.addr) }
		u = &upstream{
			transport: &http.Transport{
				DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
				MaxIdleConnsPerHost:    maxIdle,
				IdleConnTimeout:        idleUpstream,
				ResponseHeaderTimeout:  answerTimeout,
				ExpectContinueTimeout:  time.Second,
				DisableCompression:     true, // bytes pass as they are
				MaxResponseHeaderBytes: maxResponseHead,
			},
			lean: leanPool{dial: dial},
		}
		p.to[e] = u
	}
	if !u.used.Load() {
		u.used.Store(true)
	}
	return u
}

// drop forgets an endpoint that a session has left; requests in flight end by themselves.
func (p *proxy) drop(e endpoint) {
	p.mu.Lock()
	u := p.to[e]
	delete(p.to, e)
	p.mu.Unlock()
	if u != nil {
		u.close()
	}
}

func (u *upstream) close() {
	u.transport.CloseIdleConnections()
	u.lean.close()
}

// close closes what idles.
func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for e, u := range p.to {
		u.close()
		delete(p.to, e)
	}
}

// run closes connections that idled too long, until ctx ends.
func (p *proxy) run(ctx context.Context) {
	tick := time.NewTicker(idleUpstream / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			p.mu.Lock()
			for e, u := range p.to {
				u.lean.expire(now.Add(-idleUpstream))
				if !u.used.Swap(false) {
					u.close()
					delete(p.to, e)
				}
			}
			p.mu.Unlock()
		}
	}
}

// serve forwards r to t and writes the answer. sanitize prepares the answer's header.
func (p *proxy) serve(w *recorder, r *http.Request, t *target) error {
	u := p.upstream(t.to)
	if simple(r) {
		return u.lean.serve(w, r, t)
	}
	return u.serve(w, r, t)
}

// simple reports whether the lean round trip can carry r.
func simple(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0 {
		return false
	}
	if len(r.Header["Upgrade"]) > 0 || len(r.Header["Expect"]) > 0 || len(r.Trailer) > 0 {
		return false
	}
	// A Connection header that names others is net/http's to follow.
	switch c := r.Header["Connection"]; len(c) {
	case 0:
		return true
	case 1:
		return strings.EqualFold(c[0], "keep-alive") || strings.EqualFold(c[0], "close")
	}
	return false
}

// serve is the way for bodies and upgrades: net/http's own proxy.
func (u *upstream) serve(w *recorder, r *http.Request, t *target) (err error) {
	_ = w.rc.EnableFullDuplex() // a session may answer while it still reads
	rp := &httputil.ReverseProxy{
		Transport:     u.transport,
		FlushInterval: -1,
		BufferPool:    copyBuffers{},
		Rewrite: func(pr *httputil.ProxyRequest) {
			out := pr.Out
			out.URL.Scheme, out.URL.Host = "http", upstreamHost
			out.URL.Path, out.URL.RawPath, out.URL.RawQuery, out.URL.ForceQuery = unescaped(t.path), t.path, t.query, false
			out.Host = upstreamHost
			for name := range out.Header {
				if !forwardRequest(name) {
					delete(out.Header, name)
				}
			}
			// Rewrite has removed the hop-by-hop headers and Forwarded; an upgrade's are back in place.
			if up := pr.In.Header["Upgrade"]; len(up) > 0 && isUpgrade(pr.In) {
				out.Header["Upgrade"], out.Header["Connection"] = up, []string{"Upgrade"}
			}
			out.Header[api.RunnerKeyHeader] = []string{t.to.key}
			out.Header["X-Forwarded-For"] = []string{t.ip}
			out.Header["X-Forwarded-Host"] = []string{pr.In.Host}
			out.Header["X-Forwarded-Proto"] = []string{t.proto}
			if _, ok := out.Header["User-Agent"]; !ok {
				out.Header["User-Agent"] = nil // else net/http adds its own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			// The gateway's own header is replaced where the session says something else.
			own := w.Header()
			forOthers(own)
			if resp.StatusCode == http.StatusSwitchingProtocols {
				delete(own, "Connection")
				w.status = resp.StatusCode // ReverseProxy writes it past the recorder
			}
			for name := range resp.Header {
				if !forwardResponse(name) {
					delete(resp.Header, name)
				}
			}
			t.fix(resp.Header)
			t.isolate(resp.Header)
			for name := range resp.Header { // ReverseProxy adds them to own
				delete(own, name)
			}
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, e error) { err = upstreamError(r, e) },
		ErrorLog:     discardLog,
	}
	rp.ServeHTTP(w, r)
	return err
}

// upstreamError is what the caller learns of a failed forward.
func upstreamError(r *http.Request, err error) error {
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return tooLarge(tooBig.Limit)
	case r.Context().Err() != nil:
		return context.Canceled
	}
	return &api.Error{Code: api.CodeUnavailable, Detail: "the session did not answer; try again", RetryAfter: retrySoon, Cause: err}
}

// upstreamHost is the Host that a session sees: its own, whatever the client's was.
const upstreamHost = "localhost"

// forwardRequest reports whether a request's header goes on to a session: neither credentials, nor what says where the
// request came from (the gateway says that itself), nor what is agentyard's own.
func forwardRequest(name string) bool {
	switch name {
	case "Authorization", "Cookie", "Proxy-Authorization", "Forwarded", "Via", "X-Real-Ip", "Connection", "Keep-Alive", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "Http2-Settings":
		return false
	}
	return !strings.HasPrefix(name, "X-Forwarded-") && !strings.HasPrefix(name, "X-Agentyard-")
}

// forwardResponse reports whether an answer's header goes on to the client. A session must not speak for the gateway's
// origin: set its cookies, open it to other origins, register workers, redirect its traffic.
func forwardResponse(name string) bool {
	switch name {
	case "Set-Cookie", "Set-Cookie2", "Clear-Site-Data", "Service-Worker-Allowed", "Strict-Transport-Security", "Alt-Svc", "Nel", "Report-To",
		"Reporting-Endpoints", "Public-Key-Pins", "Origin-Agent-Cluster", "X-Request-Id", "Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
		"X-Content-Type-Options", "Cross-Origin-Resource-Policy", "Cross-Origin-Opener-Policy", "X-Accel-Redirect", "X-Sendfile":
		return false
	}
	return !strings.HasPrefix(name, "Access-Control-") && !strings.HasPrefix(name, "X-Agentyard-")
}

// sandbox makes a page of a session an origin of its own, without the gateway's cookies and storage.
const sandbox = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"

var valSandbox = []string{sandbox}

// forOthers removes from the gateway's own header what does not fit an answer of somebody else. What keeps other sites'
// pages from embedding it stays, but for a page's own parts, which come from the sandbox's opaque origin.
func forOthers(h http.Header) {
	delete(h, "Content-Security-Policy")
	delete(h, "Cross-Origin-Resource-Policy")
	delete(h, "Cross-Origin-Opener-Policy")
	delete(h, "X-Frame-Options")
}

// isolate adds the sandbox to whatever policy the session has itself: the browser applies both.
func (t *target) isolate(h http.Header) {
	h["X-Content-Type-Options"] = valNosniff
	if t.name != "" {
		h["Content-Disposition"] = []string{mime.FormatMediaType("attachment", map[string]string{"filename": t.name})}
	}
	if t.ownOrigin {
		return
	}
	if len(h["Content-Security-Policy"]) == 0 {
		h["Content-Security-Policy"] = valSandbox
		return
	}
	h["Content-Security-Policy"] = append(h["Content-Security-Policy"][:len(h["Content-Security-Policy"]):len(h["Content-Security-Policy"])], sandbox)
}

// fix keeps a redirect of a session's web server inside the session's own part of the URL space.
func (t *target) fix(h http.Header) {
	if loc := h["Location"]; len(loc) == 1 {
		h["Location"] = []string{ownLocation(loc[0], t.prefix)}
	}
}

// ownLocation puts prefix before a location on the session's own server; another's stays.
func ownLocation(loc, prefix string) string {
	rest := loc
	for _, own := range []string{"http://" + upstreamHost, "http://127.0.0.1"} {
		if tail, ok := strings.CutPrefix(rest, own); ok {
			if i := strings.IndexByte(tail, '/'); i >= 0 && strings.Trim(tail[:i], ":0123456789") == "" {
				rest = tail[i:]
			}
		}
	}
	if strings.HasPrefix(rest, "/") && !strings.HasPrefix(rest, "//") {
		return prefix + rest
	}
	return loc
}

// copyBuffers keeps the buffers that bodies are copied through.
type copyBuffers struct{}

var bufferPool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// discardLog: what goes wrong between the gateway and a session is answered, not logged by net/http.
var discardLog = log.New(io.Discard, "", 0)

// unescaped decodes a path that cleanPath has accepted.
func unescaped(path string) string {
	if plain, err := url.PathUnescape(path); err == nil {
		return plain
	}
	return path
}

func (copyBuffers) Get() []byte  { return *bufferPool.Get().(*[]byte) }
func (copyBuffers) Put(b []byte) { bufferPool.Put(&b) }
