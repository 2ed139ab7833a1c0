package kernel_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// leaf is a class whose queue any kernel has.
func leaf(minor tc.Minor, name string, rate, ceiling tc.BitsPerSecond) tc.Leaf {
	return tc.Leaf{
		Minor: minor, Class: name, Rate: rate, Ceiling: ceiling, Burst: burst(rate), CeilingBurst: burst(ceiling), Priority: 3, Quantum: 1514,
		Queue: tc.Queue{Kind: tc.BFIFO, Limit: max(tc.Bytes(ceiling/8/25), 80_000)}, // a whole TCP write of 64 KiB must fit
	}
}

// burst is what a rate sends in 4 ms, and two packets.
func burst(r tc.BitsPerSecond) tc.Bytes { return tc.Bytes(r/8/250) + 3028 }

func tree(place tc.Place, rate tc.BitsPerSecond, leaves []tc.Leaf, filters ...tc.Filter) *tc.Tree {
	return &tc.Tree{Place: place, Rate: rate, Burst: burst(rate), Default: tc.DefaultMinor, MTU: 1514, Leaves: leaves, Filters: filters}
}

func simple(place tc.Place, rate tc.BitsPerSecond) *tc.Tree {
	return tree(place, rate, []tc.Leaf{leaf(tc.DefaultMinor, "all", rate, rate)})
}

func plan(download, upload *tc.Tree) *tc.Plan {
	return &tc.Plan{Format: tc.PlanFormat, Session: "s", Mode: tc.Enforce, Download: download, Upload: upload}
}

func number(n uint8) *uint8 { return &n }

func ports(first, last uint16) tc.PortRange { return tc.PortRange{First: first, Last: last} }

// twoClasses is a plan with filters, both ways.
func twoClasses(rate tc.BitsPerSecond) *tc.Plan {
	leaves := []tc.Leaf{leaf(tc.DefaultMinor, "rest", rate/4, rate), leaf(0x2f3, "model", rate/2, rate)}
	return plan(
		tree(tc.AtHost, rate, leaves,
			tc.Filter{Class: 0x2f3, Family: tc.IPv4, Protocol: number(17), Src: netip.MustParsePrefix("10.99.0.11/32"), SrcPorts: ports(4000, 4100)},
			tc.Filter{Class: 0x2f3, Family: tc.IPv6, DSCP: number(46)}),
		tree(tc.AtIFB, rate, slices.Clone(leaves), tc.Filter{Class: 0x2f3, Family: tc.IPv4, Dst: netip.MustParsePrefix("10.99.0.11/32")}))
}

func apply(t *testing.T, k *kernel.Kernel, on kernel.Interface, p *tc.Plan) kernel.Result {
	t.Helper()
	r, err := k.Apply(t.Context(), on, p)
	if err != nil {
		t.Fatalf("apply: %v\nsteps:\n%s", err, strings.Join(r.Steps, "\n"))
	}
	return r
}

