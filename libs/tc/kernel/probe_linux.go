package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/thread"
)

// Probe finds out what this node's kernel can do, by doing each once in a network namespace of its own, which is gone afterwards: a
// version or a list of modules would not say what a kernel was built with or may load. It asks once per process. The error wraps
// ErrUnsupported when the process may not even try.
func Probe() (tc.Capabilities, error) { return probed() }

var probed = sync.OnceValues(func() (caps tc.Capabilities, err error) {
	err = thread.Own(func() error { // with which the namespace ends
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (needs CAP_SYS_ADMIN and CAP_NET_ADMIN): %w: %w", ErrUnsupported, err)
		}
		var err error
		caps, err = probeHere()
		return err
	})
	return caps, err
})

// loopback is there in every network namespace, and takes queueing disciplines as any device does.
const loopback = 1

func probeHere() (caps tc.Capabilities, err error) {
	s, err := dialHere(0)
	if err != nil {
		return caps, err
	}
	defer func() { _ = s.close() }()
	p := prober{s: s}

	caps.Peer = true // we are in another namespace now
	caps.TicksPerSecond = timerTicks()
	caps.HTB = p.can(root{rootHandle, tc.DefaultMinor, r2q, rootMark}.add(loopback)) &&
		p.can(newClass(parentHandle, rootHandle, tc.Mbit, tc.Mbit, tc.KiB, tc.KiB, 1514, 0).add(loopback)) &&
		p.can(newClass(rootHandle|tc.DefaultMinor, parentHandle, tc.Mbit, tc.Mbit, tc.KiB, tc.KiB, 1514, 0).add(loopback))
	if !caps.HTB {
		return caps, p.err
	}
	for _, q := range []struct {
		queue tc.Queue
		can   *bool
	}{
		{tc.Queue{Kind: tc.FQCodel, Limit: tc.MiB, Packets: 100, Target: 5 * tc.Millisecond, Interval: 100 * tc.Millisecond, Quantum: 1514}, &caps.FQCodel},
		{tc.Queue{Kind: tc.SFQ, Packets: 100, Quantum: 1514}, &caps.SFQ},
		{tc.Queue{Kind: tc.BFIFO, Limit: 10000}, &caps.BFIFO},
		{tc.Queue{Kind: tc.Netem, Packets: 100, Delay: tc.Millisecond}, &caps.Netem},
	} {
		leaf := newQueue(tc.DefaultMinor, q.queue)
		*q.can = p.can(leaf.add(loopback)) && p.can(leaf.del(loopback))
	}
	ps := newPrograms()
	defer ps.close()
	caps.BPF = p.runs(ps, "classes", func() asm.Instructions {
		port := uint8(unix.IPPROTO_TCP)
		return classifier(&tc.Tree{Default: tc.DefaultMinor, Filters: []tc.Filter{
			{Class: tc.DefaultMinor, Family: tc.IPv6, Protocol: &port, DstPorts: tc.PortRange{First: 443, Last: 443}},
		}})
	}, false)
	caps.Faults = caps.BPF && p.runs(ps, "faults", func() asm.Instructions {
		return classifier(&tc.Tree{Default: tc.DefaultMinor, Fault: &tc.Diversion{Until: 1, Class: tc.FaultMinor, Lost: tc.LostMinor, Loss: 1}})
	}, false)
	caps.Relay = caps.Faults && p.relays(ps)
	p.limits(&caps)
	caps.IFB = p.can(ifbAdd(ifbName(loopback))) && p.can(clsact(loopback)) && p.redirects(ps)
	return caps, p.err
}

// prober tries things out. An error that says nothing about the kernel's abilities stays in err.
type prober struct {
	s   *socket
	err error
}

func (p *prober) can(m message) bool {
	errs, err := p.s.write(context.Background(), []message{m})
	if err != nil {
		p.err = fmt.Errorf("probe: %w", err)
		return false
	}
	if err := errs[0]; err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			p.err = fmt.Errorf("probe (needs CAP_NET_ADMIN): %w: %w", ErrUnsupported, err)
		}
		return false
	}
	return true
}

// runs says whether the kernel takes a program, and as a filter.
func (p *prober) runs(ps *programs, role string, build func() asm.Instructions, direct bool) bool {
	prog, err := ps.get(role, []byte(role), build)
	if err != nil {
		return false
	}
	handle, err := ps.handle(prog)
	if err != nil {
		return false
	}
	defer func() { _ = handle.Close() }()
	f := classFilter(prog)
	f.direct = direct
	return p.can(f.put(loopback, rootHandle, handle.FD()))
}

// redirects says whether an ingress filter can send packets to another device (act_mirred).
func (p *prober) redirects(ps *programs) bool {
	f, program, err := ps.redirector(loopback)
	if err != nil {
		return false
	}
	handle, err := ps.handle(program)
	if err != nil {
		return false
	}
	defer func() { _ = handle.Close() }()
	return p.can(f.put(loopback, clsactIngress, handle.FD()))
}

// timerTicks is how often a second the packet scheduler's timer can fire.
func timerTicks() uint32 {
	data, err := os.ReadFile("/proc/net/psched")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 4 {
		return 0
	}
	n, err := strconv.ParseUint(fields[3], 16, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// limits finds out which limits nftables can enforce. A kernel without nftables has none.
func (p *prober) limits(caps *tc.Capabilities) {
	s, err := dialProtocol(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return
	}
	defer func() { _ = s.close() }()
	can := func(l tc.Limit) bool {
		node, inside := limitsOf(&tc.Plan{Session: "probe", Mode: tc.Enforce, Limits: []tc.Limit{l}}, "lo", "lo")
		msgs, _, _ := changes(nil, append(node, inside...))
		return s.transact(context.Background(), msgs) == nil
	}
	rate := tc.Limit{Kind: tc.PacketRate, Direction: tc.Download, Rate: 1, Burst: 5}
	caps.NetdevEgress = can(rate)
	rate.Direction = tc.Upload
	caps.NetdevIngress = can(rate)
	caps.ConnLimit = can(tc.Limit{Kind: tc.Connections, Direction: tc.Upload, Count: 1}) &&
		can(tc.Limit{Kind: tc.ConnectionRate, Direction: tc.Upload, Rate: 1, Burst: 5})
}

// relays says whether a Relay could work: tap devices, packet sockets, and its programs.
func (p *prober) relays(ps *programs) bool {
	tap, err := openTap("", "ayprobe")
	if err != nil {
		return false
	}
	defer func() { _ = tap.Close() }()
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := (&Kernel{}).injector(stop, loopback); err != nil { // needs CAP_NET_RAW
		return false
	}
	return p.runs(ps, "relay", func() asm.Instructions { return divertToTap(loopback, 1) }, true) &&
		p.runs(ps, "giveback", func() asm.Instructions { return giveBack(loopback) }, true)
}
