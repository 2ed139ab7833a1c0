package kernel_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// A measurement counts when the machine was not too busy for it: the best of a few tries.
const (
	tries    = 5
	window   = 700 * time.Millisecond
	settling = 200 * time.Millisecond // buckets are empty and queues full by then
)

// near measures until the figures are within the tolerance of what is wanted, at most tries times.
func near(t *testing.T, what string, tolerance float64, want []tc.BitsPerSecond, measure func() []tc.BitsPerSecond) {
	t.Helper()
	var seen []string
	for range tries {
		got := measure()
		ok := true
		for i := range want {
			ok = ok && math.Abs(float64(got[i])/float64(want[i])-1) <= tolerance
		}
		seen = append(seen, fmt.Sprint(rounded(got)))
		if ok {
			t.Logf("%s: %v Mbit/s, wanted %v ± %.0f %%", what, seen, rounded(want), tolerance*100)
			return
		}
	}
	t.Errorf("%s: %v Mbit/s, want %v ± %.0f %%", what, seen, rounded(want), tolerance*100)
}

func rounded(rs []tc.BitsPerSecond) (out []float64) {
	for _, r := range rs {
		out = append(out, math.Round(float64(r)/1e4)/100)
	}
	return out
}

// TestRate measures that a direction gets its rate, by what arrives.
func TestRate(t *testing.T) {
	for _, rate := range []tc.BitsPerSecond{10 * tc.Mbit, 100 * tc.Mbit, 500 * tc.Mbit} {
		t.Run(rate.String(), func(t *testing.T) {
			lab := kerneltest.NewLab(t)
			k, on := lab.Node.Open(t), lab.Session.Interface
			apply(t, k, on, plan(simple(tc.AtHost, rate), simple(tc.AtIFB, rate)))
			for _, direction := range []struct {
				name     string
				from, to *kerneltest.Namespace
				address  string
			}{
				{"download", lab.Node, lab.Session.Namespace, kerneltest.Session4},
				{"upload", lab.Session.Namespace, lab.Node, kerneltest.Node4},
			} {
				sink := direction.to.Sink(t, direction.address+":4000")
				stop := direction.from.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: direction.address + ":4000", Rate: rate * 3 / 2})
				kerneltest.Wait(settling)
				near(t, "UDP "+direction.name, 0.05, []tc.BitsPerSecond{rate}, func() []tc.BitsPerSecond { return kerneltest.Rates(window, sink) })
				stop()

				meter, stop := kerneltest.Stream(t, direction.from, direction.to, direction.address+":5000")
				kerneltest.Wait(settling)
				near(t, "TCP "+direction.name, 0.05, []tc.BitsPerSecond{rate}, func() []tc.BitsPerSecond { return kerneltest.Rates(window, meter) })
				stop()
			}
		})
	}
}

// TestShares measures guarantees under contention, and who gets what others leave.
func TestShares(t *testing.T) {
	const rate = 40 * tc.Mbit
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	leaves := []tc.Leaf{
		leaf(tc.DefaultMinor, "rest", rate/8, rate), leaf(0x200, "quarter", rate/4, rate), leaf(0x300, "half", rate*5/8, rate),
	}
	for i, quantum := range []tc.Bytes{1514, 3028, 7570} { // as the guarantees: 1 : 2 : 5
		leaves[i].Quantum = quantum
	}
	filters := []tc.Filter{
		{Class: 0x200, Family: tc.IPv4, Protocol: number(17), DstPorts: ports(4001, 4001)},
		{Class: 0x300, Family: tc.IPv4, Protocol: number(17), DstPorts: ports(4002, 4002)},
	}
	apply(t, k, on, plan(tree(tc.AtHost, rate, leaves, filters...), tree(tc.AtIFB, rate, slices.Clone(leaves), filters...)))
	for _, direction := range []struct {
		name     string
		from, to *kerneltest.Namespace
		address  string
	}{
		{"download", lab.Node, lab.Session.Namespace, kerneltest.Session4},
		{"upload", lab.Session.Namespace, lab.Node, kerneltest.Node4},
	} {
		t.Run(direction.name, func(t *testing.T) {
			var sinks []*kerneltest.Meter
			var stops []func()
			for port := 4000; port <= 4002; port++ {
				to := fmt.Sprintf("%s:%d", direction.address, port)
				sinks = append(sinks, direction.to.Sink(t, to))
				stops = append(stops, direction.from.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: to, Rate: rate * 11 / 10}))
			}
			kerneltest.Wait(settling)
			near(t, "all three", 0.10, []tc.BitsPerSecond{rate / 8, rate / 4, rate * 5 / 8}, func() []tc.BitsPerSecond {
				return kerneltest.Rates(window, sinks...)
			})
			stops[2]() // half of the link is idle: the others have it, 1 : 2
			kerneltest.Wait(settling)
			near(t, "without the half", 0.10, []tc.BitsPerSecond{rate / 3, rate * 2 / 3}, func() []tc.BitsPerSecond {
				return kerneltest.Rates(window, sinks[:2]...)
			})
			stops[1]()
			kerneltest.Wait(settling)
			near(t, "alone", 0.05, []tc.BitsPerSecond{rate}, func() []tc.BitsPerSecond { return kerneltest.Rates(window, sinks[0]) })
		})
	}
}
