package tcagent_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestLowerRateShortensItsQueue: a full queue gets as short as planned, in steps that are nobody's interference.
func TestLowerRateShortensItsQueue(t *testing.T) {
	const long, short = 400_000, 200_000
	y := newYard(t)
	reg := prometheus.NewRegistry()
	y.agent(reg)
	queued := func(rate tc.BitsPerSecond, limit tc.Bytes) *tc.Plan {
		p := shaped("s1", rate)
		p.Download.Leaves[0].Queue.Limit = limit
		return p
	}
	_, hash := y.plan("s1", kerneltest.Session4, queued(8*tc.Mbit, long))
	y.applied("s1", hash)
	k := y.lab.Node.Open(t)
	backlog := func() uint32 {
		counters, err := k.Count([]kernel.Interface{y.lab.Session.Interface})
		must(t, err)
		return counters[0].Download[0].Backlog
	}
	to := kerneltest.Session4 + ":4000"
	y.lab.Session.Sink(t, to)
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: to, Rate: 20 * tc.Mbit})
	y.until(func() (bool, string) { return backlog() > long*9/10, "the queue is not full" })
	_, hash = y.plan("s1", kerneltest.Session4, queued(4*tc.Mbit, short))
	y.applied("s1", hash)
	if rate := y.rate("h0"); rate != 4*tc.Mbit {
		t.Errorf("the kernel has %v", rate)
	}
	y.until(func() (bool, string) { return backlog() <= short, "the queue is not short" })
	if n := repairs(t, reg); n != 0 {
		t.Errorf("%v repairs are counted", n)
	}
}

func repairs(t *testing.T, reg prometheus.Gatherer) (n float64) {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == "agentyard_traffic_repairs_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("repairs are not counted")
	return 0
}
