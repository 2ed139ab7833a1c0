package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

// routes registers everything but what goes on to a session (see forward), which must not pass through ServeMux: that would
// clean and redirect its paths.
func (g *Gateway) routes() {
	edge := rpc.NewEdge(g.rpc, rpc.EdgeConfig{
		MaxBody: g.cfg.MaxBody, Idempotency: g.once,
		Fill: func(r *http.Request, req any) {
			if x, ok := req.(*api.ExchangeRequest); ok {
				x.RemoteIP = g.remoteIP(r)
			}
		},
	})
	edge.Register(g.mux, api.Operations()...)
	for _, op := range api.Operations() {
		if info := op.Info(); info.Route != "" {
			g.ops[info.Route] = info
		}
	}
	own := func(pattern, class string, auth func(*http.Request) (*caller, error), h func(*recorder, *http.Request, *caller)) {
		g.mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			w := rw.(*recorder)
			w.class = class
			if c, ok := g.admit(w, r, auth, g.deps.Limiter); ok {
				h(w, r, c)
			}
		})
	}
	open := func(pattern, class string, h http.HandlerFunc) {
		g.mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			rw.(*recorder).class = class
			h(rw, r)
		})
	}
	own("GET /api/v1/sessions/{id}/events", routeSSE, g.authenticateStream, g.serveEvents)
	own("GET /sse", routeSSE, g.authenticateStream, g.serveSSE)
	own("GET /ws", routeWS, g.authenticateStream, g.serveWS)
	own("GET /api/v1/sessions/{id}/files", routeFiles, g.authenticate, g.serveFiles)
	own("PUT /api/v1/sessions/{id}/files", routeFiles, g.authenticate, g.serveFiles)
	own("GET /api/v1/tasks/{id}/events", routeSSE, g.authenticateStream, g.serveTaskEvents)
	own(trafficEvents, routeSSE, g.authenticateStream, g.serveTraffic)
	own("GET /api/v1/tasks/{id}/artifacts/{path...}", routeFiles, g.authenticate, g.serveArtifact)
	own("POST /api/v1/tickets", routeLogin, g.authenticate, func(w *recorder, r *http.Request, c *caller) { g.handleTicket(w, r, c) })
	open("POST /api/v1/login", routeLogin, g.handleLogin)
	open("POST /api/v1/logout", routeLogin, g.handleLogout)
	open("GET /openapi.json", routeDocs, g.docs.serveOpenAPI)
	open("GET /docs", routeDocs, g.docs.servePage)
}

// serve answers every request on the API's address.
func (g *Gateway) serve(rw http.ResponseWriter, r *http.Request) {
	g.observed(rw, r, g.route)
}

// observed is what surrounds every request: its id, the security headers, recovery, metrics and the log line.
func (g *Gateway) observed(rw http.ResponseWriter, r *http.Request, h func(*recorder, *http.Request)) {
	start := time.Now()
	w := newRecorder(rw, g.cfg.WriteTimeout, start)
	g.guard.setHeaders(w.Header())
	id := requestID(r)
	w.Header()["X-Request-Id"] = []string{id}
	w.closes = len(r.Header["Upgrade"]) > 0
	defer func() {
		v := recover()
		if v != nil && v != http.ErrAbortHandler { //nolint:errorlint // a panic's value, which net/http compares in this way too
			g.log.Error("panic", "route", w.class, "request_id", id, "err", v, "stack", string(debug.Stack()))
			if w.status == 0 {
				fail(w, r, api.Errorf(api.CodeInternal, "panic"))
				v = nil
			}
		}
		took := time.Since(start)
		g.metrics.observe(w.class, w.status, took)
		g.logRequest(w, r, id, took)
		if v != nil {
			panic(http.ErrAbortHandler)
		}
		w.last()
	}()
	h(w, r)
}

