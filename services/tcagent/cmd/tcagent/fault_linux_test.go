package main

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestKillWithFault kills the agent while a session's traffic is lost on purpose: the fault ends in its time, and nobody is there to end it.
func TestKillWithFault(t *testing.T) {
	n := newNode(t)
	to := kerneltest.Session4 + ":4000"
	sink := n.lab.Session.Sink(t, to)
	n.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: to, Rate: tc.Mbit})
	flows := func() bool {
		before := sink.Bytes()
		kerneltest.Wait(100 * time.Millisecond)
		return sink.Bytes() > before
	}
	agent := daemontest.Start(t, n.args...)
	n.wait("packets arrive", flows)
	const lasts = 8 * time.Second // long enough to see it on a busy machine
	p := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}
	until := time.Now().UTC().Add(lasts)
	_, err := n.plans.Create(t.Context(), bus.Key{Tenant: "n1", ID: "s1"}, bus.Meta{Actor: "test", Verb: "fault"}, api.TrafficPlanRecord{
		Node: "n1", Session: "s1", Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4,
		Fault: &api.TrafficFaultRecord{TrafficFaultSpec: api.TrafficFaultSpec{Loss: "100%"}, By: "test", Until: until},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.wait("the fault is in force", func() bool { // that no packet comes for a moment may be a busy machine's doing
		e, err := n.nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "n1"})
		return err == nil && e.State.Applied["s1"].Fault == "in force"
	})
	n.wait("packets are lost", func() bool { return !flows() })
	agent.Kill()
	if time.Now().Before(until.Add(-time.Second)) && flows() {
		t.Error("the fault ended with the agent, before its time")
	}
	n.wait("packets arrive again", flows)
	if early := time.Until(until); early > 200*time.Millisecond {
		t.Errorf("it ended %v too early", early)
	}
	if n.rate() == 0 {
		t.Error("somebody took the tree away: the kernel did not end it")
	}
}
