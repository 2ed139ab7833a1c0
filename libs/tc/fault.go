package tc

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Fault is what is done to a session's traffic on purpose and for a while, to see how it bears it: worse than any policy would have it.
type Fault struct {
	Direction Direction     `json:"direction,omitempty"` // empty: both
	Delay     Duration      `json:"delay,omitempty"`     // each packet is late by this
	Jitter    Duration      `json:"jitter,omitempty"`    // and by as much more or less
	Loss      Portion       `json:"loss,omitempty"`      // of packets: they do not arrive
	Duplicate Portion       `json:"duplicate,omitempty"` // of packets: they arrive twice
	Rate      BitsPerSecond `json:"rate,omitempty"`      // the direction has no more; zero: as without the fault
}

// Bounds of faults.
const (
	MaxFaultTime  = time.Hour // a fault ends by itself after at most this
	MaxFaultDelay = 10 * Second
)

// Portion is a part of all packets in millionths: 10000 is written "1%".
type Portion uint32

// All is the whole.
const All Portion = 1_000_000

// ParsePortion reads "1%" or "0.05%", exactly.
func ParsePortion(s string) (Portion, error) {
	bad := fmt.Errorf("%q is no part of all packets; write a percentage from 0%% to 100%%, such as 1%% or 0.05%%", s)
	number, ok := strings.CutSuffix(s, "%")
	whole, fraction, _ := strings.Cut(number, ".")
	if !ok || len(fraction) > 4 || whole == "" || strings.ContainsAny(number, "+-_eExX") || strings.HasSuffix(number, ".") {
		return 0, bad
	}
	n, err := strconv.ParseUint(whole+fraction+strings.Repeat("0", 4-len(fraction)), 10, 32)
	if err != nil || Portion(n) > All {
		return 0, bad
	}
	return Portion(n), nil
}

// String is "1%".
func (p Portion) String() string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%04d", p/10000, p%10000), "0"), ".") + "%"
}

// MarshalText is String.
func (p Portion) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePortion.
func (p *Portion) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePortion(string(text))
	return err
}

// of32 is the part as the kernel has probabilities: of 2^32.
func (p Portion) of32() uint64 { return uint64(p) << 32 / uint64(All) }

// Validate says all that is wrong with f.
func (f Fault) Validate() Problems {
	var found Problems
	add := func(field string, rule Rule, detail, remedy string) {
		found = append(found, Problem{Pointer: "/" + field, Rule: rule, Detail: detail, Remedy: remedy})
	}
	if f.Direction != "" && f.Direction != Upload && f.Direction != Download {
		add("direction", RuleValue, fmt.Sprintf("%q is no direction", clip(string(f.Direction))), "write upload or download, or leave it out for both")
	}
	if f.Delay > MaxFaultDelay {
		add("delay", RuleValue, fmt.Sprintf("a delay of %s is too long", f.Delay), fmt.Sprintf("write at most %s", MaxFaultDelay))
	}
	if f.Jitter > f.Delay {
		add("jitter", RuleValue, fmt.Sprintf("a jitter of %s is more than the delay of %s", f.Jitter, f.Delay), "raise the delay, or lower the jitter")
	}
	if f.Loss > All {
		add("loss", RuleValue, "more than all packets cannot be lost", "write at most 100%")
	}
	if f.Duplicate > All {
		add("duplicate", RuleValue, "more than all packets cannot be doubled", "write at most 100%")
	}
	if f.Rate != 0 && (f.Rate < MinRate || f.Rate > MaxRate) {
		add("rate", RuleValue, fmt.Sprintf("a rate of %s is out of range", f.Rate), fmt.Sprintf("write a rate from %s to %s", MinRate, MaxRate))
	}
	if f == (Fault{Direction: f.Direction}) {
		add("", RuleValue, "the fault does nothing", "set delay, loss, duplicate or rate")
	}
	return found
}

// The classes of a fault, in the ids that are left to people.
const (
	FaultMinor Minor = 0xff // what is delayed, doubled and slow
	LostMinor  Minor = 0xfe // what is lost
)

// Diversion makes the classifier of a tree send every packet into the fault's class until a moment that the kernel looks at itself: when it has come packets
// go to their own classes again, whether or not anybody takes the fault away.
type Diversion struct {
	Until uint64 `json:"until"` // nanoseconds of the node's CLOCK_BOOTTIME
	Class Minor  `json:"class"`
	// Lost is the class of a random part of the packets, Loss of 2^32; its queue has no room for any.
	Lost Minor  `json:"lost,omitempty"`
	Loss uint64 `json:"loss,omitempty"`
}

