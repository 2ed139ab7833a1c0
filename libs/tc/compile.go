package tc

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// Compile is NewSet and Set.Compile.
func Compile(policies []Policy, s Session, c Capabilities, at time.Time) (*Plan, Effective, error) {
	set, err := NewSet(policies)
	if err != nil {
		return nil, Effective{}, err
	}
	plan, effective := set.Compile(s, c, at)
	return plan, effective, nil
}

// Compile turns the policies that hold for s at a time into the plan for a node that can do c, and says what holds. It is pure: the same
// input, whatever the order of policies, labels and alternatives in it, gives the same Plan.Bytes on every node.
//
// What a node cannot do is left out and said in Plan.Degraded; guarantees that a smaller ceiling of another policy does not hold are lowered in
// proportion and said in Effective.Conflicts.
func (set *Set) Compile(s Session, c Capabilities, at time.Time) (*Plan, Effective) {
	e := set.Resolve(s, at)
	k := compiler{session: s, can: c, effective: &e, plan: &Plan{Format: PlanFormat, Session: s.ID, Mode: e.Mode}}
	if e.Mode != Off {
		k.minors = assignMinors(e.Classes)
		for _, d := range directions {
			k.tree(d)
		}
		k.limits()
	}
	slices.Sort(k.plan.Degraded)
	k.plan.Degraded = slices.Compact(k.plan.Degraded)
	return k.plan, e
}

// compiler holds one compilation.
type compiler struct {
	session   Session
	can       Capabilities
	effective *Effective
	plan      *Plan
	minors    map[string]Minor
}

func (k *compiler) degrade(format string, args ...any) {
	k.plan.Degraded = append(k.plan.Degraded, fmt.Sprintf(format, args...))
}

func (k *compiler) conflict(format string, args ...any) {
	k.effective.Conflicts = append(k.effective.Conflicts, fmt.Sprintf(format, args...))
}

// soleClass is the name of the class of a link that is not divided.
const soleClass = "all"

