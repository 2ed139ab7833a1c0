package webhook

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/seal"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/scheduler/clocktest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// yard is a bus, a clock, and the replicas that a test starts.
type yard struct {
	t     *testing.T
	srv   *bus.Server
	ring  *bus.Keyring
	clock *clocktest.Clock
	tasks *bus.Ledger[api.TaskRecord]
	users *bus.Ledger[trust.Account]
	all   []*replica
}

func newYard(t *testing.T) *yard {
	srv, ring := bustest.New(t)
	y := &yard{t: t, srv: srv, ring: ring, clock: clocktest.New(time.Now().UTC().Format(time.RFC3339))}
	conn := bustest.ConnectInProcess(t, srv, ring, "scheduler")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if y.tasks, err = bus.OpenLedger[api.TaskRecord](ctx, conn, bus.LedgerConfig{Noun: "tasks"}); err != nil {
		t.Fatal(err)
	}
	auth := bustest.ConnectInProcess(t, srv, ring, "auth")
	if y.users, err = bus.OpenLedger[trust.Account](ctx, auth, bus.LedgerConfig{Noun: trust.UsersNoun}); err != nil {
		t.Fatal(err)
	}
	tenants, err := bus.OpenLedger[trust.Account](ctx, auth, bus.LedgerConfig{Noun: trust.TenantsNoun})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenants.Create(ctx, bus.Key{Tenant: ada.Tenant, ID: ada.Tenant}, bus.Meta{Verb: "create"}, trust.Account{Name: ada.Tenant}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []api.Principal{ada, admin} {
		if _, err := y.users.Create(ctx, bus.Key{Tenant: p.Tenant, ID: p.ID}, bus.Meta{Actor: "service:auth", Verb: "create"}, trust.Account{Roles: p.Roles}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = bus.OpenLedger[api.Schedule](ctx, conn, bus.LedgerConfig{Noun: "schedules"}); err != nil {
		t.Fatal(err)
	}
	return y
}

type replica struct {
	*Service
	conn *bus.Conn
}

func (y *yard) start() *replica {
	y.t.Helper()
	return y.startWith(nil)
}

func (y *yard) startWith(keys *seal.Keys) *replica {
	y.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{conn: bustest.ConnectInProcess(y.t, y.srv, y.ring, "scheduler")}
	r.Service = New(Deps{Bus: r.conn, Holder: api.NewID('r'), LeaseTTL: 600 * time.Millisecond, AllowPrivate: true, Clock: y.clock, Keys: keys})
	if err := r.Open(ctx); err != nil {
		y.t.Fatal(err)
	}
	y.all = append(y.all, r)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	y.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			y.t.Errorf("run: %v", err)
		}
	})
	ready, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := r.Ready(ready); err != nil {
		y.t.Fatal(err)
	}
	return r
}

// die ends a replica as kill -9 does.
func (r *replica) die() { r.conn.NATS().Close() }

func (r *replica) leads(t *testing.T) {
	t.Helper()
	until(t, "it leads", func() bool {
		r.sender.mu.Lock()
		defer r.sender.mu.Unlock()
		return r.sender.leading
	})
}

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

var (
	ada   = api.Principal{ID: "uada", Tenant: "acme", Roles: []api.Role{api.RoleMember}}
	admin = api.Principal{ID: "uadmin", Tenant: "acme", Roles: []api.Role{api.RoleAdmin}}
)

func as(p api.Principal) context.Context { return api.WithPrincipal(context.Background(), p) }

// hook makes a webhook and returns its secret.
func (r *replica) hook(t *testing.T, p api.Principal, name, url string, events ...string) string {
	t.Helper()
	made, err := r.create(as(p), api.CreateWebhookRequest{Name: name, URL: url, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	return made.Secret
}

// task writes a task, and each of the states as a change of its own.
func (y *yard) task(spec api.TaskSpec, owner string, states ...api.TaskState) string {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	id := api.NewID(api.KindTask)
	key := bus.Key{Tenant: "acme", ID: id}
	meta := bus.Meta{Actor: owner, Verb: "test"}
	rec := api.TaskRecord{Task: api.Task{ID: id, Tenant: "acme", Owner: owner, TaskSpec: spec, State: api.TaskQueued}}
	if _, err := y.tasks.Create(ctx, key, meta, rec); err != nil {
		y.t.Fatal(err)
	}
	for _, s := range states {
		if _, err := y.tasks.Update(ctx, key, meta, func(r api.TaskRecord) (api.TaskRecord, error) {
			r.State = s
			return r, nil
		}); err != nil {
			y.t.Fatal(err)
		}
	}
	for _, r := range y.all {
		r.Changed()
	}
	return id
}

// got is a request that a receiver took.
type got struct {
	header http.Header
	body   []byte
	notice api.Notice
}

// receiver is somebody's server.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	all    []got
	status int // what it answers; 0: 204
	header http.Header
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{header: http.Header{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	g := got{header: req.Header.Clone(), body: body}
	if err == nil {
		err = json.Unmarshal(body, &g.notice)
	}
	if err != nil || req.Method != http.MethodPost {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, g)
	for name := range r.header {
		w.Header().Set(name, r.header.Get(name))
	}
	if r.status == 0 {
		r.status = http.StatusNoContent
	}
	w.WriteHeader(r.status)
}

func (r *receiver) answer(status int, header ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
	for i := 0; i < len(header); i += 2 {
		r.header.Set(header[i], header[i+1])
	}
}

func (r *receiver) requests() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// takes waits for n requests.
func (r *receiver) takes(t *testing.T, n int) []got {
	t.Helper()
	until(t, "the requests", func() bool { return len(r.requests()) >= n })
	return r.requests()
}

// delivery waits until the newest delivery of a webhook satisfies ok.
func (r *replica) delivery(t *testing.T, p api.Principal, name, what string, ok func(api.Delivery) bool) (d api.Delivery) {
	t.Helper()
	until(t, what, func() bool {
		l, err := r.listDeliveries(as(p), api.ListDeliveriesRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Items) == 0 {
			return false
		}
		d = l.Items[0]
		return ok(d)
	})
	return d
}

func in(state api.DeliveryState) func(api.Delivery) bool {
	return func(d api.Delivery) bool { return d.State == state }
}
