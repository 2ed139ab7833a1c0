package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/libs/trust/trusttest"
)

// patience is how long anything may take, and how long a client stays connected: with the race detector on a loaded machine, ten thousand
// subscriptions take half a minute.
const patience = 2 * time.Minute

// yard is a gateway on a real bus, with services of the test's own behind it.
type yard struct {
	t    testing.TB
	srv  *bus.Server
	ring *bus.Keyring

	auth     *bus.Conn
	sessions *bus.Conn
	records  *bus.Ledger[api.SessionRecord]
	revoked  *bus.Ledger[trust.Revocation]
	log      *bus.Log
	signing  token.SigningKey

	mu        sync.Mutex
	keys      map[string]api.Principal
	exchanges atomic.Int64
	creates   atomic.Int64 // of profiles and keys
	resumes   atomic.Int64
	sent      []api.SendMessageRequest
	hold      chan struct{} // if set, profile-create waits for it
	entered   chan struct{}
}

func newYard(t testing.TB) *yard {
	t.Helper()
	srv, ring := bustest.New(t)
	y := &yard{t: t, srv: srv, ring: ring, keys: map[string]api.Principal{}, entered: make(chan struct{}, 16)}
	y.auth = bustest.Connect(t, srv, ring, "auth")
	y.sessions = bustest.Connect(t, srv, ring, "sessions")
	ctx := timeout(t)
	var err error
	y.signing, y.revoked = trusttest.Publish(t, y.auth)
	y.records, err = bus.OpenLedger[api.SessionRecord](ctx, y.sessions, bus.LedgerConfig{Noun: "sessions"})
	must(t, err)
	y.log, err = bus.OpenLog(ctx, y.sessions, bus.LogConfig{})
	must(t, err)
	y.key("alice-key", api.Principal{ID: id("u", "alice"), Tenant: "acme", Roles: []api.Role{api.RoleMember}, Key: id("k", "alice")})
	y.key("bob-key", api.Principal{ID: id("u", "bob"), Tenant: "acme", Roles: []api.Role{api.RoleMember}, Key: id("k", "bob")})
	y.key("view-key", api.Principal{ID: id("u", "vera"), Tenant: "acme", Roles: []api.Role{api.RoleViewer}, Key: id("k", "vera")})
	y.key("evil-key", api.Principal{ID: id("u", "eve"), Tenant: "evil", Roles: []api.Role{api.RoleAdmin}, Key: id("k", "eve")})
	y.serve()
	return y
}

// id returns a stable id of a kind.
func id(kind, name string) string { return api.DeriveID(api.Kind(kind[0]), name) }

func (y *yard) key(secret string, p api.Principal) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.keys[secret] = p
}