// noNetem is why a node cannot delay or double packets at all.
const noNetem = "the kernel has no netem, and the node's agent lacks /dev/net/tun and CAP_NET_RAW to do it itself (the chart's faults.relay)"

// Relayed says whether delay, jitter and doubling are not the kernel's part on a node but the agent's: they are no part of the plan then.
func (f Fault) Relayed(c Capabilities) bool {
	return (f.Delay != 0 || f.Duplicate != 0) && c.Faults && c.Relay && !c.Netem
}

// WithFault is the plan with a fault until a moment of the node's CLOCK_BOOTTIME. missing says, for people, which parts of the fault the node cannot do;
// the plan has the others. A direction without a tree gets one that limits nothing. The plan itself is not changed.
func (p *Plan) WithFault(f Fault, until uint64, c Capabilities) (plan *Plan, missing []string) {
	out := *p
	k := compiler{can: c, plan: &Plan{}}
	if !c.Faults {
		return p, []string{"faults need eBPF classifiers that know the time: without, nothing would end them when the agent dies"}
	}
	if f.Relayed(c) {
		f.Delay, f.Jitter, f.Duplicate = 0, 0, 0
	}
	if f.Delay != 0 && !c.Netem {
		missing = append(missing, "delay: "+noNetem)
		f.Delay, f.Jitter = 0, 0
	}
	if f.Duplicate != 0 && !c.Netem {
		missing = append(missing, "duplicate: "+noNetem)
		f.Duplicate = 0
	}
	if f == (Fault{Direction: f.Direction}) {
		return p, missing // or all of it is a relay's
	}
	for _, d := range directions {
		if f.Direction != "" && f.Direction != d {
			continue
		}
		t := p.Tree(d)
		if p.Mode == Off {
			t = nil
		}
		if t == nil {
			if t = k.bare(d); t == nil {
				missing = append(missing, string(d)+": the kernel has nothing to hang it on")
				continue
			}
		}
		t = t.withFault(f, until, c)
		if d == Upload {
			out.Upload = t
		} else {
			out.Download = t
		}
	}
	if p.Mode == Off { // the other direction stays as it is: without
		out.Mode, out.Limits = Report, nil
		switch f.Direction {
		case Upload:
			out.Download = nil
		case Download:
			out.Upload = nil
		}
	}
	return &out, missing
}

// bare is a tree that limits nothing.
func (k *compiler) bare(d Direction) *Tree {
	place := k.place(d)
	if place == "" {
		return nil
	}
	t := &Tree{Place: place, Rate: Unlimited, MTU: k.mtu(), Burst: k.burst(Unlimited), Default: DefaultMinor}
	k.minors = map[string]Minor{soleClass: DefaultMinor}
	c := Class{Name: soleClass, Default: true, Guarantee: Unlimited, Ceiling: Unlimited}
	t.Leaves = []Leaf{k.leaf(c, t)}
	setQuanta(t, []Class{c})
	return t
}

// onTheWay is how many packets may be late or wait: as many as the rate sends in that time.
func onTheWay(f Fault, rate BitsPerSecond, mtu uint32) uint32 {
	size := mulDiv(uint64(rate)/8, uint64(f.Delay+f.Jitter+defaultLatency), uint64(Second))
	return uint32(min(max(size/uint64(mtu), 100), 10_000))
}

func (t *Tree) withFault(f Fault, until uint64, c Capabilities) *Tree {
	out := *t
	k := compiler{can: c}
	k.session.MTU = t.MTU - etherHeader
	rate := t.Rate
	if f.Rate != 0 {
		rate = min(rate, max(f.Rate/8*8, MinRate))
	}
	leaf := Leaf{
		Minor: FaultMinor, Class: "fault", Rate: rate, Ceiling: rate, Burst: k.burst(rate), CeilingBurst: k.burst(rate), Quantum: Bytes(t.MTU),
		Queue: k.queue(Class{}, Leaf{Ceiling: rate}),
	}
	out.Fault = &Diversion{Until: until, Class: FaultMinor}
	var leaves []Leaf
	switch {
	case c.Netem && (f.Delay != 0 || f.Duplicate != 0):
		leaf.Queue = Queue{Kind: Netem, Packets: onTheWay(f, rate, t.MTU), Delay: f.Delay, Jitter: f.Jitter, Loss: f.Loss, Duplicate: f.Duplicate}
	case f.Loss != 0:
		lost := leaf
		lost.Minor, lost.Class, lost.Queue = LostMinor, "lost", Queue{Kind: BFIFO, Limit: 1}
		out.Fault.Lost, out.Fault.Loss = LostMinor, f.Loss.of32()
		leaves = append(leaves, lost)
	}
	out.Leaves = append(append(leaves, leaf), t.Leaves...) // whose ids are greater
	return &out
}
