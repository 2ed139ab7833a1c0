package kernel

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// root is the htb qdisc at the top of a tree.
type root struct {
	handle      uint32
	fallback    uint32 // the minor of the class that takes what no filter names: htb's default
	quantumRate uint32 // r2q
	mark        uint32
}

// rootMark tells our trees from others' with the same handle: it is the length of the queue of packets that bypass an HTB's classes
// (direct_qlen), which nothing of ours does, and a number that nobody chooses by chance.
const rootMark = 2741

const (
	rootHandle   = tc.RootMajor << 16
	parentHandle = rootHandle | tc.ParentMinor
	r2q          = 10
)

func (r root) ours() bool { return r.handle == rootHandle && r.mark == rootMark }

func (r root) String() string {
	return fmt.Sprintf("qdisc root handle %s htb default %x r2q %d direct_qlen %d", handleText(r.handle), r.fallback, r.quantumRate, r.mark)
}

func (r root) add(device int) message {
	e := traffic(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, device, r.handle, parentRoot, 0).text(attrKind, "htb")
	return e.nest(attrOptions, func(e *encoder) {
		var glob []byte // struct tc_htb_glob
		for _, v := range []uint32{3, r.quantumRate, r.fallback, 0, 0} {
			glob = native.AppendUint32(glob, v)
		}
		e.attr(htbInit, glob).uint32(htbDirectLen, r.mark)
	}).end()
}

func (r root) del(device int) message {
	return traffic(unix.RTM_DELQDISC, 0, device, r.handle, parentRoot, 0).end()
}

// class is an htb class.
type class struct {
	handle, parent   uint32
	rate, ceil       uint64 // bytes a second
	burst, ceilBurst uint32 // in ticks of 64 ns at the rate
	quantum          uint32
	priority         uint32
	overhead         uint32 // of rate and ceil, as others may have set it; ours have none
}

// tickNanoseconds is the unit of bucket sizes: the kernel's psched shift of 6.
const tickNanoseconds = 64

// ticks is how long the rate needs for a bucket of n bytes.
func ticks(n tc.Bytes, rate uint64) uint32 {
	t := float64(n) * 1e9 / float64(rate) / tickNanoseconds
	return uint32(min(t, 1<<32-1))
}

func newClass(handle, parent uint32, rate, ceil tc.BitsPerSecond, burst, ceilBurst tc.Bytes, quantum, priority uint32) class {
	r, c := max(uint64(rate)/8, 1), max(uint64(ceil)/8, 1)
	return class{handle, parent, r, c, ticks(burst, r), ticks(ceilBurst, c), quantum, priority, 0}
}

func (c class) String() string {
	return fmt.Sprintf("class parent %s classid %s htb rate %dbit ceil %dbit prio %d quantum %d",
		handleText(c.parent), handleText(c.handle), c.rate*8, c.ceil*8, c.priority, c.quantum)
}

// same says whether d needs no change to become c. What the kernel keeps of an inner class's quantum and priority depends on the past, and nothing on it.
func (c class) same(d class) bool {
	if c.handle == parentHandle {
		d.quantum, d.priority = c.quantum, c.priority
	}
	return c == d
}

func (c class) add(device int) message {
	return c.write(device, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
}

func (c class) change(device int) message { return c.write(device, 0) }

func (c class) write(device int, flags uint16) message {
	e := traffic(unix.RTM_NEWTCLASS, flags, device, c.handle, c.parent, 0).text(attrKind, "htb")
	return e.nest(attrOptions, func(e *encoder) {
		const linkEthernet = 1 // so that the kernel asks for no rate table
		var o [sizeofHTBOpt]byte
		for at, rate := range map[int]uint64{0: c.rate, 12: c.ceil} {
			o[at+1] = linkEthernet
			native.PutUint32(o[at+8:], uint32(min(rate, 1<<32-1)))
		}
		native.PutUint32(o[24:], c.burst)
		native.PutUint32(o[28:], c.ceilBurst)
		native.PutUint32(o[32:], c.quantum)
		native.PutUint32(o[40:], c.priority)
		e.attr(htbParms, o[:])
		if c.rate >= 1<<32 {
			e.uint64(htbRate64, c.rate)
		}
		if c.ceil >= 1<<32 {
			e.uint64(htbCeil64, c.ceil)
		}
	}).end()
}

func (c class) del(device int) message {
	return traffic(unix.RTM_DELTCLASS, 0, device, c.handle, 0, 0).end()
}

// filter is what decides the class of a packet (at the root of a tree), or sends a packet on (at an ingress).
type filter struct {
	kind     string
	priority uint32
	protocol uint16 // in network order
	handle   uint32
	chain    uint32
	name     string // says which program it is: see program.go
	tag      string // the kernel's hash of the program
	program  uint32 // the kernel's number of the program
	direct   bool
	parent   uint32 // of a Relay's; else known from where it was read
	redirect int    // the device that its action sends packets to; 0: it has none
}

const (
	filterPriority  = 1
	ingressPriority = 2 // after a Relay's
	filterHandle    = 0x6179
)

func (f filter) String() string {
	return fmt.Sprintf("filter protocol all prio %d handle %#x %s name %s", f.priority, f.handle, f.kind, f.name)
}

// ours says that we made it.
func (f filter) ours() bool { return f.kind == "bpf" && strings.HasPrefix(f.name, programPrefix) }

// put makes the filter be there with the program fd; it replaces the program of one that is there, in one step.
func (f filter) put(device int, parent uint32, fd int) message {
	info := f.priority<<16 | uint32(f.protocol)
	e := traffic(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE, device, f.handle, parent, info).text(attrKind, f.kind)
	return e.nest(attrOptions, func(e *encoder) {
		e.uint32(bpfFD, uint32(fd)).text(bpfName, f.name)
		if f.direct {
			e.uint32(bpfFlags, bpfActDirect)
		}
		if f.redirect != 0 {
			e.nest(bpfAct, func(e *encoder) {
				e.nest(firstAction, func(e *encoder) {
					e.text(actKind, "mirred").nest(actOptions, func(e *encoder) {
						var parms []byte // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
						for _, v := range []uint32{0, 0, verdictStolen, 0, 0, egressRedirect, uint32(f.redirect)} {
							parms = native.AppendUint32(parms, v)
						}
						e.attr(mirredParms, parms)
					})
				})
			})
		}
	}).end()
}

func (f filter) del(device int, parent uint32) message {
	info := f.priority<<16 | uint32(f.protocol)
	e := traffic(unix.RTM_DELTFILTER, 0, device, f.handle, parent, info).text(attrKind, f.kind)
	if f.chain != 0 {
		e.uint32(attrChain, f.chain)
	}
	return e.end()
}

// clsact is the qdisc that gives an interface an ingress.
func clsact(device int) message {
	return traffic(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, device, clsactHandle, parentClsact, 0).text(attrKind, "clsact").end()
}

func clsactDel(device int) message {
	return traffic(unix.RTM_DELQDISC, 0, device, clsactHandle, parentClsact, 0).end()
}

// handleText is a handle as tc prints it.
func handleText(h uint32) string {
	if h == parentRoot {
		return "root"
	}
	if h&0xffff == 0 {
		return fmt.Sprintf("%x:", h>>16)
	}
	return fmt.Sprintf("%x:%x", h>>16, h&0xffff)
}
