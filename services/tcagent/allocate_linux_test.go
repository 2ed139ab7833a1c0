package tcagent_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
	"agentyard.dev/services/tcagent"
)

// TestUplink: two sessions, each of which alone may fill the node's uplink, send as much as they can. What arrives is told by who receives it.
func TestUplink(t *testing.T) {
	const uplink = 40 * tc.Mbit
	y := newYard(t)
	other := y.lab.Node.AddSession(t, "h1")
	y.lab.Node.AddAddress(t, "h1", "10.99.1.1/24")
	other.AddAddress(t, "10.99.1.2/24")
	other.Inhabit(t)

	ctx, cancel := context.WithCancel(context.Background())
	conn := bustest.ConnectNode(t, y.srv, y.ring, api.TrafficNodeToken(node))
	s := tcagent.New(tcagent.Config{Node: node, Namespace: y.lab.Node.Path(), Uplink: uplink.String()}, tcagent.Deps{Bus: conn})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
	})
	promised := func(session string, guarantee tc.BitsPerSecond) *tc.Plan {
		p := shaped(session, uplink)
		p.Download.Guarantee = guarantee
		return p
	}
	_, hash := y.plan("s1", kerneltest.Session4, promised("s1", 24*tc.Mbit))
	y.applied("s1", hash)
	_, hash = y.plan("s2", "10.99.1.2", promised("s2", 8*tc.Mbit))
	y.applied("s2", hash)

	one := y.lab.Session.Sink(t, kerneltest.Session4+":4000")
	two := other.Sink(t, "10.99.1.2:4000")
	stop := y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: uplink * 11 / 10})
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: "10.99.1.2:4000", Rate: uplink * 11 / 10})
	measured := func(what string, sinks []*kerneltest.Meter, want []tc.BitsPerSecond) {
		t.Helper()
		y.until(func() (bool, string) {
			got := kerneltest.Rates(500*time.Millisecond, sinks...)
			for i := range want {
				if math.Abs(float64(got[i])/float64(want[i])-1) > 0.10 {
					return false, fmt.Sprintf("%s: %v, want %v", what, got, want)
				}
			}
			return true, ""
		})
	}
	both := []*kerneltest.Meter{one, two}
	measured("by their guarantees", both, []tc.BitsPerSecond{30 * tc.Mbit, 10 * tc.Mbit})

	y.counts("s2 has 10Mbit now", func(c api.TrafficSessionCounters) bool {
		return c.Session == "s2" && math.Abs(float64(c.DownloadNow)/1e7-1) < 0.10 && c.UploadNow == 0
	})
	t.Run("writes nothing while nothing changes", func(t *testing.T) {
		// A busy machine may make a sender pause, which is a change: one quiet second in a few is enough.
		heard := y.lab.Node.Listen(t)
		y.until(func() (bool, string) {
			heard()
			kerneltest.Wait(time.Second)
			n := heard()
			return n == 0, fmt.Sprintf("%d changes in a second", n)
		})
	})
	stop()
	measured("what is idle is borrowed", both[1:], []tc.BitsPerSecond{uplink})
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: uplink * 11 / 10})
	measured("and given back", both, []tc.BitsPerSecond{30 * tc.Mbit, 10 * tc.Mbit})
	_, hash = y.plan("s1", kerneltest.Session4, &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off})
	y.applied("s1", hash)
	y.becomes("h1", uplink) // its plan's own
	y.counts("s1, which nothing limits, gets no share", func(c api.TrafficSessionCounters) bool { return c.Session == "s1" && c.DownloadNow == 0 })
}
