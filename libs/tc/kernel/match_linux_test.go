package kernel_test

import (
	"bytes"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// counted waits until classes have counted n packets in all, and returns which have: the classes' minors.
func counted(t *testing.T, packets func() map[tc.Minor]uint64, before map[tc.Minor]uint64, n uint64) map[tc.Minor]uint64 {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, total := map[tc.Minor]uint64{}, uint64(0)
		for minor, now := range packets() {
			if d := now - before[minor]; d > 0 {
				got[minor] = d
				total += d
			}
		}
		if total >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d packets were counted: %v", total, n, got)
		}
		kerneltest.Wait(time.Millisecond)
	}
}

func packetsOf(t *testing.T, k *kernel.Kernel, on kernel.Interface, upload bool) map[tc.Minor]uint64 {
	t.Helper()
	counters, err := k.Count([]kernel.Interface{on})
	must(t, err)
	list := counters[0].Download
	if upload {
		list = counters[0].Upload
	}
	out := map[tc.Minor]uint64{}
	for _, c := range list {
		out[c.Minor] = c.Packets
	}
	return out
}

// match is filters, and packets that they take and leave.
type match struct {
	name    string
	filters []tc.Filter // of download: src is the node
	match   []kerneltest.Packet
	pass    []kerneltest.Packet
}

// matchClass is the class that a match's packets are of; the rest is the default's.
const matchClass = tc.Minor(0x200)

func matches() []match {
	udp, tcp := number(17), number(6)
	prefix := netip.MustParsePrefix
	type packet = kerneltest.Packet
	return []match{
		{
			"a prefix of IPv4", []tc.Filter{{Family: tc.IPv4, Src: prefix("10.99.0.8/29")}},
			[]packet{{From: "10.99.0.11"}, {From: "10.99.0.11", FromPort: 7, Port: 8}},
			[]packet{{From: "10.99.0.1"}, {From: "fd99::11"}},
		},
		{
			"a prefix of IPv6 that ends within a word", []tc.Filter{{Family: tc.IPv6, Src: prefix("fd99::10/125")}, {Family: tc.IPv6, Src: prefix("fd99::10/124"), Dst: prefix("fd99::2/128")}},
			[]packet{{From: "fd99::11"}},
			[]packet{{From: "fd99::1"}, {From: "10.99.0.11"}},
		},
		{
			"everything of a family", []tc.Filter{{Family: tc.IPv6, Src: prefix("::/0")}},
			[]packet{{From: "fd99::1"}, {From: "fd99::11", TCP: true}},
			[]packet{{From: "10.99.0.1"}},
		},
		{
			"a range of ports, its ends included", []tc.Filter{{Family: tc.IPv4, Protocol: udp, DstPorts: ports(4001, 4006)}},
			[]packet{{Port: 4001}, {Port: 4003}, {Port: 4006}},
			[]packet{{Port: 4000}, {Port: 4007}, {Port: 4003, TCP: true}, {From: "fd99::1", Port: 4003}, {Port: 9, FromPort: 4003}},
		},
		{
			"source ports of IPv6", []tc.Filter{{Family: tc.IPv6, Protocol: tcp, SrcPorts: ports(443, 443)}},
			[]packet{{From: "fd99::1", FromPort: 443, TCP: true}},
			[]packet{{From: "fd99::1", FromPort: 444, TCP: true}, {From: "fd99::1", FromPort: 443}, {From: "fd99::1", Port: 443, TCP: true}},
		},
		{
			"a protocol", []tc.Filter{{Family: tc.IPv4, Protocol: tcp}, {Family: tc.IPv6, Protocol: tcp}},
			[]packet{{TCP: true}, {From: "fd99::1", TCP: true}},
			[]packet{{}, {From: "fd99::1"}},
		},
		{
			"DSCP whatever the congestion bits", []tc.Filter{{Family: tc.IPv4, DSCP: number(46)}, {Family: tc.IPv6, DSCP: number(10)}},
			[]packet{{TOS: 46 << 2}, {TOS: 46<<2 | 1}, {From: "fd99::1", TOS: 10<<2 | 2}},
			[]packet{{}, {TOS: 45 << 2}, {From: "fd99::1", TOS: 46 << 2}, {TOS: 10 << 2}},
		},
		{
			"all criteria of one match, any of several matches", []tc.Filter{
				{Family: tc.IPv4, Protocol: udp, Src: prefix("10.99.0.11/32"), DstPorts: ports(53, 53), DSCP: number(8)},
				{Family: tc.IPv4, Protocol: udp, SrcPorts: ports(1000, 1999)},
			},
			[]packet{
				{From: "10.99.0.11", Port: 53, TOS: 8 << 2}, {FromPort: 1000}, {FromPort: 1999, Port: 53}, {From: "10.99.0.11", Port: 53, TOS: 8 << 2, FromPort: 1500},
			},
			[]packet{
				{Port: 53, TOS: 8 << 2}, {From: "10.99.0.11", Port: 54, TOS: 8 << 2}, {From: "10.99.0.11", Port: 53}, {FromPort: 999}, {FromPort: 2000},
				{FromPort: 1500, TCP: true},
			},
		},
		{
			"no ports where there are none", []tc.Filter{{Family: tc.IPv4, Protocol: udp, DstPorts: ports(4000, 4000)}, {Family: tc.IPv6, Protocol: udp, DstPorts: ports(4000, 4000)}},
			[]packet{{Port: 4000}, {From: "fd99::1", Port: 4000}},
			[]packet{
				{Port: 4000, Options: true}, {Port: 4000, Fragment: true}, {Port: 4000, Short: true},
				{From: "fd99::1", Port: 4000, Options: true}, {From: "fd99::1", Port: 4000, Fragment: true}, {From: "fd99::1", Short: true},
			},
		},
		{
			"a packet without ports by its address", []tc.Filter{{Family: tc.IPv4, Src: prefix("10.99.0.11/32")}, {Family: tc.IPv6, Src: prefix("fd99::11/128")}},
			[]packet{{From: "10.99.0.11", Short: true}, {From: "fd99::11", Options: true}, {From: "fd99::11", Short: true}},
			[]packet{{Short: true}},
		},
	}
}

