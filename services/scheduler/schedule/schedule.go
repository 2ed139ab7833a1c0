// Package schedule makes tasks at the times that schedules plan.
//
// State is the SCHEDULES ledger. One process, chosen by lease, fires: it makes the task, whose id derives from the schedule and the planned
// time, and then moves the schedule's Planned. Whatever dies between the two writes, the next leader finds the same time due, meets
// the task that exists and moves on, so a fire happens exactly once. Planned never goes back, so a clock that does fires nothing
// twice; one that jumps ahead finds fires due, and those later than the schedule's CatchUp are counted as missed.
//
// plan.go says which fires are due, fire.go makes one, ops.go answers people.
package schedule

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
)

// Tasks is what schedules need of tasks.
type Tasks interface {
	// Check refuses a spec of which owner could make no task. Its pointers are those of the spec.
	Check(ctx context.Context, owner Owner, spec api.TaskSpec) error
	// Make makes a task. If there is one of that id already, it returns that.
	Make(ctx context.Context, m Make) (api.Task, error)
	// Recent returns the tasks that a schedule made, newest first, at most limit.
	Recent(tenant, schedule string, limit int) []api.Task
	// Cancel asks a task to end. One that has ended is success.
	Cancel(ctx context.Context, tenant, id, reason string) error
}

// Owner is whose a schedule and its tasks are.
type Owner struct{ Tenant, ID string }

// Make says which task to make.
type Make struct {
	ID       string
	Owner    Owner
	Schedule string
	Spec     api.TaskSpec
}

