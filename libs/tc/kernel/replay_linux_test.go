package kernel_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestReplay does to an interface what can happen to one: plans, processes that die within a change, and other people's hands. After
// each plan it holds what a clean interface with that plan holds. REPLAY_SEED repeats a run.
func TestReplay(t *testing.T) { replayed(t, 600) }

func replayed(t *testing.T, steps int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("REPLAY_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = v
	}
	t.Logf("REPLAY_SEED=%d", seed)
	r := &replay{T: t, Rand: rand.New(rand.NewPCG(seed, 0)), lab: kerneltest.NewQuietLab(t), clean: kerneltest.NewQuietLab(t)}
	r.k, r.fresh = r.lab.Node.Open(t), r.clean.Node.Open(t)
	r.queues = queues(r.k.Capabilities())
	for range steps {
		switch n := r.IntN(10); {
		case n < 5:
			r.plan()
		case n < 7:
			r.crash()
		default:
			r.interfere()
		}
		if t.Failed() {
			t.Fatalf("what happened:\n%s", strings.Join(r.did[max(0, len(r.did)-12):], "\n"))
		}
	}
	t.Logf("%d plans compared, %d crashes, %d interferences, %d refused", r.compared, r.crashed, r.interfered, r.refused)
	if r.compared < steps/4 || r.crashed < steps/20 || r.interfered < steps/10 {
		t.Error("too little was tried")
	}
}

type replay struct {
	*testing.T
	*rand.Rand
	lab, clean *kerneltest.Lab
	k, fresh   *kernel.Kernel
	did        []string
	queues     []func(more tc.Bytes) tc.Queue // of the kinds that the kernel has

	compared, crashed, interfered, refused int
}

func (r *replay) say(format string, args ...any) { r.did = append(r.did, fmt.Sprintf(format, args...)) }

func (r *replay) randomTree(place tc.Place) *tc.Tree {
	if r.IntN(5) == 0 {
		return nil
	}
	rate := tc.BitsPerSecond(1+r.IntN(50)) * tc.Mbit
	leaves := []tc.Leaf{leaf(tc.DefaultMinor, "rest", rate/8, rate)}
	leaves[0].Queue = r.randomQueue(leaves[0].Queue)
	var filters []tc.Filter
	for minor := tc.Minor(0x200); minor < 0x208; minor++ {
		if r.IntN(3) > 0 {
			continue
		}
		l := leaf(minor, minor.String(), rate/16, rate/tc.BitsPerSecond(1+r.IntN(3)))
		l.Priority, l.Queue = uint8(r.IntN(8)), r.randomQueue(l.Queue)
		leaves = append(leaves, l)
		if r.IntN(2) == 0 {
			filters = append(filters, tc.Filter{Class: minor, Family: tc.IPv4, Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(minor), 0, 0}), 16)})
		}
	}
	return tree(place, rate, leaves, filters...)
}

// randomQueue is the class's usual one, or any other: what a class has changes its kind from plan to plan.
func (r *replay) randomQueue(usual tc.Queue) tc.Queue {
	if r.IntN(3) == 0 {
		return usual
	}
	return r.queues[r.IntN(len(r.queues))](tc.Bytes(r.IntN(20)))
}

func (r *replay) randomPlan() *tc.Plan {
	if r.IntN(12) == 0 {
		return &tc.Plan{Format: tc.PlanFormat, Mode: tc.Off}
	}
	p := plan(r.randomTree(tc.AtHost), r.randomTree(tc.AtIFB))
	for _, l := range limited(uint32(10+r.IntN(3)), 20, uint32(10+r.IntN(3))).Limits {
		if r.IntN(2) == 0 {
			p.Limits = append(p.Limits, l)
		}
	}
	return p
}

// plan applies one, and compares with a clean interface.
func (r *replay) plan() {
	p := r.randomPlan()
	if foreign := r.foreignRoot(); foreign != nil {
		_, err := r.k.Apply(r.Context(), r.lab.Session.Interface, p)
		if p.Download != nil && !errors.Is(err, kernel.ErrForeign) {
			r.Errorf("a foreign root is there, and Apply says %v", err)
		}
		r.refused++
		must(r.T, r.lab.Node.Links().QdiscDel(foreign)) // its owner comes to reason
	}
	r.say("plan %s", p.Bytes())
	result, err := r.k.Apply(r.Context(), r.lab.Session.Interface, p)
	if err != nil {
		r.Errorf("apply: %v\n%s", err, strings.Join(result.Steps, "\n"))
		return
	}
	if _, err := r.fresh.Remove(r.Context(), r.clean.Session.Interface); err != nil {
		r.Error(err)
	}
	apply(r.T, r.fresh, r.clean.Session.Interface, p)
	if got, want := enforced(r.T, r.k, r.lab.Session.Interface), enforced(r.T, r.fresh, r.clean.Session.Interface); got != want {
		r.Errorf("got\n%s\nwant\n%s\nsteps:\n%s", got, want, strings.Join(result.Steps, "\n"))
	}
	r.compared++
}

