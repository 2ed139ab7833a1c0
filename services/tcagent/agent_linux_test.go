package tcagent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

func ifb(y *yard) string { return fmt.Sprintf("ayu%d", y.lab.Session.Interface.Index) }

func TestAgent(t *testing.T) {
	y := newYard(t)
	stop := y.agent(nil)
	t.Run("reports what its node can do", func(t *testing.T) {
		y.until(func() (bool, string) {
			e, err := y.nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "node-1_example"})
			if err != nil {
				return false, err.Error()
			}
			can := decode[tc.Capabilities](t, e.State.Capabilities)
			return can.HTB && e.State.Agent == "test" && e.State.Name == node, fmt.Sprintf("%+v", e.State)
		})
	})
	t.Run("finds a session's interface, applies its plan and says so", func(t *testing.T) {
		rev, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 20*tc.Mbit))
		if a := y.applied("s1", hash); a.Rev != rev || a.TookMS <= 0 {
			t.Errorf("reported %+v", a)
		}
		if down, up := y.rate("h0"), y.rate(ifb(y)); down != 20*tc.Mbit || up != 20*tc.Mbit {
			t.Errorf("the kernel has %v down and %v up", down, up)
		}
	})
	t.Run("applies the next one", func(t *testing.T) {
		_, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 10*tc.Mbit))
		y.applied("s1", hash)
		y.becomes("h0", 10*tc.Mbit)
	})
	t.Run("repairs what somebody else breaks", func(t *testing.T) {
		for _, device := range []string{"h0", ifb(y)} {
			kerneltest.DeleteRoot(t, y.lab.Node, device)
			y.becomes(device, 10*tc.Mbit)
		}
		kerneltest.DeleteLink(t, y.lab.Node, ifb(y))
		y.becomes(ifb(y), 10*tc.Mbit)
	})
	t.Run("leaves a node's other sessions alone", func(t *testing.T) {
		p := shaped("s2", tc.Mbit)
		_, err := y.plans.Create(t.Context(), bus.Key{Tenant: "other", ID: "s2"}, bus.Meta{Actor: "test", Verb: "plan"},
			api.TrafficPlanRecord{Node: "other", Session: "s2", Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4})
		must(t, err)
		_, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 12*tc.Mbit))
		y.applied("s1", hash)
		e, err := y.nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "node-1_example"})
		must(t, err)
		if len(e.State.Applied) != 1 {
			t.Errorf("reported %+v", e.State.Applied)
		}
	})
	t.Run("says why a plan is not in force, and tries until it is", func(t *testing.T) {
		_, hash := y.plan("s3", "10.99.0.33", shaped("s3", tc.Mbit))
		a := y.reports("s3", func(a api.TrafficPlanApplied, there bool) bool { return there && a.State != "" })
		if a.State != "failed" || !strings.Contains(a.Detail, "not on this node yet") {
			t.Errorf("reported %+v", a)
		}
		s := y.lab.Node.AddSession(t, "h3")
		s.AddAddress(t, "10.99.0.33/24")
		s.Inhabit(t)
		y.applied("s3", hash)
		y.becomes("h3", tc.Mbit)
	})
	t.Run("says that a session without a network of its own cannot be limited", func(t *testing.T) {
		y.plan("s4", "", shaped("s4", tc.Mbit))
		a := y.reports("s4", func(a api.TrafficPlanApplied, there bool) bool { return there && a.State != "" })
		if a.State != "off" || !strings.Contains(a.Detail, "no network of its own") {
			t.Errorf("reported %+v", a)
		}
		_, hash := y.plan("s4", "", &tc.Plan{Format: tc.PlanFormat, Session: "s4", Mode: tc.Off})
		y.applied("s4", hash)
	})
	t.Run("keeps what is in force when a plan is not for it", func(t *testing.T) {
		before := y.rate("h0")
		p := shaped("s1", tc.Mbit)
		p.Format = tc.PlanFormat + 1
		y.plan("s1", kerneltest.Session4, p)
		a := y.reports("s1", func(a api.TrafficPlanApplied, _ bool) bool { return a.State == "kept" })
		if !strings.Contains(a.Detail, "update the agent") || y.rate("h0") != before {
			t.Errorf("reported %+v, the kernel has %v", a, y.rate("h0"))
		}
		p = shaped("s1", tc.Mbit)
		y.write(api.TrafficPlanRecord{Node: node, Session: "s1", Hash: "another", Plan: p.Bytes(), Address: kerneltest.Session4})
		y.reports("s1", func(a api.TrafficPlanApplied, _ bool) bool { return strings.Contains(a.Detail, "hash") })
		_, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 14*tc.Mbit))
		y.applied("s1", hash)
		y.becomes("h0", 14*tc.Mbit)
	})
	t.Run("takes everything away with the plan", func(t *testing.T) {
		must(t, y.plans.Delete(t.Context(), bus.Key{Tenant: "node-1_example", ID: "s3"}, 0, bus.Meta{Actor: "test", Verb: "remove"}))
		y.becomes("h3", 0)
		y.reports("s3", func(_ api.TrafficPlanApplied, there bool) bool { return !there })
	})
	t.Run("leaves in force what is when it stops", func(t *testing.T) {
		stop()
		if down, up := y.rate("h0"), y.rate(ifb(y)); down != 14*tc.Mbit || up != 14*tc.Mbit {
			t.Errorf("the kernel has %v down and %v up", down, up)
		}
	})
}

