package schedule

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/services/scheduler/clocktest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// tasks is Tasks on a real ledger.
type tasks struct {
	ledger *bus.Ledger[api.TaskRecord]
	view   *bus.View[api.TaskRecord]
	clock  *clocktest.Clock

	mu     sync.Mutex
	refuse error           // what Make and Check answer
	made   func(id string) // called when a task has been made, before Make returns
	calls  int
}

func (t *tasks) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = err
}

func (t *tasks) Check(_ context.Context, _ Owner, spec api.TaskSpec) error {
	if spec.Prompt == "" && spec.Command == "" {
		return api.Invalid("/prompt", "is missing")
	}
	return nil
}

func (t *tasks) Make(ctx context.Context, m Make) (api.Task, error) {
	t.mu.Lock()
	refuse, made := t.refuse, t.made
	t.calls++
	t.mu.Unlock()
	if refuse != nil {
		return api.Task{}, refuse
	}
	key := bus.Key{Tenant: m.Owner.Tenant, ID: m.ID}
	rec := api.TaskRecord{Task: api.Task{
		ID: m.ID, Tenant: m.Owner.Tenant, Owner: m.Owner.ID, TaskSpec: m.Spec, Schedule: m.Schedule,
		State: api.TaskQueued, CreatedAt: t.clock.Now(),
	}}
	e, err := t.ledger.Create(ctx, key, bus.Meta{Actor: actor, Verb: "create"}, rec)
	if api.CodeOf(err) == api.CodeConflict {
		e, err = t.ledger.Get(ctx, key)
	}
	if err == nil && made != nil {
		made(m.ID)
	}
	return e.State.Task, err
}

func (t *tasks) Recent(tenant, schedule string, limit int) []api.Task {
	var out []api.Task
	for _, e := range t.view.List("schedule", tenant+"/"+schedule, 0, limit, nil) {
		out = append(out, e.State.Task)
	}
	return out
}

func (t *tasks) Cancel(ctx context.Context, tenant, id, reason string) error {
	return t.end(ctx, tenant, id, api.TaskCancelled, reason)
}

func (t *tasks) end(ctx context.Context, tenant, id string, state api.TaskState, reason string) error {
	_, err := t.ledger.Update(ctx, bus.Key{Tenant: tenant, ID: id}, bus.Meta{Actor: actor, Verb: "end"}, func(r api.TaskRecord) (api.TaskRecord, error) {
		r.State, r.Reason = state, reason
		return r, nil
	})
	return err
}

// yard is a bus, a clock, and the replicas that a test starts.
type yard struct {
	t     *testing.T
	srv   *bus.Server
	ring  *bus.Keyring
	clock *clocktest.Clock
}

func newYard(t *testing.T, at string) *yard {
	srv, ring := bustest.New(t)
	return &yard{t: t, srv: srv, ring: ring, clock: clocktest.New(at)}
}

// replica is one process of the scheduler.
type replica struct {
	*Service
	tasks *tasks
	conn  *bus.Conn
	stop  func()
}

