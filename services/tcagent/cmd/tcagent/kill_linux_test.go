package main

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestKill kills the agent at any moment of a stream of plans: the session is never without, and the next agent brings the newest.
func TestKill(t *testing.T) {
	lab := kerneltest.NewLab(t)
	sleeper := exec.Command("sleep", "600")
	if err := lab.Session.Do(sleeper.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	})
	server, ring := bustest.New(t)
	conn := bustest.Connect(t, server, ring, "tcagent")
	plans, err := bus.OpenLedger[api.TrafficPlanRecord](t.Context(), conn, bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := bus.OpenLedger[api.TrafficNodeRecord](t.Context(), conn, bus.LedgerConfig{Noun: api.NounNodes})
	if err != nil {
		t.Fatal(err)
	}
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
		_, err := plans.Update(t.Context(), key, meta, func(api.TrafficPlanRecord) (api.TrafficPlanRecord, error) { return r, nil })
		if api.CodeOf(err) == api.CodeNotFound && err != nil {
			_, err = plans.Create(t.Context(), key, meta, r)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r.Hash
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
			if time.Now().After(deadline) {
				t.Fatalf("not %s: the kernel has %v", what, kerneltest.RateOf(t, lab.Node, "h0"))
			}
		}
	}
	args := []string{"-tcagent.node", "n1", "-tcagent.data", t.TempDir(), "-tcagent.namespace", lab.Node.Path(), "-bus.url", server.URL(), "-bus.credentials", daemontest.Credentials(t, ring, bus.NodeService)}
	p := daemontest.Start(t, args...)
	put(10 * tc.Mbit)
	wait("in force", func() bool { return kerneltest.RateOf(t, lab.Node, "h0") == 10*tc.Mbit })
	for i := range 5 {
		rate := tc.BitsPerSecond(11+i) * tc.Mbit
		put(rate)
		if i%2 == 0 { // else it dies somewhere in between
			wait("in force", func() bool { return kerneltest.RateOf(t, lab.Node, "h0") == rate })
		}
		p.Kill()
		if got := kerneltest.RateOf(t, lab.Node, "h0"); got != rate && got != rate-tc.Mbit {
			t.Errorf("the agent died, and the kernel has %v", got)
		}
		p = daemontest.Start(t, args...)
		wait("in force again", func() bool { return kerneltest.RateOf(t, lab.Node, "h0") == rate })
	}
	hash := put(50 * tc.Mbit)
	wait("reported", func() bool {
		e, err := nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "n1"})
		return err == nil && e.State.Applied["s1"].Hash == hash && e.State.Applied["s1"].State == "applied"
	})
	e, err := nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "n1"})
	var can tc.Capabilities
	if err != nil || json.Unmarshal(e.State.Capabilities, &can) != nil || !can.HTB {
		t.Errorf("the node is reported as %+v %v", e.State, err)
	}
	if metrics := p.Becomes(t, "/metrics", http.StatusOK); !strings.Contains(metrics, `agentyard_traffic_sessions{state="applied"} 1`) {
		t.Error("/metrics does not tell of the session")
	}
	p.Stops(t)
	if got := kerneltest.RateOf(t, lab.Node, "h0"); got != 50*tc.Mbit {
		t.Errorf("the agent stopped, and the kernel has %v", got)
	}
}