func (g *Gateway) logRequest(w *recorder, r *http.Request, id string, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case w.status >= 500 && w.class != routeHealth:
		level = slog.LevelWarn
	case w.class == routeAgent || w.class == routePorts || w.class == routeHealth || w.status == http.StatusTooManyRequests:
		level = slog.LevelDebug // as many as a client likes: the metrics count them
	}
	if !g.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("route", w.class), slog.String("method", r.Method), slog.Int("status", w.status),
		slog.Duration("took", took), slog.String("request_id", id),
	}
	if w.caller != nil {
		attrs = append(attrs, slog.String("tenant", w.caller.Tenant), slog.String("principal", w.caller.ID))
	}
	g.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID returns the client's X-Request-Id if it is harmless, else a fresh one.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && validRequestID(ids[0]) {
		return ids[0]
	}
	return freshID()
}

func freshID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func validRequestID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !tokenChar[c] {
			return false
		}
	}
	return true
}

// route checks what needs no caller, then finds the handler.
func (g *Gateway) route(w *recorder, r *http.Request) {
	if r.URL.Path == "/health" || r.URL.Path == "/ready" {
		w.class = routeHealth
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			failStatus(w, r, http.StatusMethodNotAllowed, "this path does not take the method; see the header Allow")
		case r.URL.Path == "/health":
			g.serveHealth(w, r)
		default:
			g.serveReady(w, r)
		}
		return
	}
	if err := g.guard.checkHost(r.Host); err != nil {
		fail(w, r, err)
		return
	}
	if g.guard.cors(w, r) {
		return
	}
	if err := g.allowAddress(r.Context(), g.remoteIP(r)); err != nil {
		fail(w, r, err)
		return
	}
	escaped := r.URL.EscapedPath()
	if id, what, rest, ok := splitSession(escaped); ok {
		switch what {
		case "agent":
			w.class = routeAgent
			g.serveAgent(w, r, id, rest)
			return
		case "ports":
			w.class = routePorts
			g.servePort(w, r, id, rest)
			return
		}
	}
	// ServeMux would answer an unclean path with a redirect.
	if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/./") || strings.Contains(r.URL.Path, "/../") ||
		strings.HasSuffix(r.URL.Path, "/.") || strings.HasSuffix(r.URL.Path, "/..") || !strings.HasPrefix(r.URL.Path, "/") {
		g.noRoute(w, r)
		return
	}
	h, pattern := g.mux.Handler(r)
	if pattern == "" {
		g.unmatched(w, r, h)
		return
	}
	if wantsTrafficEvents(pattern, r) {
		r = r.Clone(r.Context())
		r.URL = r.URL.JoinPath("events")
		g.mux.ServeHTTP(w, r)
		return
	}
	if op, ok := g.ops[pattern]; ok {
		w.class = routeAPI
		g.serveOp(w, r, op)
		return
	}
	g.mux.ServeHTTP(w, r)
}

// serveOp answers an operation of libs/api.
func (g *Gateway) serveOp(w *recorder, r *http.Request, op api.OpInfo) {
	ctx := rpc.WithRequestID(r.Context(), w.Header().Get("X-Request-Id"))
	if op.Permission != api.Public {
		c, ok := g.admit(w, r, g.authenticate, g.deps.Limiter)
		if !ok {
			return
		}
		ctx = g.traced(token.WithRaw(api.WithPrincipal(ctx, c.Principal), c.raw), r.Header)
		if op.Service == api.Exchange.Service { // a new key's secret, for one
			ctx = context.WithValue(ctx, sealingKey{}, sealing{credential: c.credential})
		}
	}
	if err := bound(w, r, g.cfg.MaxBody); err != nil {
		fail(w, r, err)
		return
	}
	g.mux.ServeHTTP(w, r.WithContext(ctx))
}

// admit authenticates r and takes it from its principal's bucket in l; otherwise it has answered.
func (g *Gateway) admit(w *recorder, r *http.Request, auth func(*http.Request) (*caller, error), l limit.Limiter) (*caller, bool) {
	c, err := auth(r)
	if err != nil {
		g.chargeFailure(r.Context(), g.remoteIP(r), err)
		fail(w, r, err)
		return nil, false
	}
	w.caller = c
	if err := g.allowPrincipal(r.Context(), w.Header(), l, c); err != nil {
		fail(w, r, err)
		return nil, false
	}
	return c, true
}