// TestAdoption: an agent that starts finds its plans in force, on disk, or on the bus, and no session is without in between.
func TestAdoption(t *testing.T) {
	y := newYard(t)
	stop := y.agent(nil)
	_, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 20*tc.Mbit))
	y.applied("s1", hash)
	stop()

	t.Run("what is in force is not touched", func(t *testing.T) {
		heard := y.lab.Node.Listen(t)
		stop := y.agent(nil)
		_, hash := y.plan("marker", "", &tc.Plan{Format: tc.PlanFormat, Session: "marker", Mode: tc.Off})
		y.applied("marker", hash)
		y.applied("s1", shaped("s1", 20*tc.Mbit).Hash())
		stop()
		if n := heard(); n != 0 {
			t.Errorf("%d changes were heard", n)
		}
	})
	t.Run("without the bus the last accepted plans hold", func(t *testing.T) {
		url := y.srv.URL()
		y.srv.Close()
		kerneltest.DeleteRoot(t, y.lab.Node, "h0")
		creds, err := y.ring.NodeCredentials(api.TrafficNodeToken(node))
		must(t, err)
		conn, err := bus.Connect(bus.Config{URL: url, Credentials: creds, Name: "tcagent"})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		stop := y.agentOn(ctx, cancel, conn, nil)
		y.becomes("h0", 20*tc.Mbit)
		kerneltest.DeleteRoot(t, y.lab.Node, "h0")
		y.becomes("h0", 20*tc.Mbit)

		// It is back, with a newer plan.
		y.srv = bustest.Start(y.T, y.ring, y.dir, strings.TrimPrefix(url, "nats://"))
		_, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 30*tc.Mbit))
		y.applied("s1", hash)
		y.becomes("h0", 30*tc.Mbit)
		stop()
		cctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		must(t, conn.Close(cctx))
	})
	t.Run("a plan on disk that is older than the bus's gives way, a newer one stays", func(t *testing.T) {
		file := filepath.Join(y.data, "s1.json")
		data, err := os.ReadFile(file)
		must(t, err)
		kept := decode[map[string]any](t, data)
		p := shaped("s1", 5*tc.Mbit)
		kept["rev"] = 1 << 40
		record := api.TrafficPlanRecord{Node: node, Session: "s1", Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4}
		kept["record"] = record
		data, err = json.Marshal(kept)
		must(t, err)
		must(t, os.WriteFile(file, data, 0o600))
		stop := y.agent(nil)
		y.becomes("h0", 5*tc.Mbit)
		y.plan("s1", kerneltest.Session4, shaped("s1", 50*tc.Mbit)) // of a lower revision
		_, hash := y.plan("marker", "", &tc.Plan{Format: tc.PlanFormat, Session: "marker", Mode: tc.Off, Degraded: []string{"nothing"}})
		y.applied("marker", hash)
		if r := y.rate("h0"); r != 5*tc.Mbit {
			t.Errorf("the kernel has %v", r)
		}
		stop()
		must(t, os.WriteFile(file, []byte("{"), 0o600)) // and half a file is none
		y.agent(nil)
		y.applied("s1", shaped("s1", 50*tc.Mbit).Hash())
		y.becomes("h0", 50*tc.Mbit)
	})
}

