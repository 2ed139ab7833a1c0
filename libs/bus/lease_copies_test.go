package bus

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestLeaseCopies: a bus that grew from one server to three kept its leases on one.
func TestLeaseCopies(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nc, err := nats.Connect(cluster(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c := &Conn{nc: nc, js: js, log: slog.New(slog.DiscardHandler), replicas: 1}
	// Until the servers have found one another, none takes a stream.
	for err = c.openLeases(ctx, false); err != nil && ctx.Err() == nil; err = c.openLeases(ctx, false) {
		_ = pause(ctx, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "yard.v1.leases.sessions.one", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	copies := func() int {
		s, err := js.Stream(ctx, leaseStream)
		if err != nil {
			t.Fatal(err)
		}
		if s.CachedInfo().State.Msgs != 1 {
			t.Fatalf("it holds %d leases", s.CachedInfo().State.Msgs)
		}
		return s.CachedInfo().Config.Replicas
	}
	for _, step := range []struct {
		replicas int
		keep     bool
		want     int
	}{{3, false, 1}, {3, true, 3}, {1, true, 3}, {5, true, 3}} {
		c.replicas = step.replicas
		if err := c.openLeases(ctx, step.keep); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		if got := copies(); got != step.want {
			t.Fatalf("%+v: it has %d copies", step, got)
		}
	}
}

// cluster runs n servers that are one bus, without credentials, and returns the address of one.
func cluster(t *testing.T, n int) string {
	t.Helper()
	for range 3 { // somebody may take a port between the question and the listening
		if address := tryCluster(t, n); address != "" {
			return address
		}
	}
	t.Fatal("the servers do not start")
	return ""
}

func tryCluster(t *testing.T, n int) (address string) {
	t.Helper()
	var held []net.Listener // all at once, so that no port is had twice
	var ports []int
	var routes []*url.URL // each server must be told of all before any has started
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		held = append(held, l)
	}
	for _, l := range held {
		_ = l.Close()
	}
	for i, port := range ports {
		srv, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}, Routes: routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		go srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		if !srv.ReadyForConnections(20 * time.Second) {
			return ""
		}
		address = srv.ClientURL()
	}
	return address
}
