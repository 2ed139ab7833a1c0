package rpc

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

// startBus runs a NATS server of the test's own and returns how to connect to it.
func startBus(tb testing.TB) (connect func(...nats.Option) *nats.Conn) {
	tb.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		tb.Fatal(err)
	}
	go srv.Start()
	tb.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		tb.Fatal("NATS server does not accept connections")
	}
	return func(options ...nats.Option) *nats.Conn {
		tb.Helper()
		nc, err := nats.Connect(srv.ClientURL(), append([]nats.Option{nats.Timeout(20 * time.Second)}, options...)...)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(nc.Close)
		return nc
	}
}

// runServer runs s until the test ends or stop is called; stop returns Run's error.
func runServer(tb testing.TB, s *Server) (stop func() error) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() { cancel(); result = <-done })
		return result
	}
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Errorf("Run: %v", err)
		}
	})
	wait, cancelWait := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancelWait()
	if err := s.Ready(wait); err != nil {
		tb.Fatal(err)
	}
	return stop
}

// roster is an Authenticator that knows a few tokens: token → principal. The signature check is libs/token's own test.
type roster map[string]api.Principal

func (r roster) Verify(_ context.Context, raw string) (api.Principal, error) {
	p, ok := r[raw]
	if !ok {
		return api.Principal{}, api.Errorf(api.CodeUnauthenticated, "the access token is not valid")
	}
	return p, nil
}

var (
	ada    = api.Principal{ID: "uaaaaaaaaaaaaaaaa", Tenant: "acme", Name: "ada", Roles: []api.Role{api.RoleMember}}
	chief  = api.Principal{ID: "ubbbbbbbbbbbbbbbb", Tenant: "acme", Name: "chief", Roles: []api.Role{api.RoleAdmin}}
	people = roster{"ada-token": ada, "chief-token": chief}
)

// lockedBuffer collects a log from several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func jsonLogger(w *lockedBuffer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually polls ok until it is true.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("not within 30 s: %s", what)
		}
	}
}

func wantCode(tb testing.TB, err error, code api.Code, parts ...string) {
	tb.Helper()
	if err == nil || api.CodeOf(err) != code {
		tb.Fatalf("got error %v, want code %s", err, code)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			tb.Fatalf("error %q does not contain %q", err, part)
		}
	}
}