func enforced(t *testing.T, k *kernel.Kernel, on kernel.Interface) string {
	t.Helper()
	s, err := k.Enforced(on)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestProbe(t *testing.T) {
	caps, err := kernel.Probe()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", caps)
	if !caps.HTB || !caps.BFIFO || !caps.BPF || !caps.IFB || !caps.Peer || caps.TicksPerSecond == 0 {
		t.Errorf("%+v: the tests of this package need HTB, bfifo, eBPF and IFB", caps)
	}
}

func TestApply(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	clean := enforced(t, k, on)

	t.Run("puts both trees in force, as another reader sees them", func(t *testing.T) {
		r := apply(t, k, on, twoClasses(40*tc.Mbit))
		t.Logf("%v:\n%s", r.Took, strings.Join(r.Steps, "\n"))
		for _, device := range []string{"h0", "ayu" + itoa(on.Index)} {
			seen := classes(t, lab.Node, device)
			for _, want := range []struct {
				handle, parent uint32
				rate, ceil     uint64
			}{{0x10001, netlink.HANDLE_ROOT, 5e6, 5e6}, {0x10100, 0x10001, 125e4, 5e6}, {0x102f3, 0x10001, 25e5, 5e6}} {
				c := seen[want.handle]
				if c == nil || c.Parent != want.parent || c.Rate != want.rate || c.Ceil != want.ceil {
					t.Errorf("%s: class %x is %+v, want %+v", device, want.handle, c, want)
				}
			}
			if len(seen) != 3 {
				t.Errorf("%s: %d classes, want 3", device, len(seen))
			}
		}
	})
	t.Run("writes nothing when it is in force", func(t *testing.T) {
		before := k.Writes()
		r := apply(t, k, on, twoClasses(40*tc.Mbit))
		if n := k.Writes() - before; n != 0 || len(r.Steps) != 0 {
			t.Errorf("%d writes: %v", n, r.Steps)
		}
	})
	t.Run("changes a rate in place", func(t *testing.T) {
		p := twoClasses(40 * tc.Mbit)
		p.Download.Leaves[1].Ceiling /= 2
		r := apply(t, k, on, p)
		if len(r.Steps) != 1 || !strings.Contains(r.Steps[0], "tc class change dev h0 parent 1:1 classid 1:2f3") {
			t.Errorf("steps: %v", r.Steps)
		}
	})
	t.Run("is adopted by another process", func(t *testing.T) {
		p := twoClasses(40 * tc.Mbit)
		p.Download.Leaves[1].Ceiling /= 2
		other := lab.Node.Open(t)
		if r := apply(t, other, on, p); len(r.Steps) != 0 || other.Writes() != 0 {
			t.Errorf("steps: %v", r.Steps)
		}
	})
	t.Run("takes filters, classes and queues as they come and go", func(t *testing.T) {
		p := twoClasses(40 * tc.Mbit)
		p.Download.Filters = p.Download.Filters[:1]
		p.Download.Leaves = append(p.Download.Leaves, leaf(0x400, "third", tc.Mbit, 2*tc.Mbit))
		p.Upload.Leaves, p.Upload.Filters = p.Upload.Leaves[:1], nil
		p.Upload.Leaves[0].Queue.Limit = 12345
		apply(t, k, on, p)
		fresh := kerneltest.NewLab(t)
		k2 := fresh.Node.Open(t)
		apply(t, k2, fresh.Session.Interface, p)
		if got, want := enforced(t, k, on), enforced(t, k2, fresh.Session.Interface); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("leaves nothing when it is off", func(t *testing.T) {
		if _, err := k.Remove(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		if got := enforced(t, k, on); got != clean {
			t.Errorf("got\n%s\nwant\n%s", got, clean)
		}
		links, err := lab.Node.Links().LinkList()
		if err != nil {
			t.Fatal(err)
		}
		if len(links) != 2 {
			t.Errorf("%d devices are left, want lo and h0", len(links))
		}
		if n := len(qdiscs(t, lab.Node, "h0")); n != 1 { // noqueue
			t.Errorf("%d qdiscs are left", n)
		}
	})
	t.Run("says that a device is gone", func(t *testing.T) {
		gone := on
		gone.Index = 4711
		_, err := k.Apply(t.Context(), gone, twoClasses(tc.Mbit))
		if !errors.Is(err, kernel.ErrGone) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stops before it begins when its context has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := k.Apply(ctx, on, twoClasses(tc.Mbit))
		var failed *kernel.ApplyError
		if !errors.As(err, &failed) || failed.InForce != kernel.OldEnforcement || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if got := enforced(t, k, on); got != clean {
			t.Errorf("got\n%s", got)
		}
	})
}

func TestApplyAtThePeer(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := twoClasses(10 * tc.Mbit)
	p.Upload.Place = tc.AtPeer
	apply(t, k, on, p)
	if n := len(classes(t, lab.Session.Namespace, "e0")); n != 3 {
		t.Errorf("%d classes at the session's side, want 3", n)
	}
	if r := apply(t, k, on, p); len(r.Steps) != 0 {
		t.Errorf("again: %v", r.Steps)
	}
}

func TestForeign(t *testing.T) {
	for _, c := range []struct {
		name string
		put  func(t *testing.T, l *kerneltest.Lab, index int)
		what string
	}{
		{"a root", func(t *testing.T, l *kerneltest.Lab, index int) {
			must(t, l.Node.Links().QdiscAdd(&netlink.GenericQdisc{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT}, QdiscType: "bfifo",
			}))
		}, "bfifo 1: root"},
		{"an htb with our handle", func(t *testing.T, l *kerneltest.Lab, index int) {
			must(t, l.Node.Links().QdiscAdd(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT})))
		}, "htb 1: root"},
		{"an ingress filter", func(t *testing.T, l *kerneltest.Lab, index int) {
			must(t, l.Node.Links().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: 0xffff0000, Parent: netlink.HANDLE_CLSACT}}))
			must(t, l.Node.Links().FilterAdd(&netlink.U32{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 7, Protocol: 0x0800}, ClassId: 0x10001,
			}))
		}, "u32 filter of priority 7"},
	} {
		t.Run(c.name+" is refused and stays", func(t *testing.T) {
			lab := kerneltest.NewLab(t)
			k, on := lab.Node.Open(t), lab.Session.Interface
			c.put(t, lab, on.Index)
			before := len(qdiscs(t, lab.Node, "h0"))
			_, err := k.Apply(t.Context(), on, twoClasses(tc.Mbit))
			var failed *kernel.ApplyError
			if !errors.Is(err, kernel.ErrForeign) || !errors.As(err, &failed) || failed.InForce != kernel.OldEnforcement {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), c.what) || !strings.Contains(err.Error(), "h0") {
				t.Errorf("%q does not say what and where", err)
			}
			if _, err := k.Remove(t.Context(), on); err != nil {
				t.Errorf("nothing of ours is there, but: %v", err)
			}
			if k.Writes() != 0 || len(qdiscs(t, lab.Node, "h0")) != before {
				t.Errorf("%d writes, %d qdiscs", k.Writes(), len(qdiscs(t, lab.Node, "h0")))
			}
		})
	}
	t.Run("a clsact that somebody made stays when ours goes", func(t *testing.T) {
		lab := kerneltest.NewLab(t)
		k, on := lab.Node.Open(t), lab.Session.Interface
		must(t, lab.Node.Links().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: on.Index, Handle: 0xffff0000, Parent: netlink.HANDLE_CLSACT}}))
		apply(t, k, on, twoClasses(tc.Mbit))
		if _, err := k.Remove(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, q := range qdiscs(t, lab.Node, "h0") {
			found = found || q.Type() == "clsact"
		}
		if !found {
			t.Error("it is gone")
		}
	})
}

