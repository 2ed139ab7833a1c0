package kernel_test

import (
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// in is a moment of CLOCK_BOOTTIME.
func in(d time.Duration) uint64 { return kernel.BootTime() + uint64(d) }

// withFault is a plan with a fault that this kernel can do as a whole.
func withFault(t *testing.T, k *kernel.Kernel, p *tc.Plan, f tc.Fault, until uint64) *tc.Plan {
	t.Helper()
	out, missing := p.WithFault(f, until, k.Capabilities())
	if len(missing) > 0 {
		t.Fatalf("missing: %v", missing)
	}
	return out
}

// TestFaultLoses sends packets, counts those that arrive at their class, and waits until the kernel ends the fault: nobody else does anything.
func TestFaultLoses(t *testing.T) {
	lab := kerneltest.NewQuietLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := plan(simple(tc.AtHost, tc.Gbit), simple(tc.AtIFB, tc.Gbit))
	const sent = 400
	for _, upload := range []bool{false, true} {
		apply(t, k, on, withFault(t, k, p, tc.Fault{Loss: tc.All / 4}, in(time.Hour)))
		lab.SendPackets(t, kerneltest.Packet{}, upload, sent)
		got := packetsOf(t, k, on, upload)
		// A quarter of 400 is 100, by chance between 50 and 160 (six times the deviation).
		if passed := got[tc.FaultMinor]; passed < 240 || passed > 350 || got[tc.DefaultMinor] != 0 {
			t.Errorf("upload: %t: %v of %d packets passed, of which a quarter is to be lost", upload, got, sent)
		}
		apply(t, k, on, p)
	}
	t.Run("and ends by itself", func(t *testing.T) {
		began := time.Now()
		apply(t, k, on, withFault(t, k, p, tc.Fault{Loss: tc.All}, in(2*time.Second)))
		lab.SendPacket(t, kerneltest.Packet{}, false)
		if got := packetsOf(t, k, on, false); (got[tc.FaultMinor] != 0 || got[tc.DefaultMinor] != 0) && time.Since(began) < 2*time.Second {
			t.Errorf("a packet arrived: %v", got)
		}
		writes := k.Writes()
		until(t, "packets arrive again", func() bool {
			lab.SendPacket(t, kerneltest.Packet{}, false)
			got := packetsOf(t, k, on, false)
			return got[tc.DefaultMinor] > 0
		})
		if took := time.Since(began); took < 2*time.Second || k.Writes() != writes {
			t.Errorf("it ended after %v, with %d writes", took, k.Writes()-writes)
		}
	})
	t.Run("and leaves nothing", func(t *testing.T) {
		apply(t, k, on, p)
		got := enforced(t, k, on)
		clean := kerneltest.NewQuietLab(t)
		fresh := clean.Node.Open(t)
		apply(t, fresh, clean.Session.Interface, p)
		if want := enforced(t, fresh, clean.Session.Interface); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// TestFaultSlows cuts the rate of a direction, and no other.
func TestFaultSlows(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := twoClasses(50 * tc.Mbit)
	apply(t, k, on, withFault(t, k, p, tc.Fault{Direction: tc.Download, Rate: 5 * tc.Mbit}, in(time.Hour)))
	down, up := lab.Session.Sink(t, kerneltest.Session4+":4000"), lab.Node.Sink(t, kerneltest.Node4+":4000")
	lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 20 * tc.Mbit})
	lab.Session.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Node4 + ":4000", Rate: 20 * tc.Mbit})
	kerneltest.Wait(settling)
	near(t, "download and upload", 0.05, []tc.BitsPerSecond{5 * tc.Mbit, 20 * tc.Mbit}, func() []tc.BitsPerSecond { return kerneltest.Rates(window, down, up) })
}
