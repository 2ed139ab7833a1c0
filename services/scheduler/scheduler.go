// Package scheduler is the service that decides what runs next: tasks and queues. It owns the ledgers TASKS and QUEUES and the blobs that tasks leave;
// its parts for schedules and webhooks (packages schedule, webhook) own theirs.
//
// Operations (create.go, list.go, cancel.go, queues.go) write the ledger and return. Every replica follows the ledger and keeps each queue's
// order in memory (package fair); the one that holds a shard's lease dispatches its queues (dispatch.go): it writes who is next as assigned, and the
// revision of that write is the fence of the attempt (attempt.go), which drives a session as the task's owner until the task has ended, waits again
// or has another attempt. So whatever is killed when, the next holder of the lease goes on from the ledger with the same attempt and the same
// session.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/scheduler/schedule"
	"agentyard.dev/services/scheduler/webhook"
)

// actor is who changes a task when nobody asked.
const actor = "service:scheduler"

// Deps is what the service works with.
type Deps struct {
	Bus     *bus.Conn
	Auth    rpc.Authenticator
	Logger  *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
	Now     func() time.Time      // nil: time.Now
	// Denied, if set, is told of each refused operation. It must not block.
	Denied func(ctx context.Context, op api.OpInfo, p api.Principal, err error)
	// SealKey seals the signing secrets of webhooks where Config.SecretKeysFile names no other key; nil: none.
	SealKey []byte
	// Did, if set, is told of each thing that the service did by itself, for the audit log. It must not block.
	Did func(tenant, action, object, detail string)
	// Execute, if set, runs a task in the place of a session. It is for measuring what the rest costs.
	Execute func(ctx context.Context, t api.Task) api.TaskResult
}

// Service is the scheduler.
type Service struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	now  func() time.Time
	id   string // of this process, among the replicas

	tasks    *bus.Ledger[api.TaskRecord]
	view     *bus.View[api.TaskRecord]
	queues   *bus.Ledger[api.Queue]
	byName   *bus.View[api.Queue]
	sessions *bus.View[api.SessionRecord]
	events   *bus.Log
	blobs    *bus.Blobs
	client   *rpc.Client
	http     *http.Client // to runners
	acting   *acting
	shards   []*shard
	children *children
	watched  *watched
	metrics  *metrics
	// What makes tasks at planned times, and what tells others of them.
	schedules *schedule.Service
	webhooks  *webhook.Service
	ready     chan struct{} // closed when operations are answered
}

// Index names of the view of TASKS.
const (
	indexTenant = "tenant"
	indexOwner  = "owner" // tenant/owner
	indexLive   = "live"  // tenant, those that have not ended
	indexDead   = "dead"  // tenant/queue, those that failed for good
)

// New returns a service that has done nothing yet.
func New(cfg Config, deps Deps) *Service {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Did == nil {
		deps.Did = func(string, string, string, string) {}
	}
	s := &Service{
		cfg: cfg.withDefaults(), deps: deps, log: deps.Logger, now: deps.Now, id: api.NewID('r'),
		children: newChildren(), watched: newWatched(), metrics: newMetrics(deps.Metrics), ready: make(chan struct{}),
	}
	for i := range s.cfg.Shards {
		s.shards = append(s.shards, newShard(s, i))
	}
	return s
}

// Ready reports nil when the service answers operations and the bus is there.
func (s *Service) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.deps.Bus.Ready(ctx)
	default:
		return api.Errorf(api.CodeUnavailable, "the scheduler is starting")
	}
}

