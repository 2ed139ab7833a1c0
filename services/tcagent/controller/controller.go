// Package controller is the traffic controller: it owns the POLICIES ledger, answers the operations on it, and compiles policies, sessions and
// nodes' capabilities into the PLANS ledger, which node agents follow.
//
// Every replica answers operations (policy.go, preview.go, status.go); one, chosen by lease, compiles (planner.go). What it writes depends on nothing but
// the three ledgers that it reads and the time, so that any replica goes on where another stopped, and writes nothing that is there already.
package controller

import (
	"context"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
	"agentyard.dev/libs/rpc"
)

// actor is who changes a plan.
const actor = "service:tcagent"

// Deps is what the controller works with.
type Deps struct {
	Bus     *bus.Conn
	Auth    rpc.Authenticator
	Logger  *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
	Now     func() time.Time      // nil: time.Now
	// Denied, if set, is told of each refused operation. It must not block.
	Denied func(ctx context.Context, op api.OpInfo, p api.Principal, err error)
	// Acted, if set, is told of each fault that somebody puts on a session's traffic or ends, for the audit log. It must not block.
	Acted func(ctx context.Context, op api.OpInfo, object string)
	// Reported, if set, is told of what a node reports, by its token, once policies' status counts it: of all its sessions, or of those that something
	// has just become of. It must not block.
	Reported func(node string, r api.TrafficNodeRecord)
}

// Controller is the traffic controller.
type Controller struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	policies *bus.Ledger[api.TrafficPolicy]
	byName   *bus.View[api.TrafficPolicy]
	plans    *bus.Ledger[api.TrafficPlanRecord]
	planned  *bus.View[api.TrafficPlanRecord]
	nodes    *bus.View[api.TrafficNodeRecord]
	sessions *bus.View[facts]

	world   *world
	counts  *counts
	news    *news
	term    atomic.Pointer[queue] // sessions to plan; nil while another replica does it
	last    atomic.Pointer[shape] // encode.go
	can     atomic.Pointer[able]
	metrics *metrics
	ready   chan struct{} // closed when operations are answered
}

// facts is what traffic depends on of a session.
type facts struct {
	ID     string            `json:"id"`
	Tenant string            `json:"tenant"`
	Owner  string            `json:"owner"`
	Node   string            `json:"node"`
	State  api.State         `json:"state"`
	Labels map[string]string `json:"labels"`
	// Endpoint is where its runner serves HTTP.
	Endpoint string `json:"endpoint"`
	// Address is its own IP address, where the endpoint does not say it.
	Address string `json:"address"`
}

// address is the session's own IP address, by which its node's agent finds its interface; empty: none.
func (f facts) address() string {
	if f.Address != "" {
		return f.Address
	}
	u, err := url.Parse(f.Endpoint)
	if err != nil {
		return ""
	}
	if a, err := netip.ParseAddr(u.Hostname()); err != nil || a.IsLoopback() {
		return ""
	}
	return u.Hostname()
}

// Index names of the views.
const (
	indexTenant  = "tenant"
	indexID      = "id"
	indexSession = "session"
	indexNode    = "node"
	indexFault   = "fault"
	indexGroup   = "group"
)

// New returns a controller that has done nothing yet.
func New(cfg Config, deps Deps) *Controller {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &Controller{
		cfg: cfg, deps: deps, log: deps.Logger, world: newWorld(), counts: newCounts(), news: newNews(), metrics: newMetrics(deps.Metrics), ready: make(chan struct{}),
	}
}

// Ready reports nil when the controller answers operations.
func (c *Controller) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return c.deps.Bus.Ready(ctx)
	default:
		return api.Errorf(api.CodeUnavailable, "the traffic controller is starting")
	}
}

// Run opens the ledgers and serves until ctx ends. Node agents go on without it.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before the bus was there
		}
		return err
	}
	group, ctx := parts.New(ctx)
	defer group.Stop()
	group.Go("follow policies", c.byName.Run)
	group.Go("follow plans", c.planned.Run)
	group.Go("follow nodes", c.nodes.Run)
	group.Go("follow sessions", c.sessions.Run)
	group.Go("follow counters", c.listen)
	// Sessions are another's ledger, which may not be there yet: operations on policies do not wait for it.
	if !group.Await(c.byName.Ready(), c.planned.Ready(), c.nodes.Ready()) {
		return group.Wait()
	}
	group.Go("compete", c.compete)
	server := rpc.NewServer(c.deps.Bus, rpc.ServerConfig{
		Service: "tcagent", Auth: c.deps.Auth, Logger: c.log, Metrics: c.deps.Metrics, Denied: c.deps.Denied,
	})
	c.register(server)
	group.Go("serve", server.Run)
	if err := server.Ready(ctx); err == nil {
		close(c.ready)
	}
	return group.Wait()
}

// planHistory is how many of a session's plans are kept.
const planHistory = 8