// serve runs the stand-ins of auth and sessions.
func (y *yard) serve() {
	store := trust.New(y.auth, quiet)
	start(y.t, store.Run)
	verifier := token.NewVerifier(store, store, nil)

	a := rpc.NewServer(y.auth, rpc.ServerConfig{Service: "auth", Auth: verifier, Logger: quiet})
	rpc.Handle(a, api.Exchange, func(_ context.Context, req api.ExchangeRequest) (api.TokenResponse, error) {
		y.exchanges.Add(1)
		y.mu.Lock()
		p, ok := y.keys[req.Key]
		y.mu.Unlock()
		if !ok {
			return api.TokenResponse{}, api.Errorf(api.CodeUnauthenticated, "unknown key")
		}
		p.Scopes = req.Scopes
		raw, err := token.Mint(y.signing, p, time.Now(), 10*time.Minute)
		return api.TokenResponse{AccessToken: raw, TokenType: "Bearer", ExpiresIn: 600, Principal: p}, err
	})
	rpc.Handle(a, api.GetMe, func(ctx context.Context, _ api.None) (api.User, error) {
		p, _ := api.PrincipalFrom(ctx)
		return api.User{ID: p.ID, Tenant: p.Tenant, Name: "me", Rev: 7}, nil
	})
	rpc.Handle(a, api.CreateKey, func(ctx context.Context, req api.CreateKeyRequest) (api.CreateKeyResponse, error) {
		n := y.creates.Add(1)
		return api.CreateKeyResponse{Key: api.Key{ID: api.NewID(api.KindKey), Name: req.Name}, Secret: fmt.Sprintf("secret-%d", n)}, nil
	})
	start(y.t, a.Run)

	s := rpc.NewServer(y.sessions, rpc.ServerConfig{Service: "sessions", Auth: verifier, Logger: quiet})
	rpc.Handle(s, api.GetSession, func(ctx context.Context, req api.SessionRef) (api.Session, error) {
		p, _ := api.PrincipalFrom(ctx)
		e, err := y.records.Get(ctx, bus.Key{Tenant: p.Tenant, ID: req.ID})
		if err != nil || !p.CanOn(api.SessionRead, e.Key.Tenant, e.State.Owner) {
			return api.Session{}, api.Errorf(api.CodeNotFound, "no such session")
		}
		e.State.Session.Rev = e.Rev
		return e.State.Session, nil
	})
	rpc.Handle(s, api.SendMessage, func(ctx context.Context, req api.SendMessageRequest) (api.Accepted, error) {
		p, _ := api.PrincipalFrom(ctx)
		if _, err := y.records.Get(ctx, bus.Key{Tenant: p.Tenant, ID: req.ID}); err != nil {
			return api.Accepted{}, api.Errorf(api.CodeNotFound, "no such session")
		}
		y.mu.Lock()
		y.sent = append(y.sent, req)
		y.mu.Unlock()
		mid := api.NewID(api.KindMessage)
		seq, _, err := y.log.AppendUser(ctx, p.Tenant, req.ID, req.IdempotencyKey, api.Event{Type: api.EventUserMessage, At: time.Now(), MessageID: mid, Content: req.Content})
		return api.Accepted{ID: mid, Seq: seq}, err
	})
	rpc.Handle(s, api.ResumeSession, func(ctx context.Context, req api.SessionRef) (api.Session, error) {
		p, _ := api.PrincipalFrom(ctx)
		y.resumes.Add(1)
		e, err := y.records.Update(ctx, bus.Key{Tenant: p.Tenant, ID: req.ID}, bus.Meta{Actor: p.ID, Verb: "resume"}, func(r api.SessionRecord) (api.SessionRecord, error) {
			if !p.CanOn(api.SessionWrite, r.Tenant, r.Owner) {
				return r, api.Errorf(api.CodeDenied, "no")
			}
			if r.State != api.StatePaused {
				return r, bus.ErrUnchanged
			}
			r.State = api.StateResuming
			return r, nil
		})
		return e.State.Session, err
	})
	rpc.Handle(s, api.InterruptSession, func(context.Context, api.SessionRef) (api.Accepted, error) {
		return api.Accepted{ID: "m", Seq: 1}, nil
	})
	rpc.Handle(s, api.CreateProfile, func(ctx context.Context, req api.Profile) (api.Profile, error) {
		if y.hold != nil {
			y.entered <- struct{}{}
			select {
			case <-y.hold:
			case <-ctx.Done():
			}
		}
		req.Rev = uint64(y.creates.Add(1))
		return req, nil
	})
	start(y.t, s.Run)
}

var quiet = slog.New(slog.DiscardHandler)