// Run opens the ledgers, follows them and serves until ctx ends. What runs goes on without it.
func (s *Service) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	if err := s.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop before the bus was there
		}
		return err
	}
	group, ctx := parts.New(ctx)
	defer group.Stop()
	group.Go("follow queues", s.byName.Run)
	group.Go("follow sessions", s.sessions.Run)
	group.Go("follow tasks", s.view.Run)
	loaded := make(chan struct{}) // all that a dispatcher must know
	for _, sh := range s.shards {
		group.Go("dispatch", func(ctx context.Context) error { return s.lead(ctx, sh, loaded) })
	}
	// The stream of sessions is another service's, which may not have started yet: dispatching waits for it, answering does not.
	if !group.Await(s.byName.Ready(), s.view.Ready()) {
		return group.Wait()
	}
	group.Go("keep schedules", s.schedules.Run)
	group.Go("keep webhooks", s.webhooks.Run)
	if err := errors.Join(s.schedules.Ready(ctx), s.webhooks.Ready(ctx)); err != nil {
		return group.Wait()
	}
	group.Go("await sessions", func(context.Context) error {
		if group.Await(s.sessions.Ready()) {
			close(loaded)
		}
		return nil
	})
	group.Go("keep house", s.keepHouse)
	server := rpc.NewServer(s.deps.Bus, rpc.ServerConfig{
		Service: "scheduler", Auth: s.deps.Auth, Logger: s.log, Metrics: s.deps.Metrics, Denied: s.deps.Denied,
	})
	s.register(server)
	group.Go("serve", server.Run)
	if err := server.Ready(ctx); err == nil {
		close(s.ready)
	}
	return group.Wait()
}

// lead competes for a shard's lease, once it can lead, and dispatches its queues while it is held. That a killed holder is silent counts while this
// process still reads the ledger.
func (s *Service) lead(ctx context.Context, sh *shard, loaded <-chan struct{}) error {
	lease := bus.NewLease(s.deps.Bus, bus.LeaseConfig{Service: "scheduler", Name: fmt.Sprintf("shard-%d", sh.number), Holder: s.id, Ready: loaded})
	return lease.Run(ctx, func(ctx context.Context, _ uint64) { sh.lead(ctx) })
}

