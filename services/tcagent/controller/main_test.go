package controller_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/token"
	"agentyard.dev/services/tcagent/controller"
)

const patience = 30 * time.Second

// able is a node that can do everything.
var able = tc.Capabilities{
	HTB: true, FQCodel: true, SFQ: true, BFIFO: true, IFB: true, Peer: true, U32: true, BPF: true,
	NetdevIngress: true, NetdevEgress: true, ConnLimit: true, TicksPerSecond: 1000,
}

type keys map[string]ed25519.PublicKey

func (k keys) VerifyingKeys() map[string]ed25519.PublicKey { return k }

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) set(at time.Time) { c.mu.Lock(); c.at = at; c.mu.Unlock() }

// yard is a controller on a real bus; the test is the sessions service, the node agents and the gateway.
type yard struct {
	t        *testing.T
	srv      *bus.Server
	ring     *bus.Keyring
	key      token.SigningKey
	client   *rpc.Client
	sessions *bus.Ledger[api.SessionRecord]
	agent    *bus.Conn
	clock    clock
	stop     func() // the first replica

	plans *bus.View[api.TrafficPlanRecord]
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{t: t}
	y.clock.set(time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)) // a Monday
	y.srv, y.ring = bustest.New(t)
	var err error
	if y.key, err = token.NewSigningKey(time.Now(), time.Now(), time.Now().Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	y.client = rpc.NewClient(bustest.Connect(t, y.srv, y.ring, "gateway"), rpc.ClientConfig{Name: "gateway", Timeout: patience})
	if y.sessions, err = bus.OpenLedger[api.SessionRecord](t.Context(), bustest.Connect(t, y.srv, y.ring, "sessions"), bus.LedgerConfig{Noun: "sessions"}); err != nil {
		t.Fatal(err)
	}
	y.agent = bustest.Connect(t, y.srv, y.ring, "tcagent")
	y.stop = y.start()
	y.plans = bus.ReadLedger[api.TrafficPlanRecord](y.agent, api.NounPlans).View(bus.ViewConfig[api.TrafficPlanRecord]{})
	y.run(y.plans.Run)
	<-y.plans.Ready()
	return y
}

// run runs f until the test's end, or until what it returns is called.
func (y *yard) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			y.t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	y.t.Cleanup(stop)
	return stop
}

// start starts a replica and returns when it answers.
func (y *yard) start() (stop func()) {
	y.t.Helper()
	c := controller.New(controller.DefaultConfig(), controller.Deps{
		Bus:  bustest.Connect(y.t, y.srv, y.ring, "tcagent"),
		Auth: token.NewVerifier(keys{y.key.ID: y.key.Private.Public().(ed25519.PublicKey)}, nil, nil),
		Now:  y.clock.now, Logger: slog.New(slog.NewTextHandler(y.t.Output(), nil)),
	})
	stop = y.run(c.Run)
	y.eventually("the controller is ready", func() bool { return c.Ready(y.t.Context()) == nil })
	return stop
}

// as returns a context with the token of a user; "tenant/name" is one of another tenant.
func (y *yard) as(name string, roles ...api.Role) context.Context {
	y.t.Helper()
	tenant := api.HomeTenant
	if t, n, ok := strings.Cut(name, "/"); ok {
		tenant, name = t, n
	}
	raw, err := token.Mint(y.key, api.Principal{ID: userID(tenant, name), Tenant: tenant, Name: name, Roles: roles}, time.Now(), 30*time.Minute)
	if err != nil {
		y.t.Fatal(err)
	}
	return token.WithRaw(context.Background(), raw)
}

func userID(tenant, name string) string { return api.DeriveID(api.KindUser, tenant, name) }