// start runs f until the test ends.
func start(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil && ctx.Err() == nil {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(patience):
				t.Error("does not stop")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// gateway starts a gateway and waits until it is ready.
func (y *yard) gateway(change ...func(*Config)) *Gateway {
	g, _ := y.stoppable(change...)
	return g
}

func (y *yard) stoppable(change ...func(*Config)) (*Gateway, func()) {
	y.t.Helper()
	cfg := DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	cfg.PrincipalRate = limit.Rate{PerSecond: 1e6, Burst: 1e6}
	cfg.AddressRate = limit.Rate{PerSecond: 1e6, Burst: 1e6}
	for _, f := range change {
		f(&cfg)
	}
	conn := bustest.Connect(y.t, y.srv, y.ring, "gateway")
	store := trust.New(conn, quiet)
	start(y.t, store.Run)
	g, err := New(cfg, Deps{Bus: conn, Trust: store, Limiter: limit.Open(limit.Config{Logger: quiet}), Local: limit.Open(limit.Config{Logger: quiet}), Logger: testLogger()})
	must(y.t, err)
	stop := start(y.t, g.Run)
	until(y.t, "the gateway is ready", func() bool {
		select {
		case <-g.Bound():
			return g.Ready(timeout(y.t)) == nil
		default:
			return false
		}
	})
	return g, stop
}

func testLogger() *slog.Logger {
	if os.Getenv("GATEWAY_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return quiet
}

// session makes a running session of owner's and waits until g knows it.
func (y *yard) session(g *Gateway, owner, endpoint string) string {
	y.t.Helper()
	p := y.keys[owner]
	sid := api.NewID(api.KindSession)
	key := bus.Key{Tenant: p.Tenant, ID: sid}
	rec := api.SessionRecord{
		Session:  api.Session{ID: sid, Tenant: p.Tenant, Owner: p.ID, Title: "t", State: api.StateRunning, CreatedAt: time.Now()},
		Endpoint: endpoint, EndpointKey: "runner-secret",
	}
	_, err := y.records.Create(timeout(y.t), key, bus.Meta{Actor: p.ID, Verb: "create"}, rec)
	must(y.t, err)
	y.known(g, key)
	return sid
}

func (y *yard) known(g *Gateway, key bus.Key) {
	until(y.t, "the gateway knows the session", func() bool { _, ok := g.table.get(key); return ok })
}

func (y *yard) setState(g *Gateway, owner, sid string, f func(*api.SessionRecord)) {
	y.t.Helper()
	key := bus.Key{Tenant: y.keys[owner].Tenant, ID: sid}
	e, err := y.records.Update(timeout(y.t), key, bus.Meta{Actor: "test", Verb: "change"}, func(r api.SessionRecord) (api.SessionRecord, error) {
		f(&r)
		return r, nil
	})
	must(y.t, err)
	until(y.t, "the gateway knows the change", func() bool { r, ok := g.table.get(key); return ok && r.rev >= e.Rev })
}

// say appends n events to a session's log.
func (y *yard) say(owner, sid string, from, n int) (last uint64) {
	y.t.Helper()
	for i := from; i < from+n; i++ {
		seq, _, err := y.log.AppendUser(timeout(y.t), y.keys[owner].Tenant, sid, "", api.Event{Type: api.EventUserMessage, At: time.Now(), Content: fmt.Sprintf("m%d", i)})
		must(y.t, err)
		last = seq
	}
	return last
}

func (y *yard) revoke(kind, tenant, rid string) {
	y.t.Helper()
	_, err := y.revoked.Create(timeout(y.t), trust.RevocationKey(tenant, kind, rid), bus.Meta{Actor: "test", Verb: "revoke"},
		trust.Revocation{Kind: kind, ID: rid, Active: true, Before: time.Now()})
	must(y.t, err)
}

// runner serves h on a unix socket and returns its endpoint.
func runner(t testing.TB, h http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw") // short: a socket's path has 108 bytes at most
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "r.sock")
	ln, err := net.Listen("unix", path)
	must(t, err)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return "unix:" + path
}

// call sends one request with a credential and returns the answer with its body read.
func call(t testing.TB, g *Gateway, cred, method, path string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(timeout(t), method, g.URL()+path, body)
	must(t, err)
	if cred != "" {
		req.Header.Set("Authorization", "Bearer "+cred)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp, string(data)
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// raw sends bytes as they are and returns the first answer's status, or 0 when the connection was just closed.
func raw(t testing.TB, g *Gateway, text string) (int, string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.URL(), "http://"))
	must(t, err)
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(c, text)
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	data, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data)
}

// sse is a client of an event stream.
type sse struct {
	t    testing.TB
	resp *http.Response
	br   *bufio.Reader
	stop context.CancelFunc
}

type sseEvent struct{ id, event, data string }

func (e sseEvent) decode(t testing.TB) api.Event {
	var ev api.Event
	must(t, json.Unmarshal([]byte(e.data), &ev))
	return ev
}

func openSSE(t testing.TB, g *Gateway, cred, path string, header ...string) *sse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL()+path, nil)
	must(t, err)
	if cred != "" {
		req.Header.Set("Authorization", "Bearer "+cred)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	must(t, err)
	t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	return &sse{t: t, resp: resp, br: bufio.NewReader(resp.Body), stop: cancel}
}

// next returns the next event; ok is false at the stream's end.
func (s *sse) next() (ev sseEvent, ok bool) {
	s.t.Helper()
	for {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return ev, false
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			ev.id = value
		case "event":
			ev.event = value
		case "data":
			ev.data = value
		case "":
			if line == "" && ev.event != "" {
				return ev, true
			}
		}
	}
}

func (s *sse) want(n int) []sseEvent {
	s.t.Helper()
	var evs []sseEvent
	for range n {
		ev, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended after %d of %d events", len(evs), n)
		}
		evs = append(evs, ev)
	}
	return evs
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until polls a condition that has no signal of its own.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("it did not come true that %s", what)
		case <-tick.C:
		}
	}
}

func sessionKey(tenant, sid string) bus.Key { return bus.Key{Tenant: tenant, ID: sid} }