// Clock is the time, and a way to wait for it.
type Clock interface {
	Now() time.Time
	// After returns a channel that receives when d has passed, and what gives it up.
	After(d time.Duration) (<-chan time.Time, func())
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// After implements Clock.
func (SystemClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// Deps is what the service works with.
type Deps struct {
	Bus      *bus.Conn
	Tasks    Tasks
	Replicas int    // of the ledger; zero: 1
	Holder   string // names this process among the replicas
	// LeaseTTL is how long the lease of a leader that died is waited for; zero: the bus's 3 s.
	LeaseTTL time.Duration
	// Allowed refuses an owner who may make no tasks any more; nil: all may. Its error pauses the schedule, unless it is unavailable.
	Allowed func(ctx context.Context, owner Owner) error
	Clock   Clock        // nil: SystemClock
	Logger  *slog.Logger // nil: none
}

// Service keeps schedules and, while it holds the lease, fires them.
type Service struct {
	deps   Deps
	log    *slog.Logger
	ledger *bus.Ledger[api.Schedule]
	view   *bus.View[api.Schedule]

	mu      sync.Mutex
	leading bool
	touched map[bus.Key]bool // to be looked at; only while leading
	wake    chan struct{}
}

const (
	actor = "service:scheduler"
	// glance bounds how long the leader sleeps: a clock that is set, or a machine that wakes up, is noticed within it.
	glance = time.Second
	// stepTimeout bounds the work on one schedule.
	stepTimeout = 20 * time.Second
	// steps is how many schedules are worked on at once: many are due at a full hour.
	steps = 16
	// A step that failed is repeated after retryMin, doubled up to retryMax.
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// The indexes of the view.
const (
	byTenant = "tenant"
	byOwner  = "owner"
)

func ownerValue(tenant, owner string) string { return tenant + "/" + owner }

// New returns a service that has done nothing yet.
func New(deps Deps) *Service {
	if deps.Clock == nil {
		deps.Clock = SystemClock{}
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{deps: deps, log: deps.Logger, touched: map[bus.Key]bool{}, wake: make(chan struct{}, 1)}
}

// Open makes the ledger; it waits for the bus. The other methods need it.
func (s *Service) Open(ctx context.Context) (err error) {
	s.ledger, err = bus.OpenLedger[api.Schedule](ctx, s.deps.Bus, bus.LedgerConfig{Noun: "schedules", Replicas: s.deps.Replicas})
	if err != nil {
		return err
	}
	s.view = s.ledger.View(bus.ViewConfig[api.Schedule]{
		Indexes: map[string]func(bus.Entry[api.Schedule]) []string{
			byTenant: func(e bus.Entry[api.Schedule]) []string { return []string{e.Key.Tenant} },
			byOwner:  func(e bus.Entry[api.Schedule]) []string { return []string{ownerValue(e.Key.Tenant, e.State.Owner)} },
		},
		OnChange: func(_ *bus.Entry[api.Schedule], now bus.Entry[api.Schedule]) { s.touch(now.Key) },
	})
	return nil
}

// Ready returns nil when operations can be answered.
func (s *Service) Ready(ctx context.Context) error {
	select {
	case <-s.view.Ready():
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "schedules are being read: %w", ctx.Err())
	}
}

// Run follows the ledger, and fires while it holds the lease, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, _ := parts.New(ctx)
	defer group.Stop()
	group.Go("follow schedules", s.view.Run)
	if group.Await(s.view.Ready()) {
		lease := bus.NewLease(s.deps.Bus, bus.LeaseConfig{Service: "scheduler", Name: "schedules", Holder: s.deps.Holder, TTL: s.deps.LeaseTTL})
		group.Go("fire schedules", func(ctx context.Context) error { return lease.Run(ctx, s.lead) })
	}
	return group.Wait()
}

// TaskEnded tells that a task which the schedule made has ended. It does not block.
func (s *Service) TaskEnded(tenant, schedule string) { s.touch(bus.Key{Tenant: tenant, ID: schedule}) }

func (s *Service) touch(key bus.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leading {
		return // whoever leads looks at all of them first
	}
	s.touched[key] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lead fires until ctx ends.
func (s *Service) lead(ctx context.Context, _ uint64) {
	s.mu.Lock()
	s.leading = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.leading = false
		clear(s.touched)
		s.mu.Unlock()
	}()
	s.log.InfoContext(ctx, "fires schedules")
	a := agenda{at: map[bus.Key]time.Time{}, failures: map[bus.Key]int{}}
	s.view.All(func(e bus.Entry[api.Schedule]) bool {
		a.at[e.Key] = time.Time{} // at once
		return true
	})
	for ctx.Err() == nil {
		s.mu.Lock()
		for key := range s.touched {
			a.at[key] = time.Time{}
		}
		clear(s.touched)
		s.mu.Unlock()

		s.work(ctx, &a, a.due(s.deps.Clock.Now()))
		timer, stop := s.deps.Clock.After(a.sleep(s.deps.Clock.Now()))
		select {
		case <-timer:
		case <-s.wake:
		case <-ctx.Done():
		}
		stop()
	}
}

// work takes a step with each schedule, several at once, and notes when to look at them again.
func (s *Service) work(ctx context.Context, a *agenda, keys []bus.Key) {
	places := make(chan struct{}, steps)
	var wg sync.WaitGroup
	for _, key := range keys {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			try, cancel := context.WithTimeout(ctx, stepTimeout)
			defer cancel()
			next, err := s.step(try, key)
			if err != nil && ctx.Err() == nil && !errors.Is(err, errAgain) {
				s.log.WarnContext(ctx, "schedule not served; it is tried again", "tenant", key.Tenant, "schedule", key.ID, "code", api.CodeOf(err), "err", err)
			}
			a.note(key, next, err, s.deps.Clock.Now())
		})
	}
	wg.Wait()
}

// agenda is when to look at which schedule.
type agenda struct {
	mu       sync.Mutex
	at       map[bus.Key]time.Time
	failures map[bus.Key]int
}

// due removes and returns what is to be looked at by now.
func (a *agenda) due(now time.Time) []bus.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []bus.Key
	for key, at := range a.at {
		if !at.After(now) {
			keys = append(keys, key)
			delete(a.at, key)
		}
	}
	return keys
}

func (a *agenda) sleep(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := glance
	for _, at := range a.at {
		d = min(d, at.Sub(now))
	}
	return max(d, 0)
}

// note keeps the outcome of a step: the next time, zero for none, or an error after which it is repeated.
func (a *agenda) note(key bus.Key, next time.Time, err error, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case errors.Is(err, errAgain):
		a.at[key] = time.Time{}
	case err != nil:
		a.at[key] = now.Add(min(retryMin<<min(a.failures[key], 6), retryMax))
		a.failures[key]++
	default:
		delete(a.failures, key)
		if !next.IsZero() {
			a.at[key] = next
		}
	}
}
