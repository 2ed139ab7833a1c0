// Package bustest gives tests a real bus: an embedded server on a temporary directory, and
// connections with real credentials.
package bustest

import (
	"context"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
)

const patience = 20 * time.Second

// New starts a server on a loopback port and a temporary directory. It is closed, after the
// test's connections, when the test ends.
func New(t testing.TB) (*bus.Server, *bus.Keyring) {
	t.Helper()
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatalf("open keyring: %v", err)
	}
	return Start(t, ring, t.TempDir(), "127.0.0.1:0"), ring
}

// Start starts a server on dir and listen, for tests that start it again. It is closed when
// the test ends.
func Start(t testing.TB, ring *bus.Keyring, dir, listen string) *bus.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: dir, Listen: listen, Keyring: ring, MaxStore: 4 << 30})
	if err != nil {
		t.Fatalf("start bus server: %v", err)
	}
	t.Cleanup(srv.Close)
	return srv
}

// Connect returns a connection with a service's credentials, over the server's socket. It is
// closed when the test ends.
func Connect(t testing.TB, srv *bus.Server, ring *bus.Keyring, service string) *bus.Conn {
	t.Helper()
	creds, err := ring.ServiceCredentials(service)
	if err != nil {
		t.Fatalf("mint credentials: %v", err)
	}
	return connect(t, bus.Config{URL: srv.URL(), Credentials: creds, Name: service})
}

// ConnectInProcess is Connect without the socket.
func ConnectInProcess(t testing.TB, srv *bus.Server, ring *bus.Keyring, service string) *bus.Conn {
	t.Helper()
	creds, err := ring.ServiceCredentials(service)
	if err != nil {
		t.Fatalf("mint credentials: %v", err)
	}
	return connect(t, bus.Config{InProcess: srv, Credentials: creds, Name: service})
}

// ConnectSession returns a connection with one session's credentials.
func ConnectSession(t testing.TB, srv *bus.Server, ring *bus.Keyring, tenant, session string) *bus.Conn {
	t.Helper()
	creds, err := ring.SessionIssuer().Credentials(tenant, session)
	if err != nil {
		t.Fatalf("mint credentials: %v", err)
	}
	return connect(t, bus.Config{URL: srv.URL(), Credentials: creds, Name: session})
}

// ConnectNode returns a connection with the credentials of one node's agent.
func ConnectNode(t testing.TB, srv *bus.Server, ring *bus.Keyring, node string) *bus.Conn {
	t.Helper()
	creds, err := ring.NodeCredentials(node)
	if err != nil {
		t.Fatalf("mint credentials: %v", err)
	}
	return connect(t, bus.Config{URL: srv.URL(), Credentials: creds, Name: node})
}

func connect(t testing.TB, cfg bus.Config) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(cfg)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.Close(ctx) // a test may have stopped the server
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatalf("bus not ready: %v", err)
	}
	return c
}
