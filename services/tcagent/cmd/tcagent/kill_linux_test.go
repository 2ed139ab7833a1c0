package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestKill kills the agent at any moment of a stream of plans: the session is never without, and the next agent brings the newest.
func TestKill(t *testing.T) {
	n := newNode(t)
	key, meta := bus.Key{Tenant: api.TrafficNodeToken("n1"), ID: "s1"}, bus.Meta{Actor: "test", Verb: "plan"}
	put := func(rate tc.BitsPerSecond) (hash string) {
		leaf := tc.Leaf{
			Minor: tc.DefaultMinor, Class: "all", Rate: rate, Ceiling: rate, Burst: 20_000, CeilingBurst: 20_000, Quantum: 1514,
			Queue: tc.Queue{Kind: tc.BFIFO, Limit: 100_000},
		}
		p := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Enforce, Download: &tc.Tree{
			Place: tc.AtHost, Rate: rate, Burst: 20_000, Default: tc.DefaultMinor, MTU: 1514, Leaves: []tc.Leaf{leaf},
		}}
		r := api.TrafficPlanRecord{Node: "n1", Session: "s1", Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4}
		_, err := n.plans.Update(t.Context(), key, meta, func(api.TrafficPlanRecord) (api.TrafficPlanRecord, error) { return r, nil })
		if api.CodeOf(err) == api.CodeNotFound && err != nil {
			_, err = n.plans.Create(t.Context(), key, meta, r)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r.Hash
	}
	p := daemontest.Start(t, n.args...)
	put(10 * tc.Mbit)
	n.wait("in force", func() bool { return n.rate() == 10*tc.Mbit })
	for i := range 5 {
		rate := tc.BitsPerSecond(11+i) * tc.Mbit
		put(rate)
		if i%2 == 0 { // else it dies somewhere in between
			n.wait("in force", func() bool { return n.rate() == rate })
		}
		p.Kill()
		if got := n.rate(); got != rate && got != rate-tc.Mbit {
			t.Errorf("the agent died, and the kernel has %v", got)
		}
		p = daemontest.Start(t, n.args...)
		n.wait("in force again", func() bool { return n.rate() == rate })
	}
	hash := put(50 * tc.Mbit)
	n.wait("reported", func() bool {
		e, err := n.nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "n1"})
		return err == nil && e.State.Applied["s1"].Hash == hash && e.State.Applied["s1"].State == "applied"
	})
	e, err := n.nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "n1"})
	var can tc.Capabilities
	if err != nil || json.Unmarshal(e.State.Capabilities, &can) != nil || !can.HTB {
		t.Errorf("the node is reported as %+v %v", e.State, err)
	}
	if metrics := p.Becomes(t, "/metrics", http.StatusOK); !strings.Contains(metrics, `agentyard_traffic_sessions{state="applied"} 1`) {
		t.Error("/metrics does not tell of the session")
	}
	p.Stops(t)
	if got := n.rate(); got != 50*tc.Mbit {
		t.Errorf("the agent stopped, and the kernel has %v", got)
	}
}