func (y *yard) eventually(what string, ok func() bool) {
	y.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			y.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// session starts a session of alice's.
func (y *yard) session(tenant, node string, labels map[string]string) string {
	y.t.Helper()
	id := api.NewID(api.KindSession)
	var r api.SessionRecord
	r.ID, r.Tenant, r.Owner, r.Node, r.State, r.Labels = id, tenant, userID(tenant, "alice"), node, api.StateRunning, labels
	if _, err := y.sessions.Create(y.t.Context(), bus.Key{Tenant: tenant, ID: id}, bus.Meta{Actor: "test", Verb: "create"}, r); err != nil {
		y.t.Fatal(err)
	}
	return id
}

func (y *yard) change(tenant, id string, f func(*api.SessionRecord)) {
	y.t.Helper()
	if _, err := y.sessions.Update(y.t.Context(), bus.Key{Tenant: tenant, ID: id}, bus.Meta{Actor: "test", Verb: "change"}, func(r api.SessionRecord) (api.SessionRecord, error) {
		f(&r)
		return r, nil
	}); err != nil {
		y.t.Fatal(err)
	}
}

// report is a node agent's word about its node.
func (y *yard) report(node, uplink string, can tc.Capabilities, applied map[string]api.TrafficPlanApplied) {
	y.t.Helper()
	y.reportAs(node, uplink, can, applied, true)
}

// reportAs is report of an agent that follows shared plans, or does not yet.
func (y *yard) reportAs(node, uplink string, can tc.Capabilities, applied map[string]api.TrafficPlanApplied, shares bool) {
	y.t.Helper()
	data, err := json.Marshal(can)
	if err != nil {
		y.t.Fatal(err)
	}
	record := api.TrafficNodeRecord{Name: node, Agent: "test", ReportedAt: y.clock.now(), Capabilities: data, Uplink: uplink, Applied: applied, Shares: shares}
	nodes := bus.ReadLedger[api.TrafficNodeRecord](y.agent, api.NounNodes)
	key, meta := bus.Key{Tenant: api.HomeTenant, ID: api.TrafficNodeToken(node)}, bus.Meta{Actor: "node", Verb: "report"}
	_, err = nodes.Create(y.t.Context(), key, meta, record)
	if api.CodeOf(err) == api.CodeConflict {
		_, err = nodes.Update(y.t.Context(), key, meta, func(api.TrafficNodeRecord) (api.TrafficNodeRecord, error) { return record, nil })
	}
	if err != nil {
		y.t.Fatal(err)
	}
}

// planned waits for a session's plan of which ok answers true.
func (y *yard) planned(what, node, session string, ok func(tc.Plan) bool) (rev uint64) {
	y.t.Helper()
	y.eventually(what, func() bool {
		e, found := y.plans.Get(bus.Key{Tenant: api.TrafficNodeToken(node), ID: session})
		if !found {
			return false
		}
		var plan tc.Plan
		if err := json.Unmarshal(e.State.Plan, &plan); err != nil {
			y.t.Fatal(err)
		}
		if plan.Hash() != e.State.Hash {
			y.t.Fatalf("the hash of %s is not its plan's", session)
		}
		rev = e.Rev
		return ok(plan)
	})
	return rev
}

func downloads(r tc.BitsPerSecond) func(tc.Plan) bool {
	return func(p tc.Plan) bool { return p.Download != nil && p.Download.Rate == r }
}

func isOff(p tc.Plan) bool { return p.Mode == tc.Off }

// spec reads a policy as a client would send it.
func spec(t *testing.T, text string) api.TrafficSpec {
	t.Helper()
	p, err := tc.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var s api.TrafficSpec
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (y *yard) apply(ctx context.Context, text string) api.TrafficPolicy {
	y.t.Helper()
	s := spec(y.t, text)
	return must(rpc.Call(ctx, y.client, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: s.Name, Policy: s}))(y.t)
}

func refused(t *testing.T, want api.Code, pointer string, err error) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Errorf("got %v, want %s", err, want)
		return
	}
	if pointer != "" && (len(e.Fields) == 0 || e.Fields[0].Pointer != pointer) {
		t.Errorf("blames %+v, want %s", e.Fields, pointer)
	}
}