// TestLostBus: a bus that lost its data knows no session. What is in force stays, an agent that starts meanwhile keeps it too, and the plans that are
// made anew hold although their revisions are lower.
func TestLostBus(t *testing.T) {
	y := newYard(t)
	stop := y.agent(nil)
	for range 5 {
		y.plan("s1", kerneltest.Session4, shaped("s1", 10*tc.Mbit))
	}
	old, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 20*tc.Mbit))
	y.applied("s1", hash)
	other := y.lab.Node.AddSession(t, "h3")
	other.AddAddress(t, "10.99.0.33/24")
	other.Inhabit(t)
	_, hash = y.plan("s3", "10.99.0.33", shaped("s3", 30*tc.Mbit))
	y.applied("s3", hash)

	url := y.srv.URL()
	y.srv.Close()
	y.srv = bustest.Start(y.T, y.ring, t.TempDir(), strings.TrimPrefix(url, "nats://"))
	y.open()
	rev, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 25*tc.Mbit))
	if rev >= old {
		t.Fatalf("revision %d after %d: nothing was lost", rev, old)
	}
	y.applied("s1", hash)
	y.becomes("h0", 25*tc.Mbit)
	if r := y.rate("h3"); r != 30*tc.Mbit {
		t.Errorf("of a session that the bus has forgotten the kernel has %v", r)
	}
	stop()

	stop = y.agent(nil)
	_, hash = y.plan("s1", kerneltest.Session4, shaped("s1", 26*tc.Mbit))
	y.applied("s1", hash)
	if r := y.rate("h3"); r != 30*tc.Mbit {
		t.Errorf("after the agent's restart the kernel has %v", r)
	}
	kerneltest.DeleteLink(t, y.lab.Node, "h3") // it ends, and nobody says so
	y.reports("s3", func(_ api.TrafficPlanApplied, there bool) bool { return !there })
	stop()

	// And nothing at all is said.
	y.srv.Close()
	y.srv = bustest.Start(y.T, y.ring, t.TempDir(), strings.TrimPrefix(url, "nats://"))
	y.open()
	y.agent(nil)
	y.applied("s1", shaped("s1", 26*tc.Mbit).Hash())
	if r := y.rate("h0"); r != 26*tc.Mbit {
		t.Errorf("under a bus that knows nothing the kernel has %v", r)
	}
}

// TestUnable: an agent that cannot control traffic says so, and why.
func TestUnable(t *testing.T) {
	y := newYard(t)
	ctx, cancel := context.WithCancel(context.Background())
	s := tcagent.New(tcagent.Config{Node: node, Namespace: filepath.Join(t.TempDir(), "none")}, tcagent.Deps{Bus: y.conn})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	y.plan("s1", kerneltest.Session4, shaped("s1", tc.Mbit))
	a := y.reports("s1", func(a api.TrafficPlanApplied, there bool) bool { return there && a.State != "" })
	if a.State != "off" || !strings.Contains(a.Detail, "open network namespace") {
		t.Errorf("reported %+v", a)
	}
	e, err := y.nodes.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: "node-1_example"})
	must(t, err)
	if can := decode[tc.Capabilities](t, e.State.Capabilities); can != (tc.Capabilities{}) {
		t.Errorf("it reports that it can %+v", can)
	}
	// For which the controller makes a plan of nothing.
	_, hash := y.plan("s1", kerneltest.Session4, &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Enforce, Degraded: []string{"no HTB"}})
	y.applied("s1", hash)
	cancel()
	must(t, <-ended)
}

func TestCounters(t *testing.T) {
	y := newYard(t)
	reg := prometheus.NewRegistry()
	batches := make(chan api.TrafficCounters, 1000)
	must(t, y.conn.Subscribe(t.Context(), api.LiveCountersPrefix+"node-1_example", func(_ string, _ bus.Header, data []byte) {
		var c api.TrafficCounters
		if json.Unmarshal(data, &c) == nil {
			select {
			case batches <- c:
			default:
			}
		}
	}, nil))
	y.agent(reg)
	_, hash := y.plan("s1", kerneltest.Session4, shaped("s1", 20*tc.Mbit))
	y.applied("s1", hash)
	y.lab.Session.Sink(t, kerneltest.Session4+":4000")
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 30 * tc.Mbit})
	deadline := time.After(patience)
	for seen := false; !seen; {
		select {
		case b := <-batches:
			for _, s := range b.Sessions {
				seen = seen || b.Node == node && s.Session == "s1" && len(s.Download) == 1 && len(s.Upload) == 1 && s.Download[0].Class == "all" &&
					s.Download[0].Bytes > 100_000 && s.Download[0].Packets > 60 && s.Download[0].Drops > 0 && s.Download[0].Backlog > 0
			}
		case <-deadline:
			t.Fatal("no batch has the session's packets")
		}
	}
	y.until(func() (bool, string) {
		families, err := reg.Gather()
		must(t, err)
		found := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				labels := ""
				for _, l := range m.GetLabel() {
					labels += l.GetValue() + " "
				}
				found[f.GetName()+" "+strings.TrimSpace(labels)] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return found["agentyard_traffic_bytes_total all download"] > 100_000 && found["agentyard_traffic_drops_total all download"] > 0 &&
			found["agentyard_traffic_backlog_bytes all download"] > 0 && found["agentyard_traffic_sessions applied"] == 1, fmt.Sprint(found)
	})
}