func (c *Controller) open(ctx context.Context) (err error) {
	conn := c.deps.Bus
	if c.policies, err = bus.OpenLedger[api.TrafficPolicy](ctx, conn, bus.LedgerConfig{Noun: "policies"}); err != nil {
		return err
	}
	if c.plans, err = bus.OpenLedger[api.TrafficPlanRecord](ctx, conn, bus.LedgerConfig{
		Noun: api.NounPlans, History: planHistory, Live: api.LivePlansPrefix,
	}); err != nil {
		return err
	}
	nodes, err := bus.OpenLedger[api.TrafficNodeRecord](ctx, conn, bus.LedgerConfig{Noun: api.NounNodes, History: planHistory})
	if err != nil {
		return err
	}
	c.byName = c.policies.View(bus.ViewConfig[api.TrafficPolicy]{
		Indexes: map[string]func(bus.Entry[api.TrafficPolicy]) []string{
			indexTenant: func(e bus.Entry[api.TrafficPolicy]) []string { return []string{e.Key.Tenant} },
			indexID:     func(e bus.Entry[api.TrafficPolicy]) []string { return []string{e.Key.Tenant + "/" + e.State.ID} },
		},
		OnChange: func(_ *bus.Entry[api.TrafficPolicy], now bus.Entry[api.TrafficPolicy]) { c.policyChanged(now) },
	})
	c.planned = c.plans.View(bus.ViewConfig[api.TrafficPlanRecord]{
		Indexes: map[string]func(bus.Entry[api.TrafficPlanRecord]) []string{
			indexSession: func(e bus.Entry[api.TrafficPlanRecord]) []string {
				return []string{sessionOf(e).Tenant + "/" + e.Key.ID}
			},
			indexFault: faulted,
			indexGroup: grouped,
		},
		OnChange: func(_ *bus.Entry[api.TrafficPlanRecord], now bus.Entry[api.TrafficPlanRecord]) {
			if now.State.Fault != nil { // whose end the replica that compiles has to know
				c.dirty(sessionOf(now))
			}
		},
	})
	c.nodes = nodes.View(bus.ViewConfig[api.TrafficNodeRecord]{
		Indexes: map[string]func(bus.Entry[api.TrafficNodeRecord]) []string{
			indexTenant: func(e bus.Entry[api.TrafficNodeRecord]) []string { return []string{e.Key.Tenant} },
		},
		OnChange: c.nodeChanged,
	})
	c.sessions = bus.ReadLedger[facts](conn, "sessions").View(bus.ViewConfig[facts]{
		Indexes: map[string]func(bus.Entry[facts]) []string{
			indexTenant: func(e bus.Entry[facts]) []string { return live(e, e.Key.Tenant) },
			indexNode:   func(e bus.Entry[facts]) []string { return live(e, api.TrafficNodeToken(e.State.Node)) },
		},
		OnChange: func(_ *bus.Entry[facts], now bus.Entry[facts]) { c.dirty(now.Key) },
	})
	return nil
}

// live lists an entry under value while its session has not ended.
func live(e bus.Entry[facts], value string) []string {
	if e.State.State.Final() {
		return nil
	}
	return []string{value}
}

// sessionOf is the session of a plan. The key of a plan is its node's and the session's.
func sessionOf(e bus.Entry[api.TrafficPlanRecord]) bus.Key {
	return bus.Key{Tenant: e.State.Tenant, ID: e.Key.ID}
}

// register is the table of the controller's operations.
func (c *Controller) register(server *rpc.Server) {
	rpc.Handle(server, api.CreateTrafficPolicy, c.create)
	rpc.Handle(server, api.ListTrafficPolicies, c.list)
	rpc.Handle(server, api.GetTrafficPolicy, c.get)
	rpc.Handle(server, api.ApplyTrafficPolicy, c.apply)
	rpc.Handle(server, api.DeleteTrafficPolicy, c.delete)
	rpc.Handle(server, api.TrafficPolicyHistory, c.history)
	rpc.Handle(server, api.PlanTrafficPolicy, c.preview)
	rpc.Handle(server, api.EffectiveTraffic, c.effective)
	rpc.Handle(server, api.ListTrafficNodes, c.listNodes)
	rpc.Handle(server, api.GetTrafficSession, c.session)
	rpc.Handle(server, api.CreateTrafficFault, c.createFault)
	rpc.Handle(server, api.ListTrafficFaults, c.listFaults)
	rpc.Handle(server, api.DeleteTrafficFault, c.deleteFault)
}

// leaseTTL is how long a replica that died may keep the others from compiling; plans that are in force stay so.
const leaseTTL = 3 * time.Second

// compete compiles whenever this replica holds the lease.
func (c *Controller) compete(ctx context.Context) error {
	select {
	case <-c.sessions.Ready():
	case <-ctx.Done():
		return nil
	}
	host, _ := os.Hostname()
	lease := bus.NewLease(c.deps.Bus, bus.LeaseConfig{
		Service: "tcagent", Name: "compile", TTL: leaseTTL,
		Holder: host + "-" + strconv.Itoa(os.Getpid()) + "-" + api.NewID(api.KindPolicy)[1:9],
	})
	return lease.Run(ctx, func(ctx context.Context, fence uint64) {
		c.log.Info("this replica compiles", "fence", fence)
		c.compile(ctx)
		c.log.Info("this replica compiles no more", "fence", fence)
	})
}
