package rpc

import (
	"context"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/token"
)

// TestCredentials makes the calls of DESIGN §1 with the credentials that libs/bus mints, over its server: the subjects and inboxes of the two
// packages must agree.
func TestCredentials(t *testing.T) {
	srv, ring := bustest.New(t)
	s := NewServer(bustest.Connect(t, srv, ring, "sessions"), ServerConfig{Service: "sessions", Auth: people})
	Handle(s, api.GetSession, func(ctx context.Context, req api.SessionRef) (api.Session, error) {
		p, _ := api.PrincipalFrom(ctx)
		return api.Session{ID: req.ID, Owner: p.ID, Rev: 5}, nil
	})
	Handle(s, api.RunnerReport, func(ctx context.Context, req api.RunnerReportRequest) (api.RunnerReportResponse, error) {
		p, _ := api.PrincipalFrom(ctx)
		return api.RunnerReportResponse{Stop: p.ID == sessionA && p.Tenant == "acme" && req.Incarnation == 3}, nil
	})
	runServer(t, s)

	ctx, cancel := context.WithTimeout(token.WithRaw(context.Background(), "ada-token"), 10*time.Second)
	defer cancel()
	for _, service := range []string{"gateway", "scheduler"} {
		c := NewClient(bustest.ConnectInProcess(t, srv, ring, service), ClientConfig{Name: service})
		got, err := Call(ctx, c, api.GetSession, api.SessionRef{ID: sessionA})
		if err != nil || got.ID != sessionA || got.Owner != ada.ID {
			t.Errorf("%s: got %+v, %v", service, got, err)
		}
	}
	runner := NewClient(bustest.ConnectSession(t, srv, ring, "acme", sessionA), ClientConfig{Name: "runner"})
	got, err := CallAsSession(ctx, runner, "acme", sessionA, api.RunnerReport, api.RunnerReportRequest{Incarnation: 3})
	if err != nil || !got.Stop {
		t.Errorf("runner: got %+v, %v", got, err)
	}
	t.Run("a session can ask for itself only, and no operation of people", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		other := "s" + "bbbbbbbbbbbbbbbb"
		_, err := CallAsSession(short, runner, "acme", other, api.RunnerReport, api.RunnerReportRequest{})
		wantCode(t, err, api.CodeUnavailable)
		short, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err = Call(short, runner, api.GetSession, api.SessionRef{ID: sessionA})
		wantCode(t, err, api.CodeUnavailable)
	})
}

// TestBusGoesAway shows that neither side depends on the bus being there first, or at all.
func TestBusGoesAway(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	listen := strings.TrimPrefix(srv.URL(), "nats://")
	s := NewServer(bustest.Connect(t, srv, ring, "sessions"), ServerConfig{Service: "sessions", Auth: people})
	Handle(s, api.GetSession, func(_ context.Context, req api.SessionRef) (api.Session, error) { return api.Session{ID: req.ID}, nil })
	stop := runServer(t, s)
	c := NewClient(bustest.Connect(t, srv, ring, "gateway"), ClientConfig{Name: "gateway"})
	ask := func() error {
		ctx, cancel := context.WithTimeout(token.WithRaw(context.Background(), "ada-token"), time.Second)
		defer cancel()
		_, err := Call(ctx, c, api.GetSession, api.SessionRef{ID: sessionA})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	wantCode(t, ask(), api.CodeUnavailable)
	srv = bustest.Start(t, ring, dir, listen)
	eventually(t, "both are back with the bus", func() bool { return ask() == nil })
	srv.Close()
	eventually(t, "the server has noticed", func() bool { return !s.nc.IsConnected() })
	start := time.Now()
	if err := stop(); err != nil || time.Since(start) > 3*time.Second {
		t.Fatalf("stopping without a bus took %s: %v", time.Since(start), err)
	}
}
