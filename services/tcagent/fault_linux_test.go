package tcagent_test

import (
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestFault: an agent puts a fault in force, says so, and takes it away when it has ended.
func TestFault(t *testing.T) {
	y := newYard(t)
	y.agent(nil)
	p := shaped("s1", 20*tc.Mbit)
	with := func(f *api.TrafficFaultRecord) api.TrafficPlanRecord {
		return api.TrafficPlanRecord{Node: node, Tenant: "acme", Session: "s1", Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4, Fault: f}
	}
	fault := func(d time.Duration, spec api.TrafficFaultSpec) *api.TrafficFaultRecord {
		return &api.TrafficFaultRecord{TrafficFaultSpec: spec, By: "test", At: time.Now().UTC(), Until: time.Now().UTC().Add(d)}
	}
	said := func(what string) {
		t.Helper()
		y.reports("s1", func(a api.TrafficPlanApplied, there bool) bool {
			return there && a.State == "applied" && (what == "" && a.Fault == "" || what != "" && strings.Contains(a.Fault, what))
		})
	}
	sink := y.lab.Session.Sink(t, kerneltest.Session4+":4000")
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 5 * tc.Mbit})
	flows := func() bool {
		before := sink.Bytes()
		kerneltest.Wait(50 * time.Millisecond)
		return sink.Bytes() > before
	}
	becomes := func(what string, ok func() bool) {
		t.Helper()
		y.until(func() (bool, string) { return ok(), what })
	}
	t.Run("in force, and ended before its time", func(t *testing.T) {
		y.write(with(fault(time.Hour, api.TrafficFaultSpec{Loss: "100%"})))
		said("in force")
		becomes("nothing arrives", func() bool { return !flows() })
		y.write(with(nil))
		said("")
		becomes("it arrives", flows)
	})
	t.Run("ended by its time", func(t *testing.T) {
		y.write(with(fault(1500*time.Millisecond, api.TrafficFaultSpec{Loss: "100%", Direction: "download"})))
		said("in force")
		said("")
		becomes("it arrives", flows)
		y.becomes("h0", 20*tc.Mbit)
	})
	t.Run("delayed, by a relay or the kernel", func(t *testing.T) {
		y.write(with(fault(time.Hour, api.TrafficFaultSpec{Delay: "10s", Direction: "download"})))
		said("in force")
		becomes("nothing arrives for a while", func() bool { return !flows() })
		y.write(with(nil))
		said("")
		becomes("it arrives", flows)
		y.becomes("h0", 20*tc.Mbit)
	})
	t.Run("what the node cannot do is said", func(t *testing.T) {
		y.write(with(fault(time.Hour, api.TrafficFaultSpec{Loss: "everything"})))
		said("no part of all packets")
		y.write(with(nil))
		said("")
	})
	t.Run("of a session that nobody limits", func(t *testing.T) {
		p = &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}
		y.write(with(fault(time.Hour, api.TrafficFaultSpec{Rate: "1Mbit"})))
		said("in force")
		if r := y.rate("h0"); r != tc.Unlimited {
			t.Errorf("the kernel has %v", r)
		}
		y.write(with(nil))
		said("")
		y.becomes("h0", 0)
	})
	t.Run("of a session without a network of its own", func(t *testing.T) {
		for _, spec := range []api.TrafficFaultSpec{{Delay: "100ms"}, {Loss: "1%"}} { // where the kernel has no netem, a delay is no part of a plan
			r := with(fault(time.Hour, spec))
			r.Address = ""
			y.write(r)
			at := y.reports("s1", func(a api.TrafficPlanApplied, there bool) bool { return there && (a.State == "off" || a.Fault != "") })
			if at.Fault != "" || !strings.Contains(at.Detail, "no network of its own") {
				t.Errorf("%+v is reported as %+v", spec, at)
			}
			r.Fault = nil
			y.write(r)
			said("")
		}
	})
}