// start starts a replica. It is stopped when the test ends.
func (y *yard) start(change ...func(*Deps)) *replica {
	y.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn := bustest.ConnectInProcess(y.t, y.srv, y.ring, "scheduler")
	ledger, err := bus.OpenLedger[api.TaskRecord](ctx, conn, bus.LedgerConfig{Noun: "tasks"})
	if err != nil {
		y.t.Fatal(err)
	}
	r := &replica{conn: conn, tasks: &tasks{ledger: ledger, clock: y.clock}}
	r.tasks.view = ledger.View(bus.ViewConfig[api.TaskRecord]{
		Indexes: map[string]func(bus.Entry[api.TaskRecord]) []string{
			"schedule": func(e bus.Entry[api.TaskRecord]) []string { return []string{e.Key.Tenant + "/" + e.State.Schedule} },
		},
		OnChange: func(_ *bus.Entry[api.TaskRecord], now bus.Entry[api.TaskRecord]) {
			if now.State.State.Final() {
				r.TaskEnded(now.Key.Tenant, now.State.Schedule)
			}
		},
	})
	deps := Deps{Bus: conn, Tasks: r.tasks, Holder: api.NewID('r'), Clock: y.clock, LeaseTTL: 600 * time.Millisecond}
	for _, f := range change {
		f(&deps)
	}
	r.Service = New(deps)
	if err := r.Open(ctx); err != nil {
		y.t.Fatal(err)
	}
	var parts sync.WaitGroup
	parts.Go(func() { _ = r.tasks.view.Run(ctx) })
	<-readyIn(y.t, r.tasks.view.Ready())
	parts.Go(func() {
		if err := r.Run(ctx); err != nil {
			y.t.Errorf("run: %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		parts.Wait()
	})
	y.t.Cleanup(r.stop)
	<-readyIn(y.t, r.view.Ready())
	return r
}

// leads waits until the replica fires.
func (r *replica) leads(t *testing.T) {
	t.Helper()
	until(t, "it leads", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.leading
	})
}

// die ends a replica as kill -9 does: it neither releases its lease nor finishes what it does.
func (r *replica) die() { r.conn.NATS().Close() }

func readyIn(t *testing.T, ready <-chan struct{}) <-chan struct{} {
	t.Helper()
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("not ready in time")
	}
	return ready
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

var ada = api.Principal{ID: "uada", Tenant: "acme", Roles: []api.Role{api.RoleMember}}

func as(p api.Principal) context.Context { return api.WithPrincipal(context.Background(), p) }

func spec(expr string) api.ScheduleSpec {
	return api.ScheduleSpec{Cron: expr, Task: api.TaskSpec{Command: "true"}}
}

func (r *replica) make(t *testing.T, s api.ScheduleSpec) api.Schedule {
	t.Helper()
	made, err := r.create(as(ada), api.CreateScheduleRequest{ScheduleSpec: s})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// state returns a schedule as soon as ok holds for it.
func (r *replica) state(t *testing.T, id, what string, ok func(api.Schedule) bool) api.Schedule {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := r.view.Wait(ctx, bus.Key{Tenant: "acme", ID: id}, func(e bus.Entry[api.Schedule]) bool { return ok(e.State) })
	if err != nil {
		now, _ := r.view.Get(bus.Key{Tenant: "acme", ID: id})
		t.Fatalf("not in time: %s; it is %+v", what, now.State)
	}
	return e.State
}

func fired(n int64) func(api.Schedule) bool {
	return func(s api.Schedule) bool { return s.Fires == n }
}

// planned waits until the plan has been followed up to at.
func upTo(at time.Time) func(api.Schedule) bool {
	return func(s api.Schedule) bool { return !s.Planned.Before(at) }
}

// ids returns the tasks of a schedule in the bus's own ledger, each as often as it was created.
func (r *replica) ids(t *testing.T, schedule string) []string {
	t.Helper()
	var ids []string
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	after, more := uint64(0), true
	for more {
		var err error
		more, err = r.tasks.ledger.Changes(ctx, after, 500, func(e bus.Entry[api.TaskRecord]) error {
			if after = e.Rev; e.Verb == "create" && e.State.Schedule == schedule {
				ids = append(ids, e.Key.ID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(ids)
	return ids
}

// expected returns the ids of the tasks planned every minute from a time on.
func expected(schedule string, first time.Time, n int) []string {
	var ids []string
	for i := range n {
		ids = append(ids, TaskID(schedule, first.Add(time.Duration(i)*time.Minute)))
	}
	slices.Sort(ids)
	return ids
}

func sameIDs(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		extra := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return slices.Contains(want, id) })
		t.Errorf("%d tasks, want %d; not wanted: %v", len(got), len(want), extra)
	}
}

func (t *tasks) tries() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls
}

func keyOf(s api.Schedule) bus.Key { return bus.Key{Tenant: s.Tenant, ID: s.ID} }
