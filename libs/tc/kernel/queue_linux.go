package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// queue is the qdisc below a leaf class. Only the fields of its kind are set.
type queue struct {
	kind           string
	handle, parent uint32
	limit          uint32 // bytes; of fq_codel the memory limit
	packets        uint32
	target         uint32 // microseconds
	interval       uint32 // microseconds
	quantum        uint32
	ecn            bool
	perturb        uint32 // seconds

	delay, jitter   uint64 // nanoseconds
	loss, duplicate uint32 // of 2^32 - 1
}

// Attributes of fq_codel: TCA_FQ_CODEL_….
const (
	codelTarget   = 1
	codelLimit    = 2
	codelInterval = 3
	codelECN      = 4
	codelQuantum  = 6
	codelMemory   = 9

	sizeofNetem    = 24 // struct tc_netem_qopt
	netemLatency64 = 10 // TCA_NETEM_LATENCY64
	netemJitter64  = 11
)

// sfqPerturb is how often sfq changes its hash, in seconds: often enough that two flows that collide do not for long.
const sfqPerturb = 10

func newQueue(minor tc.Minor, q tc.Queue) queue {
	out := queue{kind: string(q.Kind), handle: uint32(minor) << 16, parent: rootHandle | uint32(minor)}
	switch q.Kind {
	case tc.BFIFO:
		out.limit = uint32(q.Limit)
	case tc.SFQ:
		out.packets, out.quantum, out.perturb = q.Packets, uint32(q.Quantum), sfqPerturb
	case tc.Netem:
		out.packets, out.delay, out.jitter = q.Packets, uint64(q.Delay), uint64(q.Jitter)
		out.loss, out.duplicate = of32(q.Loss), of32(q.Duplicate)
	case tc.FQCodel:
		out.limit, out.packets, out.quantum, out.ecn = uint32(q.Limit), q.Packets, uint32(q.Quantum), q.ECN
		out.target, out.interval = uint32(q.Target/tc.Microsecond), uint32(q.Interval/tc.Microsecond)
	}
	return out
}

// of32 is a part as the kernel has probabilities; all of it is the greatest number.
func of32(p tc.Portion) uint32 {
	return uint32(min(uint64(p)<<32/uint64(tc.All), 1<<32-1))
}

func (q queue) String() string {
	s := fmt.Sprintf("qdisc parent %s handle %s %s", handleText(q.parent), handleText(q.handle), q.kind)
	for _, o := range []struct {
		name  string
		value uint32
		unit  string
	}{{"limit", q.packets, "p"}, {"limit", q.limit, "b"}, {"target", q.target, "us"}, {"interval", q.interval, "us"}, {"quantum", q.quantum, ""}} {
		if o.value != 0 {
			s += fmt.Sprintf(" %s %d%s", o.name, o.value, o.unit)
		}
	}
	if q.kind == string(tc.Netem) {
		s += fmt.Sprintf(" delay %dns %dns loss %d duplicate %d", q.delay, q.jitter, q.loss, q.duplicate)
	}
	return s
}

// same says whether d, as the kernel reports it, is q. fq_codel keeps times in units of 1.024 µs (codelTime).
func (q queue) same(d queue) bool {
	near := func(a, b uint32) bool { return a-b <= 1 || b-a <= 1 }
	if near(q.target, d.target) && near(q.interval, d.interval) {
		d.target, d.interval = q.target, q.interval
	}
	return q == d
}

// fixed says that the kernel cannot change a queue of this kind: it is made again, and what waits in it is lost.
func (q queue) fixed() bool { return q.kind == string(tc.SFQ) }

func (q queue) add(device int) message {
	return q.write(device, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
}

func (q queue) change(device int) message { return q.write(device, 0) }

func (q queue) write(device int, flags uint16) message {
	e := traffic(unix.RTM_NEWQDISC, flags, device, q.handle, q.parent, 0).text(attrKind, q.kind)
	switch tc.QueueKind(q.kind) {
	case tc.BFIFO:
		e.uint32(attrOptions, q.limit) // struct tc_fifo_qopt
	case tc.SFQ:
		var o []byte // struct tc_sfq_qopt: quantum, perturb_period, limit, divisor, flows
		for _, v := range []uint32{q.quantum, q.perturb, q.packets, 0, 0} {
			o = native.AppendUint32(o, v)
		}
		e.attr(attrOptions, o)
	case tc.Netem:
		e.nest(attrOptions, func(e *encoder) { // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; then attributes
			for _, v := range []uint32{0, q.packets, q.loss, 0, q.duplicate, 0} {
				e.b = native.AppendUint32(e.b, v)
			}
			e.uint64(netemLatency64, q.delay)
			e.uint64(netemJitter64, q.jitter)
		})
	case tc.FQCodel:
		e.nest(attrOptions, func(e *encoder) {
			ecn := uint32(0)
			if q.ecn {
				ecn = 1
			}
			e.uint32(codelTarget, q.target).uint32(codelInterval, q.interval).uint32(codelLimit, q.packets)
			e.uint32(codelQuantum, q.quantum).uint32(codelMemory, q.limit).uint32(codelECN, ecn)
		})
	}
	return e.end()
}

// del deletes the queue of a class; the class gets the kernel's own in its place.
func (q queue) del(device int) message {
	return traffic(unix.RTM_DELQDISC, 0, device, q.handle, q.parent, 0).end()
}

// codelTime is a time of fq_codel's as it can be written again, in microseconds. The kernel keeps units of 1.024 µs and rounds down whenever it converts: what it reports,
// written as it is, would come out a unit less each time.
func codelTime(reported uint32) uint32 { return reported + 1 }

func decodeQueue(o object) queue {
	q := queue{kind: o.kind, handle: o.handle, parent: o.parent}
	switch tc.QueueKind(o.kind) {
	case tc.BFIFO:
		q.limit = attrUint32(o.options)
	case tc.SFQ:
		if len(o.options) >= 12 {
			q.quantum, q.perturb, q.packets = native.Uint32(o.options), native.Uint32(o.options[4:]), native.Uint32(o.options[8:])
		}
	case tc.Netem:
		if len(o.options) < sizeofNetem {
			break
		}
		q.packets, q.loss, q.duplicate = native.Uint32(o.options[4:]), native.Uint32(o.options[8:]), native.Uint32(o.options[16:])
		for kind, v := range attrs(o.options[sizeofNetem:]) {
			switch kind {
			case netemLatency64:
				q.delay = attrUint64(v)
			case netemJitter64:
				q.jitter = attrUint64(v)
			}
		}
	case tc.FQCodel:
		for kind, v := range attrs(o.options) {
			switch kind {
			case codelTarget:
				q.target = codelTime(attrUint32(v))
			case codelInterval:
				q.interval = codelTime(attrUint32(v))
			case codelLimit:
				q.packets = attrUint32(v)
			case codelECN:
				q.ecn = attrUint32(v) != 0
			case codelQuantum:
				q.quantum = attrUint32(v)
			case codelMemory:
				q.limit = attrUint32(v)
			}
		}
	}
	return q
}