// assignMinors gives each class an id that depends on its name, so that its counters survive changes of the others; the default class has
// the one that every default class has.
func assignMinors(classes []Class) map[string]Minor {
	minors, taken := map[string]Minor{soleClass: DefaultMinor}, map[Minor]bool{}
	var names []string
	for _, c := range classes {
		if c.Default {
			minors[c.Name] = DefaultMinor
		} else {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		h := fnv.New32a()
		h.Write([]byte(name))
		m := Minor(DefaultMinor + 1 + h.Sum32()%(MaxLeaf-DefaultMinor))
		for taken[m] {
			if m++; m > MaxLeaf {
				m = DefaultMinor + 1
			}
		}
		minors[name], taken[m] = m, true
	}
	return minors
}

// place is where a direction's tree hangs on this node; empty, with the reason said: nowhere.
func (k *compiler) place(d Direction) Place {
	switch {
	case !k.can.HTB:
		k.degrade("%s is not shaped: the kernel has no HTB", d)
	case k.queueKind() == "":
		k.degrade("%s is not shaped: the kernel has none of fq_codel, sfq and bfifo", d)
	case d == Download:
		return AtHost
	case k.can.IFB:
		return AtIFB
	case k.can.Peer:
		return AtPeer
	default:
		k.degrade("upload is not shaped: the kernel has no IFB, and sessions' network namespaces cannot be entered")
	}
	return ""
}

func (k *compiler) queueKind() QueueKind {
	switch {
	case k.can.FQCodel:
		return FQCodel
	case k.can.SFQ:
		return SFQ
	case k.can.BFIFO:
		return BFIFO
	}
	return ""
}

// tree adds the tree of a direction, when there is something to shape or to tell apart.
func (k *compiler) tree(d Direction) {
	of := k.effective.Direction(d)
	classes := slices.DeleteFunc(slices.Clone(k.effective.Classes), func(c Class) bool { return !c.in(d) })
	if of.Ceiling == nil && len(classes) == 0 {
		return
	}
	place := k.place(d)
	if place == "" {
		return
	}
	rate := Unlimited
	if of.Ceiling != nil && k.plan.Mode == Enforce {
		rate = of.Ceiling.Value / 8 * 8
	}
	t := &Tree{Place: place, Rate: rate, MTU: k.mtu()}
	t.Burst = k.burst(rate)
	if of.Burst != nil && k.plan.Mode == Enforce {
		t.Burst = max(t.Burst, of.Burst.Value)
	}
	t.Guarantee = k.effective.Guaranteed(d) / 8 * 8
	switch {
	case len(classes) == 0:
		classes = []Class{{Name: soleClass, Default: true, Guarantee: rate}}
	case !k.can.U32 && !k.can.BPF:
		k.degrade("classes are not told apart: the kernel has neither u32 nor eBPF classifiers")
		only := classes[slices.IndexFunc(classes, func(c Class) bool { return c.Default })]
		classes = []Class{{Name: only.Name, Default: true, Guarantee: rate, Priority: only.Priority}}
	case k.plan.Mode == Report:
		for i := range classes {
			classes[i].Guarantee, classes[i].Ceiling, classes[i].LatencyTarget = 0, 0, 0
		}
	}
	k.fit(d, classes, t)
	for _, c := range classes {
		t.Leaves = append(t.Leaves, k.leaf(c, t))
		if c.Default {
			t.Default = k.minors[c.Name]
		}
		if len(classes) > 1 {
			t.Filters = append(t.Filters, filtersOf(c, d, k.minors[c.Name])...)
		}
	}
	setQuanta(t, classes)
	slices.SortFunc(t.Leaves, func(a, b Leaf) int { return int(a.Minor) - int(b.Minor) })
	if d == Upload {
		k.plan.Upload = t
	} else {
		k.plan.Download = t
	}
}

// fit makes the classes those of this link, which may be narrower than that of the policy that has them: ceilings are cut and guarantees
// lowered in proportion.
func (k *compiler) fit(d Direction, classes []Class, t *Tree) {
	var sum BitsPerSecond
	for i := range classes {
		c := &classes[i]
		if c.Ceiling == 0 || c.Ceiling > t.Rate {
			c.Ceiling = t.Rate
		}
		c.Ceiling = c.Ceiling / 8 * 8
		if c.Guarantee > c.Ceiling {
			k.conflict("class %s: %s is guaranteed %s, and the link has %s", c.Name, d, c.Guarantee, c.Ceiling)
			c.Guarantee = c.Ceiling
		}
		c.Guarantee = c.Guarantee / 8 * 8
		sum += c.Guarantee
	}
	if sum <= t.Rate {
		return
	}
	k.conflict("guarantees of policy %s for %s add up to %s, and the link has %s of policy %s: each is lowered in proportion",
		k.effective.ClassesFrom, d, sum, t.Rate, k.effective.Direction(d).Ceiling.From)
	for i := range classes {
		classes[i].Guarantee = share(classes[i].Guarantee, t.Rate, sum) / 8 * 8
	}
}

// share is a × part / whole without overflow, for part ≤ whole.
func share(a, part, whole BitsPerSecond) BitsPerSecond {
	return BitsPerSecond(mulDiv(uint64(a), uint64(part), uint64(whole)))
}

// leaf is a class that fits its link.
func (k *compiler) leaf(c Class, t *Tree) Leaf {
	l := Leaf{
		Minor: k.minors[c.Name], Class: c.Name, Priority: uint8(c.Priority),
		Rate: max(c.Guarantee, MinRate), Ceiling: c.Ceiling,
	}
	l.Burst = k.burst(l.Rate)
	// The link's burst passes only when the class that sends may have its share of it.
	l.CeilingBurst = max(k.burst(l.Ceiling), Bytes(mulDiv(uint64(t.Burst), uint64(l.Ceiling), uint64(t.Rate))))
	l.Queue = k.queue(c, l)
	return l
}

func (k *compiler) mtu() uint32 {
	if k.session.MTU == 0 {
		return etherMTU
	}
	return k.session.MTU + etherHeader
}

// burst is the least bucket that holds a rate: a packet, and what the rate sends in a tick of this node's timer.
func (k *compiler) burst(rate BitsPerSecond) Bytes {
	ticks := uint64(k.can.TicksPerSecond)
	switch {
	case ticks == 0:
		ticks = 100
	case ticks > assumedTick: // a timer of high resolution wakes late too
		ticks = assumedTick
	}
	return Bytes(k.mtu()) + tick(rate, ticks)
}

const (
	// defaultLatency is how long a queue without a target may get.
	defaultLatency = 50 * Millisecond
	// oneWrite is what TCP hands down in one piece (64 KiB as packets of 1,448 bytes, with their headers). A bfifo that is shorter drops it
	// whole, and when the sender is on this machine it tries the same piece again and again.
	oneWrite = 70_000 * Byte
	// maxQueue bounds the memory of one queue.
	maxQueue = 64 * MiB
)

// queue sizes the leaf's qdisc to the latency target.
func (k *compiler) queue(c Class, l Leaf) Queue {
	mtu := Bytes(k.mtu())
	rate, wait, least := l.Ceiling, defaultLatency, 10*mtu
	if c.LatencyTarget != 0 {
		wait, least = c.LatencyTarget, mtu
		if c.Guarantee != 0 {
			rate = c.Guarantee
		}
	}
	limit := min(max(Bytes(mulDiv(uint64(rate)/8, uint64(wait), uint64(Second))), least), maxQueue)
	q := Queue{Kind: k.queueKind()}
	switch q.Kind {
	case FQCodel:
		// Half of the target may stand in the queue for an interval; the slowest link needs the time of one packet.
		q.Target = max(min(wait/2, 5*Millisecond), sendTime(mtu, rate)) / Microsecond * Microsecond
		q.Interval = max(100*Millisecond, 20*q.Target)
		q.Packets = uint32(min(max(2*limit/mtu, 32), 10240))
		q.Limit = min(max(4*limit, 256*KiB), maxQueue) // which counts the kernel's own bookkeeping
		q.Quantum = mtu
		q.ECN = true
	case SFQ:
		q.Packets = uint32(min(max(limit/mtu, 2), 127))
		q.Quantum = mtu
	case BFIFO:
		q.Limit = max(limit, oneWrite)
	}
	return q
}

// setQuanta gives each leaf its turn among borrowers: in proportion to its guarantee; without one, that of the least guarantee. A turn is
// some packets long, so that the kernel's bundles of packets weigh in, and at most 20 ms, so that the others do not wait.
func setQuanta(t *Tree, classes []Class) {
	mtu, perMillisecond := Bytes(t.MTU), Bytes(t.Rate/8/1000)
	one := min(max(perMillisecond, mtu), 64*KiB)
	most := min(max(20*perMillisecond, one), MaxQuantum)
	var least BitsPerSecond
	for _, c := range classes {
		if c.Guarantee != 0 && (least == 0 || c.Guarantee < least) {
			least = c.Guarantee
		}
	}
	for i, c := range classes { // leaves are still in the classes' order
		t.Leaves[i].Quantum = one
		if c.Guarantee > least && least != 0 {
			t.Leaves[i].Quantum = min(Bytes(mulDiv(uint64(one), uint64(c.Guarantee), uint64(least))), most)
		}
	}
}

// limits adds the rules of netfilter.
func (k *compiler) limits() {
	for _, d := range directions {
		of := k.effective.Direction(d)
		if v := of.PacketsPerSecond; v != nil {
			if place := k.packetHook(d); place == "" {
				k.degrade("packets of %s are not limited: the kernel has no nftables hook there", d)
			} else {
				k.plan.Limits = append(k.plan.Limits, Limit{Kind: PacketRate, Direction: d, Place: place, Rate: v.Value, Burst: max(v.Value/10, 5)})
			}
		}
		if (of.Connections != nil || of.ConnectionsPerSecond != nil) && !k.can.ConnLimit {
			k.degrade("connections of %s are not limited: nftables cannot count them", d)
			continue
		}
		if v := of.ConnectionsPerSecond; v != nil {
			k.plan.Limits = append(k.plan.Limits, Limit{Kind: ConnectionRate, Direction: d, Rate: v.Value, Burst: max(v.Value, 5)})
		}
		if v := of.Connections; v != nil {
			k.plan.Limits = append(k.plan.Limits, Limit{Kind: Connections, Direction: d, Count: v.Value})
		}
	}
}

// packetHook is where a direction's packets pass one by one.
func (k *compiler) packetHook(d Direction) Place {
	switch {
	case d == Download && k.can.NetdevEgress:
		return AtHost
	case d == Upload && k.can.NetdevEgress && k.can.Peer:
		return AtPeer
	case d == Upload && k.can.NetdevIngress && (k.plan.Upload == nil || k.plan.Upload.Place != AtIFB):
		return AtHost
	}
	return ""
}
