package kernel_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// A measurement counts when the machine was not too busy for it: the best of a few tries. What takes the processors away makes rates smaller only, and may do so for long, so that a rate that is too
// small is measured for as long as starved; one that is too great would be the kernel's doing.
const (
	tries    = 15
	starved  = time.Minute
	window   = 500 * time.Millisecond
	settling = 200 * time.Millisecond // buckets are empty and queues full by then
)

// near measures until the figures are within the tolerance of what is wanted; tries times at most, and longer only while they are too small as a whole.
func near(t *testing.T, what string, tolerance float64, want []tc.BitsPerSecond, measure func() []tc.BitsPerSecond) {
	t.Helper()
	var seen []string
	late := time.Now().Add(starved)
	for greater := 0; greater < tries && time.Now().Before(late); {
		got := measure()
		ok, sum, wanted := true, tc.BitsPerSecond(0), tc.BitsPerSecond(0)
		for i := range want {
			ok = ok && math.Abs(float64(got[i])/float64(want[i])-1) <= tolerance
			sum, wanted = sum+got[i], wanted+want[i]
		}
		if float64(sum) >= float64(wanted)*(1-tolerance) {
			greater++
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
			p := plan(simple(tc.AtHost, rate), simple(tc.AtIFB, rate))
			if rate > 100*tc.Mbit { // a queue that outlasts a busy machine
				p.Download.Leaves[0].Queue.Limit, p.Upload.Leaves[0].Queue.Limit = tc.Bytes(rate/8/8), tc.Bytes(rate/8/8)
			}
			apply(t, k, on, p)
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

// TestChangeUnderLoad changes a rate while packets wait: the new one is in force at once, down and up.
func TestChangeUnderLoad(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	apply(t, k, on, plan(simple(tc.AtHost, 40*tc.Mbit), nil))
	to := kerneltest.Session4 + ":4000"
	sink := lab.Session.Sink(t, to)
	lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: to, Rate: 60 * tc.Mbit})
	kerneltest.Wait(settling)
	for _, rate := range []tc.BitsPerSecond{10 * tc.Mbit, 40 * tc.Mbit} {
		worked := false
		var seen []string
		for range tries {
			apply(t, k, on, plan(simple(tc.AtHost, 50*tc.Mbit-rate), nil))
			kerneltest.Wait(settling)
			r := apply(t, k, on, plan(simple(tc.AtHost, rate), nil))
			if len(r.Steps) > 3 { // the two classes and the queue, in place
				t.Fatalf("steps: %v", r.Steps)
			}
			first := kerneltest.Rates(100*time.Millisecond, sink)[0]
			then := kerneltest.Rates(300*time.Millisecond, sink)[0]
			seen = append(seen, fmt.Sprint(rounded([]tc.BitsPerSecond{first, then})))
			within := func(r tc.BitsPerSecond, part float64) bool { return math.Abs(float64(r)/float64(rate)-1) <= part }
			if worked = within(first, 0.25) && within(then, 0.08); worked {
				break
			}
		}
		if !worked {
			t.Errorf("to %v: the first 100 ms and the 300 ms after them had %v Mbit/s", rate, seen)
		}
	}
}

// TestChangeLosesNothing changes rates up and down under a flow that none of them bounds: no packet is lost.
func TestChangeLosesNothing(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	apply(t, k, on, twoClasses(100*tc.Mbit))
	to := kerneltest.Session4 + ":4000"
	sink := lab.Session.Sink(t, to)
	lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: to, Rate: 5 * tc.Mbit})
	before := dropped(t, k, lab)
	for i := range 20 {
		apply(t, k, on, twoClasses(tc.BitsPerSecond(50+i%2*50)*tc.Mbit))
		kerneltest.Wait(10 * time.Millisecond)
	}
	if n := dropped(t, k, lab) - before; n != 0 || sink.Bytes() == 0 {
		t.Errorf("%d packets were lost, %d bytes arrived", n, sink.Bytes())
	}
}

func dropped(t *testing.T, k *kernel.Kernel, lab *kerneltest.Lab) (n uint64) {
	t.Helper()
	counters, err := k.Count([]kernel.Interface{lab.Session.Interface})
	must(t, err)
	for _, c := range counters[0].Download {
		n += c.Drops
	}
	return n
}
