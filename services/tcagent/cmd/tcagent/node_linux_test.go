package main

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// node is the node n1 with one session, and the bus with the ledgers that its agent finds there.
type node struct {
	*testing.T
	lab   *kerneltest.Lab
	plans *bus.Ledger[api.TrafficPlanRecord]
	nodes *bus.Ledger[api.TrafficNodeRecord]
	args  []string // of the agent's command line
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{T: t, lab: kerneltest.NewLab(t)}
	n.lab.Session.Inhabit(t)
	server, ring := bustest.New(t)
	conn := bustest.Connect(t, server, ring, "tcagent")
	var err error
	if n.plans, err = bus.OpenLedger[api.TrafficPlanRecord](t.Context(), conn, bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix}); err != nil {
		t.Fatal(err)
	}
	if n.nodes, err = bus.OpenLedger[api.TrafficNodeRecord](t.Context(), conn, bus.LedgerConfig{Noun: api.NounNodes}); err != nil {
		t.Fatal(err)
	}
	n.args = []string{
		"-tcagent.node", "n1", "-tcagent.data", t.TempDir(), "-tcagent.namespace", n.lab.Node.Path(),
		"-bus.url", server.URL(), "-bus.credentials", daemontest.Credentials(t, ring, bus.NodeService),
	}
	return n
}

// rate is what the kernel has for the session; 0: nothing.
func (n *node) rate() tc.BitsPerSecond {
	n.Helper()
	return kerneltest.RateOf(n.T, n.lab.Node, "h0")
}

func (n *node) wait(what string, ok func() bool) {
	n.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			n.Fatalf("not so: %s: the kernel has %v", what, n.rate())
		}
	}
}