func (s *Service) open(ctx context.Context) (err error) {
	conn := s.deps.Bus
	if s.tasks, err = bus.OpenLedger[api.TaskRecord](ctx, conn, bus.LedgerConfig{Noun: "tasks", History: taskHistory, Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	if s.queues, err = bus.OpenLedger[api.Queue](ctx, conn, bus.LedgerConfig{Noun: "queues", Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	if s.blobs, err = bus.OpenBlobs(ctx, conn, bus.BlobsConfig{Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	s.events = bus.ReadLog(conn)
	s.client = rpc.NewClient(conn, rpc.ClientConfig{Name: "scheduler", Metrics: s.deps.Metrics, Timeout: callTimeout})
	s.acting = newActing(s.client, s.now)
	s.http = runnerClient()
	s.byName = s.queues.View(bus.ViewConfig[api.Queue]{
		Indexes:  map[string]func(bus.Entry[api.Queue]) []string{indexTenant: func(e bus.Entry[api.Queue]) []string { return []string{e.Key.Tenant} }},
		OnChange: s.queueChanged,
	})
	s.sessions = bus.ReadLedger[api.SessionRecord](conn, "sessions").View(bus.ViewConfig[api.SessionRecord]{Indexes: sessionIndexes(), OnChange: s.sessionChanged})
	s.view = s.tasks.View(bus.ViewConfig[api.TaskRecord]{Indexes: indexes(), OnChange: s.taskChanged})
	return s.openSchedules(ctx)
}

// taskHistory is how many changes of one task are kept: dozens of attempts.
const taskHistory = 256

func indexes() map[string]func(bus.Entry[api.TaskRecord]) []string {
	type entry = bus.Entry[api.TaskRecord]
	return map[string]func(entry) []string{
		indexTenant: func(e entry) []string { return []string{e.Key.Tenant} },
		indexOwner:  func(e entry) []string { return []string{ownerValue(e.Key.Tenant, e.State.Owner)} },
		indexLive: func(e entry) []string {
			if e.State.State.Final() {
				return nil
			}
			return []string{e.Key.Tenant}
		},
		indexDead: func(e entry) []string {
			if !e.State.DeadLetter {
				return nil
			}
			return []string{ownerValue(e.Key.Tenant, e.State.Queue)}
		},
		indexSchedule: func(e entry) []string {
			if e.State.Schedule == "" {
				return nil
			}
			return []string{ownerValue(e.Key.Tenant, e.State.Schedule)}
		},
	}
}

func ownerValue(tenant, name string) string { return tenant + "/" + name }

// register is the table of the service's operations.
func (s *Service) register(server *rpc.Server) {
	rpc.Handle(server, api.CreateTask, s.create)
	rpc.Handle(server, api.CreateTasks, s.createBatch)
	rpc.Handle(server, api.ListTasks, s.list)
	rpc.Handle(server, api.GetTask, s.get)
	rpc.HandleLong(server, api.WaitTask, maxWait+10*time.Second, s.wait)
	rpc.Handle(server, api.TaskHistory, s.history)
	rpc.Handle(server, api.CancelTask, s.cancel)
	rpc.Handle(server, api.RetryTask, s.retry)
	rpc.Handle(server, api.ListArtifacts, s.artifacts)
	rpc.Handle(server, api.CreateQueue, s.createQueue)
	rpc.Handle(server, api.ListQueues, s.listQueues)
	rpc.Handle(server, api.GetQueue, s.getQueue)
	rpc.Handle(server, api.UpdateQueue, s.updateQueue)
	rpc.Handle(server, api.DeleteQueue, s.deleteQueue)
	rpc.Handle(server, api.PauseQueue, s.pauseQueue)
	rpc.Handle(server, api.ResumeQueue, s.resumeQueue)
	rpc.Handle(server, api.GetQueueStats, s.queueStats)
	rpc.Handle(server, api.ListDeadLetters, s.deadLetters)
	rpc.Handle(server, api.Redrive, s.redrive)
	rpc.HandleLong(server, api.SweepTasks, sweepTimeout+10*time.Second, s.sweepTasks)
	s.schedules.Register(server)
	s.webhooks.Register(server)
}

// shardOf returns the shard that dispatches a queue.
func (s *Service) shardOf(queue string) *shard {
	h := fnv.New32a()
	_, _ = h.Write([]byte(queue)) // never fails
	return s.shards[int(h.Sum32())%len(s.shards)]
}

// public returns the part of an entry that leaves the service, with where the task stands now.
func (s *Service) public(e bus.Entry[api.TaskRecord]) api.Task {
	out := shown(e)
	switch out.State {
	case api.TaskBlocked:
		out.WaitReason = api.WaitDependencies
	case api.TaskQueued:
		out.WaitReason, out.Position = s.shardOf(out.Queue).why(e)
	}
	return out
}

// shown is public without where the task stands.
func shown(e bus.Entry[api.TaskRecord]) api.Task {
	out := e.State.Task
	out.Rev, out.Env = e.Rev, nil
	return out
}

// find returns the task id of the caller's tenant on which the caller holds perm. What does not exist, is another
// tenant's or another owner's is not_found alike, so that an id tells nothing.
func (s *Service) find(ctx context.Context, perm api.Permission, id string) (bus.Entry[api.TaskRecord], api.Principal, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return bus.Entry[api.TaskRecord]{}, p, api.Errorf(api.CodeUnauthenticated, "no credential")
	}
	e, err := s.lookUp(ctx, p, perm, id)
	return e, p, err
}

// lookUp is find for a caller that is known.
func (s *Service) lookUp(ctx context.Context, p api.Principal, perm api.Permission, id string) (bus.Entry[api.TaskRecord], error) {
	missing := api.Errorf(api.CodeNotFound, "there is no task %q", clip(id, 40))
	if !api.ValidID(api.KindTask, id) {
		return bus.Entry[api.TaskRecord]{}, missing
	}
	key := keyIn(p.Tenant, id)
	e, ok := s.view.Get(key)
	if !ok { // another replica may have just made it
		var err error
		if e, err = s.tasks.Get(ctx, key); err != nil {
			if api.CodeOf(err) == api.CodeNotFound {
				err = missing
			}
			return bus.Entry[api.TaskRecord]{}, err
		}
	}
	if !p.CanOn(perm, e.State.Tenant, e.State.Owner) {
		return bus.Entry[api.TaskRecord]{}, missing
	}
	return e, nil
}