// TestListeners hears, as everybody may, what the kernel tells of changes.
func TestListeners(t *testing.T) {
	lab := kerneltest.NewQuietLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	heard := lab.Node.Listen(t)
	apply(t, k, on, twoClasses(tc.Mbit))
	if n := heard(); n == 0 {
		t.Fatal("nothing was heard of a new tree")
	}
	other := lab.Node.Open(t) // knows nothing yet
	for _, k := range []*kernel.Kernel{k, other} {
		apply(t, k, on, twoClasses(tc.Mbit))
		if n := heard(); n != 0 || other.Writes() != 0 {
			t.Errorf("%d messages were heard of a plan that is in force", n)
		}
	}
}

// queues are the kinds that a kernel has, each with measures that differ by more.
func queues(has tc.Capabilities) (kinds []func(more tc.Bytes) tc.Queue) {
	if has.FQCodel {
		kinds = append(kinds, func(more tc.Bytes) tc.Queue {
			return tc.Queue{
				Kind: tc.FQCodel, Limit: tc.MiB + more, Packets: 1024, Target: 5*tc.Millisecond + tc.Duration(more)*tc.Microsecond, Interval: 100 * tc.Millisecond,
				Quantum: 1514, ECN: true,
			}
		})
	}
	if has.SFQ {
		kinds = append(kinds, func(more tc.Bytes) tc.Queue {
			return tc.Queue{Kind: tc.SFQ, Packets: 100 + uint32(more), Quantum: 1514}
		})
	}
	if has.BFIFO {
		kinds = append(kinds, func(more tc.Bytes) tc.Queue { return tc.Queue{Kind: tc.BFIFO, Limit: 70000 + more} })
	}
	return kinds
}

// TestQueues puts each kind of leaf that this kernel has in force, changes it in place, and one for another.
func TestQueues(t *testing.T) {
	lab := kerneltest.NewQuietLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	var kinds []string
	for _, kind := range queues(k.Capabilities()) {
		for _, more := range []tc.Bytes{0, 1, 7} {
			p := plan(simple(tc.AtHost, 10*tc.Mbit), nil)
			p.Download.Leaves[0].Queue = kind(more)
			r := apply(t, k, on, p)
			steps := 1
			if kind(0).Kind == tc.SFQ { // which the kernel cannot change
				steps = 2
			}
			if more != 0 && len(r.Steps) != steps {
				t.Errorf("a change of %+v took %v", kind(more), r.Steps)
			}
			other := lab.Node.Open(t)
			if r := apply(t, other, on, p); len(r.Steps) != 0 {
				t.Errorf("%+v is not known again: %v", kind(more), r.Steps)
			}
		}
		kinds = append(kinds, string(kind(0).Kind))
	}
	t.Logf("this kernel has %v", kinds)
	if !slices.Contains(kinds, string(tc.BFIFO)) {
		t.Error("every kernel has a bfifo")
	}
}
