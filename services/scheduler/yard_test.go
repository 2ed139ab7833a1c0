package scheduler

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/libs/trust/trusttest"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 60 * time.Second

// yard is a bus with what the scheduler needs of the other services.
type yard struct {
	t      *testing.T
	srv    *bus.Server
	ring   *bus.Keyring
	key    token.SigningKey
	client *rpc.Client // of the gateway
}

func newYard(t *testing.T) *yard {
	t.Helper()
	srv, ring := bustest.New(t)
	y := &yard{t: t, srv: srv, ring: ring}
	y.client = rpc.NewClient(bustest.Connect(t, srv, ring, "gateway"), rpc.ClientConfig{Name: "gateway"})
	y.key, _ = trusttest.Publish(t, bustest.Connect(t, srv, ring, "auth"))
	if _, err := bus.OpenLedger[api.SessionRecord](t.Context(), bustest.Connect(t, srv, ring, "sessions"), bus.LedgerConfig{Noun: "sessions"}); err != nil {
		t.Fatal(err)
	}
	return y
}

// replica is one scheduler.
type replica struct {
	*Service
	conn *bus.Conn
	stop func()
}

// start starts a replica and waits until it answers. execute takes the place of sessions.
func (y *yard) start(cfg Config, execute func(context.Context, api.Task) api.TaskResult) *replica {
	y.t.Helper()
	return y.startWith(cfg, execute, func(*Deps) {})
}

// startWith is start with other dependencies.
func (y *yard) startWith(cfg Config, execute func(context.Context, api.Task) api.TaskResult, change func(*Deps)) *replica {
	y.t.Helper()
	creds, err := y.ring.ServiceCredentials("scheduler")
	if err != nil {
		y.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	conn, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: creds, Name: "scheduler", Logger: log})
	if err != nil {
		y.t.Fatal(err)
	}
	keys := trust.New(conn, log)
	deps := Deps{Bus: conn, Auth: token.NewVerifier(keys, keys, nil), Logger: log, Execute: execute}
	change(&deps)
	s := New(cfg, deps)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := keys.Run(ctx); err != nil {
			y.t.Errorf("trust: %v", err)
		}
	})
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			y.t.Errorf("scheduler: %v", err)
		}
	})
	r := &replica{Service: s, conn: conn, stop: sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		bye, done := context.WithTimeout(context.Background(), patience)
		defer done()
		_ = conn.Close(bye) // it may be gone
	})}
	y.t.Cleanup(r.stop)
	y.until("the scheduler answers", func() bool { return s.Ready(y.t.Context()) == nil && keys.Check(y.t.Context()) == nil })
	return r
}

// until polls ok until it holds.
func (y *yard) until(what string, ok func() bool) {
	y.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			y.t.Fatalf("%s: not within %s", what, patience)
		case <-tick.C:
		}
	}
}

// person is somebody with a token.
type person struct {
	y *yard
	api.Principal
	raw string
}

func (y *yard) person(tenant string, roles ...api.Role) person {
	y.t.Helper()
	p := api.Principal{ID: api.NewID(api.KindUser), Tenant: tenant, Name: "somebody", Roles: roles}
	raw, err := token.Mint(y.key, p, time.Now(), time.Hour)
	if err != nil {
		y.t.Fatal(err)
	}
	return person{y, p, raw}
}

func ask[Req, Resp any](p person, op api.Op[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(token.WithRaw(p.y.t.Context(), p.raw), patience)
	defer cancel()
	return rpc.Call(ctx, p.y.client, op, req)
}

func must[Req, Resp any](p person, op api.Op[Req, Resp], req Req) Resp {
	p.y.t.Helper()
	resp, err := ask(p, op, req)
	if err != nil {
		p.y.t.Fatalf("%s: %v", op.Verb, err)
	}
	return resp
}

func (p person) create(spec api.TaskSpec) api.Task {
	p.y.t.Helper()
	return must(p, api.CreateTask, api.CreateTaskRequest{TaskSpec: spec})
}

// becomes waits until a task is in a state.
func (p person) becomes(id string, want api.TaskState) api.Task {
	p.y.t.Helper()
	var got api.Task
	p.y.until("task "+id+" becomes "+string(want), func() bool {
		got = must(p, api.GetTask, api.TaskRef{ID: id})
		return got.State == want
	})
	return got
}

func wantCode(t *testing.T, err error, want api.Code) {
	t.Helper()
	got := api.Code("")
	if err != nil {
		got = api.CodeOf(err)
	}
	if got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}