// serveAgent is ANY /api/v1/sessions/{id}/agent/{path…}: the session's own HTTP API as it is.
func (g *Gateway) serveAgent(w *recorder, r *http.Request, id, rest string) {
	g.forward(w, r, id, g.authenticate, func(t *target) (err error) {
		t.prefix = "/api/v1/sessions/" + id + "/agent"
		t.path, err = cleanPath(rest)
		return err
	})
}

// forward sends r to the session id, to the path that place sets. It costs no round trip but the one to the session, unless that was put aside.
func (g *Gateway) forward(w *recorder, r *http.Request, id string, auth func(*http.Request) (*caller, error), place func(*target) error) {
	c, ok := g.admit(w, r, auth, g.deps.Local)
	if !ok {
		return
	}
	want := api.SessionWrite
	if (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) && !isUpgrade(r) {
		want = api.SessionRead
	}
	row, err := g.table.find(c.Principal, id, want)
	if err != nil {
		fail(w, r, err)
		return
	}
	t := &target{query: r.URL.RawQuery}
	if err := place(t); err != nil {
		fail(w, r, err)
		return
	}
	g.forwardTo(w, r, c, row, t)
}

// forwardTo completes t and sends r.
func (g *Gateway) forwardTo(w *recorder, r *http.Request, c *caller, row *row, t *target) {
	var err error
	if t.to, err = g.awake(r.Context(), c, row); err != nil {
		fail(w, r, err)
		return
	}
	if err := bound(w, r, g.cfg.MaxUpload); err != nil {
		fail(w, r, err)
		return
	}
	t.ip, t.proto = g.remoteIP(r), "http"
	if g.guard.secure {
		t.proto = "https"
	}
	t.long = func(ctx context.Context) (context.Context, func(), error) {
		ctx, st, err := g.streams.open(ctx, "forward", c)
		if err != nil {
			return nil, nil, err
		}
		if ctx, err = st.follow(ctx, row.key); err != nil {
			st.close()
			return nil, nil, err
		}
		return ctx, st.close, nil
	}
	if isUpgrade(r) {
		if err := g.guard.checkOrigin(r); err != nil {
			fail(w, r, err)
			return
		}
		ctx, done, err := t.long(r.Context())
		if err != nil {
			fail(w, r, err)
			return
		}
		defer done()
		g.sockets.Add(1)
		defer g.sockets.Done()
		r = r.WithContext(ctx)
	}
	if err := g.proxy.serve(w, r, t); err != nil && w.status == 0 {
		fail(w, r, err)
	}
}

func (g *Gateway) noRoute(w *recorder, r *http.Request) {
	fail(w, r, api.Errorf(api.CodeNotFound, "there is nothing at this path; GET /docs lists what there is"))
}

// unmatched answers what ServeMux has no pattern for: 404, or 405 with the methods that there are.
func (g *Gateway) unmatched(w *recorder, r *http.Request, h http.Handler) {
	probe := &probe{header: http.Header{}}
	h.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header()["Allow"] = probe.header["Allow"]
		failStatus(w, r, http.StatusMethodNotAllowed, "this path does not take the method; see the header Allow")
		return
	}
	g.noRoute(w, r)
}

// probe learns what ServeMux would have answered.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

func (g *Gateway) serveHealth(w *recorder, r *http.Request) {
	rpc.WriteJSON(w, r, http.StatusOK, map[string]string{"status": "alive"})
}

func (g *Gateway) serveReady(w *recorder, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := g.Ready(ctx); err != nil {
		fail(w, r, &api.Error{Code: api.CodeUnavailable, Detail: "not ready: " + err.Error(), RetryAfter: retrySoon})
		return
	}
	rpc.WriteJSON(w, r, http.StatusOK, map[string]string{"status": "ready"})
}

const readyTimeout = 2 * time.Second