// plan has the filters both ways, and is quick enough that nothing waits.
func (c match) plan() *tc.Plan {
	leaves := []tc.Leaf{leaf(tc.DefaultMinor, "rest", 100*tc.Mbit, tc.Gbit), leaf(matchClass, "other", 100*tc.Mbit, tc.Gbit)}
	up := make([]tc.Filter, len(c.filters))
	for i := range c.filters {
		c.filters[i].Class = matchClass
		up[i] = mirrored(c.filters[i])
	}
	return plan(tree(tc.AtHost, tc.Gbit, leaves, c.filters...), tree(tc.AtIFB, tc.Gbit, slices.Clone(leaves), up...))
}

// send sends each packet there and back, and asks which class counted it.
func (c match) send(t *testing.T, lab *kerneltest.Lab, packets func(upload bool) map[tc.Minor]uint64) {
	t.Helper()
	for i, p := range slices.Concat(c.match, c.pass) {
		want := matchClass
		if i >= len(c.match) {
			want = tc.DefaultMinor
		}
		for _, upload := range []bool{false, true} {
			read := func() map[tc.Minor]uint64 { return packets(upload) }
			before := read()
			lab.SendPacket(t, p, upload)
			if got := counted(t, read, before, 1); got[want] != 1 || len(got) != 1 {
				t.Errorf("%+v (upload: %t) is counted by %v, want %v", p, upload, got, want)
			}
		}
	}
}

// TestMatch sends packets of each kind and asks the kernel which class counted them.
func TestMatch(t *testing.T) {
	for _, c := range matches() {
		t.Run(c.name, func(t *testing.T) {
			lab := kerneltest.NewQuietLab(t)
			k, on := lab.Node.Open(t), lab.Session.Interface
			apply(t, k, on, c.plan())
			c.send(t, lab, func(upload bool) map[tc.Minor]uint64 { return packetsOf(t, k, on, upload) })
		})
	}
}

// TestCommands gives a plan to ip and tc as it prints, with u32 where we have a program: each packet is of the same class.
func TestCommands(t *testing.T) {
	for _, c := range matches() {
		t.Run(c.name, func(t *testing.T) {
			lab := kerneltest.NewQuietLab(t)
			const ifb = "ifb0"
			commands := c.plan().Commands(tc.Devices{Host: lab.Session.Host, IFB: ifb})
			for _, tool := range []struct {
				name  string
				lines []string
			}{{"ip", commands.IP}, {"tc", commands.TC}} {
				cmd := exec.CommandContext(t.Context(), tool.name, "-batch", "-")
				cmd.Stdin = strings.NewReader(strings.Join(tool.lines, "\n") + "\n")
				var said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &said, &said
				if err := lab.Node.Do(cmd.Run); err != nil {
					t.Fatalf("%s: %v\n%s", tool.name, err, said.String())
				}
			}
			c.send(t, lab, func(upload bool) map[tc.Minor]uint64 {
				device := lab.Session.Host
				if upload {
					device = ifb
				}
				out := map[tc.Minor]uint64{}
				for handle, class := range classes(t, lab.Node, device) {
					if minor := tc.Minor(handle & 0xffff); minor != tc.ParentMinor {
						out[minor] = uint64(class.Statistics.Basic.Packets)
					}
				}
				return out
			})
		})
	}
}

// mirrored is the filter for the other direction.
func mirrored(f tc.Filter) tc.Filter {
	f.Src, f.Dst = f.Dst, f.Src
	f.SrcPorts, f.DstPorts = f.DstPorts, f.SrcPorts
	return f
}
