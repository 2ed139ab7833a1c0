package tcagent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
	"agentyard.dev/services/tcagent"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// yard is a bus, a controller's hand on it, and a node with one session.
type yard struct {
	*testing.T
	ring  *bus.Keyring
	srv   *bus.Server
	dir   string // of the bus
	data  string // of the agent
	conn  *bus.Conn
	plans *bus.Ledger[api.TrafficPlanRecord]
	nodes *bus.Ledger[api.TrafficNodeRecord]
	lab   *kerneltest.Lab

	config  tcagent.Config // of agents
	runtime tcagent.Runtime
}

func newYard(t *testing.T) *yard {
	t.Helper()
	ring, err := bus.OpenKeyring(t.TempDir())
	must(t, err)
	y := &yard{T: t, ring: ring, dir: t.TempDir(), data: t.TempDir(), lab: kerneltest.NewLab(t)}
	y.config = tcagent.Config{Node: node, Data: y.data, Namespace: y.lab.Node.Path()}
	y.srv = bustest.Start(t, ring, y.dir, "127.0.0.1:0")
	y.open()
	y.lab.Session.Inhabit(t)
	return y
}

// open connects to the bus and makes its ledgers, as the controller does.
func (y *yard) open() {
	y.Helper()
	y.conn = bustest.Connect(y.T, y.srv, y.ring, "tcagent")
	ctx, cancel := context.WithTimeout(y.Context(), patience)
	defer cancel()
	var err error
	y.plans, err = bus.OpenLedger[api.TrafficPlanRecord](ctx, y.conn, bus.LedgerConfig{Noun: api.NounPlans, History: 8, Live: api.LivePlansPrefix})
	must(y.T, err)
	y.nodes, err = bus.OpenLedger[api.TrafficNodeRecord](ctx, y.conn, bus.LedgerConfig{Noun: api.NounNodes, History: 8})
	must(y.T, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const node = "node-1.example"

// agent starts a node agent; stop ends it and waits.
func (y *yard) agent(reg prometheus.Registerer) (stop func()) {
	y.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn := bustest.ConnectNode(y.T, y.srv, y.ring, api.TrafficNodeToken(node))
	return y.agentOn(ctx, cancel, conn, reg)
}

func (y *yard) agentOn(ctx context.Context, cancel context.CancelFunc, conn *bus.Conn, reg prometheus.Registerer) (stop func()) {
	s := tcagent.New(y.config, tcagent.Deps{Bus: conn, Version: "test", Metrics: reg, Runtime: y.runtime})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				y.Errorf("agent: %v", err)
			}
		case <-time.After(patience):
			y.Error("the agent did not stop")
		}
	}
	y.Cleanup(stop)
	return stop
}

// plan writes a session's plan as the controller does, and returns its revision and hash.
func (y *yard) plan(session, address string, p *tc.Plan) (rev uint64, hash string) {
	y.Helper()
	return y.write(api.TrafficPlanRecord{Node: node, Tenant: "acme", Session: session, Hash: p.Hash(), Plan: p.Bytes(), Address: address})
}

func (y *yard) write(record api.TrafficPlanRecord) (rev uint64, hash string) {
	y.Helper()
	key, meta := bus.Key{Tenant: api.TrafficNodeToken(node), ID: record.Session}, bus.Meta{Actor: "test", Verb: "plan"}
	e, err := y.plans.Update(y.Context(), key, meta, func(api.TrafficPlanRecord) (api.TrafficPlanRecord, error) { return record, nil })
	if api.CodeOf(err) == api.CodeNotFound && err != nil {
		e, err = y.plans.Create(y.Context(), key, meta, record)
	}
	must(y.T, err)
	return e.Rev, record.Hash
}

// reports waits until the node says of the session what ok accepts.
func (y *yard) reports(session string, ok func(a api.TrafficPlanApplied, there bool) bool) api.TrafficPlanApplied {
	y.Helper()
	var got api.TrafficPlanApplied
	y.until(func() (bool, string) {
		e, err := y.nodes.Get(y.Context(), bus.Key{Tenant: api.HomeTenant, ID: api.TrafficNodeToken(node)})
		if err != nil {
			return false, err.Error()
		}
		a, there := e.State.Applied[session]
		got = a
		return ok(a, there), fmt.Sprintf("%+v", a)
	})
	return got
}

func (y *yard) applied(session, hash string) api.TrafficPlanApplied {
	y.Helper()
	return y.reports(session, func(a api.TrafficPlanApplied, _ bool) bool { return a.State == "applied" && a.Hash == hash })
}

// counts waits until the node publishes counters of a session that ok accepts.
func (y *yard) counts(what string, ok func(api.TrafficSessionCounters) bool) {
	y.Helper()
	ctx, cancel := context.WithTimeout(y.Context(), patience)
	defer cancel()
	heard := make(chan struct{}, 1)
	must(y.T, y.conn.Subscribe(ctx, api.LiveCountersPrefix+api.TrafficNodeToken(node), func(_ string, _ bus.Header, data []byte) {
		var c api.TrafficCounters
		if json.Unmarshal(data, &c) == nil && slices.ContainsFunc(c.Sessions, ok) {
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	}, nil))
	select {
	case <-heard:
	case <-ctx.Done():
		y.Fatalf("nobody says: %s", what)
	}
}

func (y *yard) until(ok func() (bool, string)) {
	y.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		done, seen := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			y.Fatalf("did not become so: %s", seen)
		}
	}
}

// rate is the download rate that the kernel has for a session's interface; 0: none.
func (y *yard) rate(device string) tc.BitsPerSecond {
	y.Helper()
	return kerneltest.RateOf(y.T, y.lab.Node, device)
}

func (y *yard) becomes(device string, want tc.BitsPerSecond) {
	y.Helper()
	y.until(func() (bool, string) {
		got := y.rate(device)
		return got == want, got.String()
	})
}

// shaped is a plan both ways, of one class.
func shaped(session string, rate tc.BitsPerSecond) *tc.Plan {
	tree := func(place tc.Place) *tc.Tree {
		return &tc.Tree{
			Place: place, Rate: rate, Burst: 20_000, Default: tc.DefaultMinor, MTU: 1514, Leaves: []tc.Leaf{{
				Minor: tc.DefaultMinor, Class: "all", Rate: rate, Ceiling: rate, Burst: 20_000, CeilingBurst: 20_000, Quantum: 1514,
				Queue: tc.Queue{Kind: tc.BFIFO, Limit: 100_000},
			}},
		}
	}
	return &tc.Plan{Format: tc.PlanFormat, Session: session, Mode: tc.Enforce, Download: tree(tc.AtHost), Upload: tree(tc.AtIFB)}
}

func decode[T any](t *testing.T, data []byte) (v T) {
	t.Helper()
	must(t, json.Unmarshal(data, &v))
	return v
}
