package main

import (
	"os/exec"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestKillWithFault kills the agent while a session's traffic is lost on purpose: the fault ends in its time, and nobody is there to end it.
func TestKillWithFault(t *testing.T) {
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
	if _, err := bus.OpenLedger[api.TrafficNodeRecord](t.Context(), conn, bus.LedgerConfig{Noun: api.NounNodes}); err != nil {
		t.Fatal(err)
	}
	to := kerneltest.Session4 + ":4000"
	sink := lab.Session.Sink(t, to)
	lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: to, Rate: tc.Mbit})
	flows := func() bool {
		before := sink.Bytes()
		kerneltest.Wait(100 * time.Millisecond)
		return sink.Bytes() > before
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("not so: %s", what)
			}
		}
	}
	agent := daemontest.Start(t, "-tcagent.node", "n1", "-tcagent.data", t.TempDir(), "-tcagent.namespace", lab.Node.Path(),
		"-bus.url", server.URL(), "-bus.credentials", daemontest.Credentials(t, ring, bus.NodeService))
	wait("packets arrive", flows)
	const lasts = 8 * time.Second // long enough to see it on a busy machine
	p := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}
	until := time.Now().UTC().Add(lasts)
	_, err = plans.Create(t.Context(), bus.Key{Tenant: "n1", ID: "s1"}, bus.Meta{Actor: "test", Verb: "fault"}, api.TrafficPlanRecord{
		Node: "n1", Session: "s1", Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4,
		Fault: &api.TrafficFaultRecord{TrafficFaultSpec: api.TrafficFaultSpec{Loss: "100%"}, By: "test", Until: until},
	})
	if err != nil {
		t.Fatal(err)
	}
	wait("packets are lost", func() bool { return !flows() })
	agent.Kill()
	if time.Now().Before(until.Add(-time.Second)) && flows() {
		t.Error("the fault ended with the agent, before its time")
	}
	wait("packets arrive again", flows)
	if early := time.Until(until); early > 200*time.Millisecond {
		t.Errorf("it ended %v too early", early)
	}
	if kerneltest.RateOf(t, lab.Node, "h0") == 0 {
		t.Error("somebody took the tree away: the kernel did not end it")
	}
}
