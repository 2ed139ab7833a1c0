package auth

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 20 * time.Second

// yard is a bus with auth replicas, as the other services see it.
type yard struct {
	t      *testing.T
	srv    *bus.Server
	ring   *bus.Keyring
	dir    string
	clock  *clock
	client *rpc.Client  // of the gateway
	trust  *trust.Store // of the sessions service
	verify *token.Verifier

	mu      sync.Mutex
	revoked map[string]time.Time // when the sessions service learned of it
	learned broadcast
}

// clock is the real one, moved.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func newYard(t *testing.T) *yard {
	t.Helper()
	srv, ring := bustest.New(t)
	y := &yard{t: t, srv: srv, ring: ring, dir: t.TempDir(), clock: &clock{}, revoked: map[string]time.Time{}}
	y.client = rpc.NewClient(bustest.Connect(t, srv, ring, "gateway"), rpc.ClientConfig{Name: "gateway"})
	y.trust = trust.New(bustest.Connect(t, srv, ring, "sessions"), slog.New(slog.DiscardHandler))
	y.trust.Now = y.clock.now
	y.trust.OnRevoke(func(kind, id string) {
		y.mu.Lock()
		y.revoked[kind+" "+id] = time.Now()
		y.mu.Unlock()
		y.learned.announce()
	})
	y.verify = token.NewVerifier(y.trust, y.trust, y.clock.now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- y.trust.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("follow keys and revocations: %v", err)
		}
	})
	return y
}

// replica is one running auth service.
type replica struct {
	*Service
	said   *buffer
	log    *buffer
	cancel context.CancelFunc
	done   chan error
}

// buffer is what a process writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (y *yard) config() Config {
	return Config{SecretFile: filepath.Join(y.dir, "auth.secret"), BootstrapKeyFile: filepath.Join(y.dir, "admin.key")}
}

// launch starts a replica and does not wait.
func (y *yard) launch(cfg Config) *replica {
	y.t.Helper()
	r := &replica{said: &buffer{}, log: &buffer{}, done: make(chan error, 1)}
	r.Service = New(cfg, Deps{
		Bus: bustest.Connect(y.t, y.srv, y.ring, "auth"), Clock: y.clock.now, Announce: r.said,
		Logger: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx) }()
	return r
}

// start starts a replica and waits until it answers.
func (y *yard) start(cfg Config) *replica {
	y.t.Helper()
	r := y.launch(cfg)
	y.t.Cleanup(func() { r.stop(y.t) })
	r.await(y.t)
	until(y.t, "the sessions service knows the keys", func() bool { return y.trust.Check(context.Background()) == nil })
	return r
}

func (r *replica) await(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-r.ready:
	case err := <-r.done:
		r.done <- err
		t.Fatalf("auth ended: %v\n%s", err, r.log)
	case <-ctx.Done():
		t.Fatalf("auth is not ready\n%s", r.log)
	}
	if err := r.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

// stop ends the replica; it may be called again.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("auth: %v", err)
		}
		r.done <- nil
	case <-time.After(patience):
		t.Fatal("auth does not stop")
	}
}

// exchange asks for a token as the gateway does.
func (y *yard) exchange(key string, scopes ...api.Permission) (api.TokenResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return rpc.Call(ctx, y.client, api.Exchange, api.ExchangeRequest{Key: key, Scopes: scopes, RemoteIP: "192.0.2.1"})
}

// as returns a caller with the key's token.
func (y *yard) as(key string, scopes ...api.Permission) *caller {
	y.t.Helper()
	resp, err := y.exchange(key, scopes...)
	if err != nil {
		y.t.Fatalf("exchange: %v", err)
	}
	return &caller{y: y, key: key, raw: resp.AccessToken, Principal: resp.Principal}
}

// admin starts one replica and returns its first admin.
func (y *yard) admin() *caller {
	y.t.Helper()
	y.start(y.config())
	return y.as(y.adminKey())
}

func (y *yard) adminKey() string {
	y.t.Helper()
	data, err := readSmall(filepath.Join(y.dir, "admin.key"))
	if err != nil {
		y.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

type caller struct {
	api.Principal
	y   *yard
	key string
	raw string
}

// ask calls an operation with c's token.
func ask[Req, Resp any](c *caller, op api.Op[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(token.WithRaw(context.Background(), c.raw), patience)
	defer cancel()
	return rpc.Call(ctx, c.y.client, op, req)
}

// must is ask for what has to succeed.
func must[Req, Resp any](t *testing.T, c *caller, op api.Op[Req, Resp], req Req) Resp {
	t.Helper()
	resp, err := ask(c, op, req)
	if err != nil {
		t.Fatalf("%s: %v", op.Info().Name(), err)
	}
	return resp
}

// user makes a user with a key and returns it as a caller.
func (c *caller) user(t *testing.T, name string, roles ...api.Role) *caller {
	t.Helper()
	u := must(t, c, api.CreateUser, api.CreateUserRequest{Name: name, Roles: roles})
	return c.y.as(must(t, c, api.CreateKey, api.CreateKeyRequest{Name: "test", User: u.ID}).Secret)
}

// tenant makes a tenant and returns its admin.
func (c *caller) tenant(t *testing.T, name string) *caller {
	t.Helper()
	return c.y.as(must(t, c, api.CreateTenant, api.CreateTenantRequest{Name: name}).AdminKey)
}

// wantCode fails unless err has code ("" for success).
func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	switch {
	case code == "" && err != nil:
		t.Fatalf("got %v, want success", err)
	case code != "" && (err == nil || !errors.Is(err, &api.Error{Code: code})):
		t.Fatalf("got %v, want %s", err, code)
	}
}

// until waits for what a view is about to show.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}
