// Package tcagent is the node agent: it makes one node's kernel do what its sessions' traffic plans say, and needs no Kubernetes for it.
//
// It follows its own node's plans (follow.go) and keeps the last ones on disk (store.go), finds each session's interface (find.go), and
// makes the kernel hold the plan (enforce.go): on news, when somebody else changes what is there, and at each audit. It reports what it
// applied (report.go) and what the kernel counts (count.go). It answers no requests, knows policies no more than tenants, and changes nothing when it
// stops: what is in force stays.
package tcagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

// Deps is what the service works with.
type Deps struct {
	Bus     *bus.Conn
	Version string
	Logger  *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
	// Runtime knows the pods of the node; nil: the node's processes are looked through.
	Runtime Runtime
	// Rehearsal, if not nil, has the agent do all that it does, but to a kernel: for measuring controllers and buses.
	Rehearsal *Rehearsal
}

// Runtime is the node's container runtime (package cri).
type Runtime interface {
	// Pods lists the pods that are ready and have a network namespace of their own. It bounds its own time, and is cheap to ask again.
	Pods(ctx context.Context) ([]Pod, error)
}

// Pod is a pod of the node.
type Pod struct {
	ID        string // of its sandbox, of which there is one for each network namespace
	Labels    map[string]string
	Addresses []netip.Addr
	PID       int // of a process in its network namespace, in the numbers of the node
}

// Rehearsal stands in for a kernel.
type Rehearsal struct {
	Capabilities tc.Capabilities      // are reported
	Applied      func(session string) // is called where a session's plan would be applied; it must not block
}

// Service is the node agent of one node.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	token   string // the node's, on the bus
	metrics *metrics
	store   store

	// kernel is nil where the node cannot control traffic; unable says why.
	kernel  *kernel.Kernel
	unable  error
	finder  *finder
	shelter *shelter // nil: there is no default policy

	// reported is the node's entry in NODES as it was written last. It is report's.
	reported bus.Entry[api.TrafficNodeRecord]

	mu       sync.Mutex
	sessions map[string]*session
	shared   map[string]*shared   // plans that sessions share, by their ids
	untold   map[string]struct{}  // sessions with news that NODES says later
	complete bool                 // the ledger was read to its head since the agent started
	told     bool                 // the bus has told of some plan since the agent started
	epoch    int64                // the newest that it told of (position)
	dirty    map[string]struct{}  // sessions to look at
	faults   map[string]time.Time // when those of sessions end
	gone     map[int]bool         // interfaces, by index, that the finder has not heard of yet
	wake     chan struct{}        // there are some
	news     chan struct{}        // there is something to report
	reportBy time.Time            // when NODES says what was announced; zero: it says all
}

// New returns the service; Run starts it.
func New(cfg Config, deps Deps) *Service {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	cfg = cfg.withDefaults()
	return &Service{
		cfg: cfg, deps: deps, log: deps.Logger, token: api.TrafficNodeToken(cfg.Node), metrics: newMetrics(deps.Metrics), store: store{dir: cfg.Data},
		sessions: map[string]*session{}, shared: map[string]*shared{}, untold: map[string]struct{}{}, faults: map[string]time.Time{}, dirty: map[string]struct{}{}, wake: make(chan struct{}, 1), news: make(chan struct{}, 1),
	}
}

// Ready reports nil when the service can do all its work: the bus answers. Without it the plans that it has stay in force.
func (s *Service) Ready(ctx context.Context) error { return s.deps.Bus.Ready(ctx) }

// Run works until ctx ends, and leaves in force what is.
func (s *Service) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	if s.kernel != nil {
		defer func() { _ = s.kernel.Close() }()
	}
	group, _ := parts.New(ctx)
	defer group.Stop()
	group.Go("enforce", s.enforce)
	group.Go("follow plans", s.follow)
	group.Go("report", s.report)
	if s.kernel != nil {
		group.Go("watch", s.watch)
		group.Go("count", s.count)
		if s.cfg.Uplink != "" {
			group.Go("share the uplink", s.allocate)
		}
	}
	return group.Wait()
}

// open probes the kernel and takes up the plans that an agent before this one accepted.
func (s *Service) open(ctx context.Context) error {
	if s.deps.Rehearsal != nil {
		s.log.WarnContext(ctx, "this is a rehearsal: no traffic is controlled")
	} else if k, err := kernel.Open(s.cfg.Namespace); err != nil {
		// Whatever it is: an agent that says so is better than none.
		s.unable = err
		s.log.WarnContext(ctx, "this node cannot control traffic; its sessions' traffic is not limited", "err", err)
	} else {
		s.kernel, s.finder = k, newFinder(s.cfg.Proc, k, s.deps.Runtime, s.log)
		if s.cfg.Default != "" {
			if s.shelter, err = newShelter(s.cfg.Default); err != nil {
				return errors.Join(err, k.Close())
			}
		}
	}
	kept, err := s.store.load(s.log)
	if err != nil {
		return err
	}
	for _, a := range kept {
		if plan, err := decode(received{TrafficPlanRecord: a.Record}); err != nil {
			s.log.WarnContext(ctx, "a kept plan cannot be used", "session", a.Record.Session, "err", err)
		} else {
			n := &session{accepted: a, heard: a.position, own: received{TrafficPlanRecord: a.Record}, plan: plan}
			if a.Own != (position{}) {
				n.heard = a.Own
			}
			s.sessions[a.Record.Session] = n
			s.look(a.Record.Session)
		}
	}
	s.log.InfoContext(ctx, "tcagent runs", "node", s.cfg.Node, "kept", len(kept), "capabilities", fmt.Sprintf("%+v", s.capabilities()))
	return nil
}

func (s *Service) capabilities() tc.Capabilities {
	if s.deps.Rehearsal != nil {
		return s.deps.Rehearsal.Capabilities
	}
	if s.kernel == nil {
		return tc.Capabilities{}
	}
	return s.kernel.Capabilities()
}