// crash ends a process after some messages of a change; another one takes over.
func (r *replay) crash() {
	p, n := r.randomPlan(), r.IntN(12)
	r.say("crash after %d messages of %s", n, p.Bytes())
	r.k.Refuse(func() error {
		if n--; n < 0 {
			return syscall.EIO
		}
		return nil
	})
	_, _ = r.k.Apply(r.Context(), r.lab.Session.Interface, p) // it dies, unless it had less to do
	must(r.T, r.k.Close())
	k, err := kernel.Open(r.lab.Node.Path())
	must(r.T, err)
	r.T.Cleanup(func() { _ = k.Close() })
	r.k = k
	r.crashed++
}

func (r *replay) foreignRoot() netlink.Qdisc {
	for _, q := range qdiscs(r.T, r.lab.Node, "h0") {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Attrs().Handle == 0x770000 {
			return q
		}
	}
	return nil
}

// interfere does one thing that root can do, where it can be done; what cannot be done there, the kernel refuses.
func (r *replay) interfere() {
	links := r.lab.Node.Links()
	name := "h0"
	if ifb := "ayu" + itoa(r.lab.Session.Interface.Index); r.IntN(2) == 0 && exists(r.T, r.lab.Node, ifb) {
		name = ifb
	}
	l := device(r.T, r.lab.Node, name)
	index := l.Attrs().Index
	minor := uint32(0x200 + r.IntN(8))
	if r.IntN(4) == 0 {
		minor = tc.DefaultMinor
	}
	root := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT})
	class := func(parent, handle uint32) *netlink.HtbClass {
		return netlink.NewHtbClass(netlink.ClassAttrs{LinkIndex: index, Parent: parent, Handle: handle}, netlink.HtbClassAttrs{Rate: 1234567, Ceil: 7654321})
	}
	queue := func(kind string) *netlink.GenericQdisc {
		return &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: 0x10000 | minor, Handle: minor << 16}, QdiscType: kind}
	}
	dequeue := func() error { // whatever its kind
		for _, q := range qdiscs(r.T, r.lab.Node, name) {
			if q.Attrs().Parent == 0x10000|minor {
				return links.QdiscDel(q)
			}
		}
		return unix.ENOENT
	}
	filters := func(parent uint32) []netlink.Filter {
		list, err := links.FilterList(l, parent)
		must(r.T, err)
		return list
	}
	table := func(n *kerneltest.Namespace, args ...string) func() error {
		return func() error {
			return n.Do(func() error { return exec.CommandContext(r.Context(), "nft", args...).Run() })
		}
	}
	what := []struct {
		name string
		do   func() error
	}{
		{"deletes the root", func() error { return links.QdiscDel(root) }},
		{"puts another root", func() error {
			if name != "h0" {
				return nil
			}
			_ = links.QdiscDel(root)
			return links.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: 0x770000, Parent: netlink.HANDLE_ROOT}, QdiscType: "pfifo"})
		}},
		{"changes a rate", func() error { return links.ClassChange(class(0x10001, 0x10000|minor)) }},
		{"changes the link's rate", func() error { return links.ClassChange(class(0x10000, 0x10001)) }},
		{"deletes a class", func() error { return links.ClassDel(class(0x10001, 0x10000|minor)) }},
		{"adds a class of ours to be", func() error { return links.ClassAdd(class(0x10001, 0x10000|minor)) }},
		{"adds a class at the root", func() error { return links.ClassAdd(class(0x10000, 0x10000|minor)) }},
		{"adds a class below a leaf", func() error { return links.ClassAdd(class(0x10000|minor, 0x19000)) }},
		{"deletes a queue", dequeue},
		{"puts another queue", func() error { _ = dequeue(); return links.QdiscAdd(queue("pfifo")) }},
		{"puts a queue of the kernel's own measures", func() error {
			_ = dequeue()
			return links.QdiscAdd(queue(string(r.queues[r.IntN(len(r.queues))](0).Kind)))
		}},
		{"deletes the filters", func() error {
			for _, f := range filters(0x10000) {
				_ = links.FilterDel(f)
			}
			return nil
		}},
		{"adds a filter to our tree", func() error {
			return links.FilterAdd(&netlink.U32{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: 0x10000, Priority: uint16(1 + r.IntN(3)), Protocol: unix.ETH_P_IP}, ClassId: 0x10000 | minor,
			})
		}},
		{"flushes the rules", table(r.lab.Node, "flush", "ruleset")},
		{"flushes the session's rules", table(r.lab.Session.Namespace, "flush", "ruleset")},
		{"empties a chain", table(r.lab.Session.Namespace, "flush", "chain", "inet", "agentyard", "upload")},
		{"adds a rule", table(r.lab.Node, "insert", "rule", "netdev", tc.TableName("s"), "download", "accept")},
		{"deletes the ingress", func() error {
			return links.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: 0xffff0000, Parent: netlink.HANDLE_CLSACT}})
		}},
		{"deletes the ingress filter", func() error {
			for _, f := range filters(netlink.HANDLE_MIN_INGRESS) {
				_ = links.FilterDel(f)
			}
			return nil
		}},
		{"sets the IFB down", func() error {
			if name == "h0" {
				return nil
			}
			return links.LinkSetDown(l)
		}},
		{"deletes the IFB", func() error {
			if name == "h0" {
				return nil
			}
			return links.LinkDel(l)
		}},
	}
	w := what[r.IntN(len(what))]
	err := w.do()
	r.say("somebody %s of %s (minor %x): %v", w.name, name, minor, err)
	if err == nil {
		r.interfered++
	}
}
