//go:build guest

package kernel_test

import (
	"math"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// These tests run on a whole kernel, in a machine whose clock counts instructions (make test-guest): what is measured there is exact.

// TestGuestKernel: the kernel is one that can do everything, so that all else here is about something.
func TestGuestKernel(t *testing.T) {
	lab := kerneltest.NewLab(t)
	can := lab.Node.Open(t).Capabilities()
	if !can.FQCodel || !can.SFQ || !can.Netem || !can.BFIFO || !can.IFB || !can.BPF || !can.Faults || !can.NetdevEgress || !can.ConnLimit {
		t.Errorf("it can %+v", can)
	}
}

// TestGuestRate: within 1 %, with each kind of queue, both ways.
func TestGuestRate(t *testing.T) {
	for _, rate := range []tc.BitsPerSecond{10 * tc.Mbit, 50 * tc.Mbit} {
		for _, q := range []tc.Queue{
			{Kind: tc.FQCodel, Limit: 4 * tc.MiB, Packets: 10240, Target: 5 * tc.Millisecond, Interval: 100 * tc.Millisecond, Quantum: 1514},
			{Kind: tc.SFQ, Packets: 127, Quantum: 1514},
			{Kind: tc.BFIFO, Limit: 200_000},
		} {
			t.Run(rate.String()+" "+string(q.Kind), func(t *testing.T) {
				lab := kerneltest.NewLab(t)
				k, on := lab.Node.Open(t), lab.Session.Interface
				p := plan(simple(tc.AtHost, rate), simple(tc.AtIFB, rate))
				p.Download.Leaves[0].Queue, p.Upload.Leaves[0].Queue = q, q
				apply(t, k, on, p)
				down, up := lab.Session.Sink(t, kerneltest.Session4+":4000"), lab.Node.Sink(t, kerneltest.Node4+":4000")
				lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: rate * 5 / 4})
				lab.Session.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Node4 + ":4000", Rate: rate * 5 / 4})
				kerneltest.Wait(settling)
				near(t, "both ways", 0.01, []tc.BitsPerSecond{rate, rate}, func() []tc.BitsPerSecond { return kerneltest.Rates(time.Second, down, up) })
			})
		}
	}
}

// TestGuestNoBurst: with fq_codel, which is what kernels mostly have.
func TestGuestNoBurst(t *testing.T) { noBurst(t, false, 40*tc.Mbit, 10*tc.Mbit, 1) }

// TestGuestReplay: with queues of every kind.
func TestGuestReplay(t *testing.T) { replayed(t, 200) }

// TestGuestNetem: delay within 1 %, and loss and doubling by the numbers.
func TestGuestNetem(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := twoClasses(40 * tc.Mbit)
	ask := echo(t, lab)
	apply(t, k, on, p)
	base := ask(5, 1)
	for _, delay := range []time.Duration{20 * time.Millisecond, 200 * time.Millisecond} {
		apply(t, k, on, withFault(t, k, p, tc.Fault{Delay: tc.Duration(delay)}, in(time.Hour)))
		if got := ask(5, 1) - base; math.Abs(float64(got)/float64(2*delay)-1) > 0.01 {
			t.Errorf("%v each way: answers come %v later", delay, got)
		}
	}
	apply(t, k, on, withFault(t, k, p, tc.Fault{Direction: tc.Download, Duplicate: tc.All}, in(time.Hour)))
	ask(5, 2)
	apply(t, k, on, p)
	if got := ask(5, 1); got > base*2+time.Millisecond {
		t.Errorf("after all faults answers come after %v, and before after %v", got, base)
	}
	t.Run("ends by the kernel's clock", func(t *testing.T) {
		apply(t, k, on, withFault(t, k, p, tc.Fault{Delay: tc.Second}, in(3*time.Second)))
		if got := ask(1, 1); got < 2*time.Second {
			t.Errorf("an answer came after %v", got)
		}
		writes := k.Writes()
		until(t, "answers come at once", func() bool { return ask(1, 1) < time.Second })
		if k.Writes() != writes {
			t.Error("somebody wrote")
		}
	})
	t.Run("loses and delays", func(t *testing.T) {
		const sent = 1000
		quiet := kerneltest.NewQuietLab(t)
		k, on := quiet.Node.Open(t), quiet.Session.Interface
		apply(t, k, on, withFault(t, k, plan(simple(tc.AtHost, tc.Gbit), nil), tc.Fault{Direction: tc.Download, Delay: tc.Millisecond, Loss: tc.All / 10}, in(time.Hour)))
		quiet.SendPackets(t, kerneltest.Packet{}, false, sent)
		var passed uint64
		until(t, "nine in ten packets arrive", func() bool { // 900, by chance between 840 and 960
			passed = packetsOf(t, k, on, false)[tc.FaultMinor]
			return passed >= 840
		})
		kerneltest.Wait(time.Second)
		if passed = packetsOf(t, k, on, false)[tc.FaultMinor]; passed > 960 {
			t.Errorf("%d of %d packets passed, of which a tenth is to be lost", passed, sent)
		}
	})
}

// TestGuestLatency: what fq_codel is for: a flow that sends little does not wait behind one that floods.
func TestGuestLatency(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := plan(simple(tc.AtHost, 10*tc.Mbit), nil)
	p.Download.Leaves[0].Queue = tc.Queue{Kind: tc.FQCodel, Limit: 4 * tc.MiB, Packets: 1024, Target: 5 * tc.Millisecond, Interval: 100 * tc.Millisecond, Quantum: 1514}
	apply(t, k, on, p)
	lab.Session.Sink(t, kerneltest.Session4+":4000")
	lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 15 * tc.Mbit})
	kerneltest.Wait(time.Second)
	if got := echo(t, lab)(10, 1); got > 10*time.Millisecond {
		t.Errorf("an answer beside a flood comes after %v", got)
	}
}
