package tc

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
)

// PlanFormat is the version of Plan's JSON. A reader refuses a greater one and keeps what it has in force.
const PlanFormat = 1

// Mode says what is done with the traffic that a policy names.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce" // shape and limit
	Report  Mode = "report"  // classify and count, limit nothing
	Off     Mode = "off"     // nothing of ours is on the interface
)

// Plan is what the kernel must hold for one session: a pure function of the policies, the session and the node's capabilities. It
// names no device: whoever applies it knows the session's interface (see Devices). It carries no revision and no time: two plans with the
// same Hash are the same plan. Every list is in the order in which it must be applied.
type Plan struct {
	Format  int    `json:"format"`
	Session string `json:"session"`
	Mode    Mode   `json:"mode"`
	// Download is what the session receives: a tree at the egress of the host side of its veth pair. Upload is what it sends.
	// Nil: nothing of ours shapes that direction, and what is there of ours is to be removed.
	Download *Tree `json:"download,omitempty"`
	Upload   *Tree `json:"upload,omitempty"`
	// Limits of packets and connections, enforced by netfilter and not by queues.
	Limits []Limit `json:"limits,omitempty"`
	// Degraded says, for people, what the policies ask and this node cannot do; sorted.
	Degraded []string `json:"degraded,omitempty"`
}

// Place is where a tree hangs.
type Place string

// The places.
const (
	// AtHost is the root qdisc of the veth's host side. Its egress is the session's download.
	AtHost Place = "host"
	// AtIFB is the root qdisc of an IFB device of this session's own, to which the veth's ingress is redirected (clsact or ingress,
	// match-all, mirred egress redirect). The upload, shaped where the session cannot reach it: preferred.
	AtIFB Place = "ifb"
	// AtPeer is the root qdisc of the session's side of the veth, in the session's network namespace. The upload on a node without IFB.
	AtPeer Place = "peer"
)

// Minor is the second half of a class id; the first is always 1. tc prints both in hexadecimal: Minor(0x10) is 1:10.
type Minor uint16

// The ids that every tree has. Leaves have others, in [MinLeaf, MaxLeaf], which depend on the class's name only, so that a class keeps its
// id and counters when others come and go (but two names whose ids collide, where the later by name moves on).
const (
	RootMajor   = 1 // the HTB is 1:
	ParentMinor = 1 // the only child of the root, which carries the link's ceiling, is 1:1
	// DefaultMinor is the leaf of the traffic that no filter names, in every tree and whatever the class is called: an HTB's default
	// cannot be changed, so another id would mean that the whole tree goes for a moment, and with it the limits.
	DefaultMinor = 0x100
	MinLeaf      = 0x100  // below are ids for people
	MaxLeaf      = 0x7fff // the kernel itself gives 8000: and up to qdiscs without a handle
)

// String is the class id as tc prints it: "1:1f3".
func (m Minor) String() string { return fmt.Sprintf("%x:%x", RootMajor, uint16(m)) }

// Handle is the handle of the leaf qdisc below this class, as tc prints it: "1f3:". Its major is the class's minor.
func (m Minor) Handle() string { return fmt.Sprintf("%x:", uint16(m)) }

// Tree is one HTB: the root qdisc 1:, one parent class 1:1, leaves below it, one leaf qdisc below each, and the filters.
//
//	tc qdisc add dev D root handle 1: htb default <Default> r2q 10
//	tc class add dev D parent 1: classid 1:1 htb rate <Rate> ceil <Rate> burst <Burst> cburst <Burst> quantum …
//
// Rates are layer 2, in bits per second, multiples of 8 (the kernel keeps bytes), at least 8 kbit and possibly above 2^32 bytes a
// second (TCA_HTB_RATE64, TCA_HTB_CEIL64).
type Tree struct {
	Place Place `json:"place"`
	// Rate is the rate and the ceiling of 1:1: the whole direction gets no more.
	Rate BitsPerSecond `json:"rate"`
	// Burst is both buckets of 1:1.
	Burst Bytes `json:"burst"`
	// Guarantee is what the session's policies guarantee it in this direction, of the node's uplink too (see Divide); zero: nothing.
	Guarantee BitsPerSecond `json:"guarantee,omitempty"`
	// Default is the leaf of the traffic that no filter names: always one of Leaves.
	Default Minor `json:"default"` // DefaultMinor
	// MTU is the longest packet, layer 2 header included, which bursts and quanta were sized for.
	MTU uint32 `json:"mtu"`
	// Leaves are ordered by Minor, which are distinct. There is at least one.
	Leaves []Leaf `json:"leaves"`
	// Fault, if any, takes packets before the filters do, until it ends.
	Fault *Diversion `json:"fault,omitempty"`
	// Filters are ordered: the first one that matches a packet decides. Empty: all is the default's.
	Filters []Filter `json:"filters,omitempty"`
}

// Leaf is one class below 1:1 and the qdisc below it.
//
//	tc class add dev D parent 1:1 classid 1:<Minor> htb rate <Rate> ceil <Ceiling> burst <Burst> cburst <CeilingBurst> prio <Priority> quantum <Quantum>
type Leaf struct {
	Minor Minor  `json:"minor"`
	Class string `json:"class"` // the name that people gave it
	// Rate is what the class gets whatever the others do. Without a guarantee it is MinRate, since HTB has no zero.
	Rate BitsPerSecond `json:"rate"`
	// Ceiling is the most that it gets when others leave some: Rate ≤ Ceiling ≤ the tree's Rate.
	Ceiling BitsPerSecond `json:"ceiling"`
	// Burst and CeilingBurst are the buckets of Rate and Ceiling: at least one MTU and at least what the rate sends in one timer tick.
	Burst        Bytes `json:"burst"`
	CeilingBurst Bytes `json:"ceiling_burst"`
	// Priority is HTB's prio, 0 (first) to 7: who borrows first.
	Priority uint8 `json:"priority"`
	// Quantum is how many bytes the class may send in its turn among borrowers of one priority: MTU ≤ Quantum ≤ MaxQuantum, in
	// proportion to the guarantees. It is always given: the kernel's own r2q plays no part.
	Quantum Bytes `json:"quantum"`
	Queue   Queue `json:"queue"`
}

// MinRate is the least rate of a class: HTB needs one, and its clock does not hold much less.
const MinRate = 8 * Kbit

// MaxQuantum bounds a class's turn. The kernel takes any that is given (it warns only of those that it works out itself).
const MaxQuantum = MiB

// Unlimited is the rate of a tree that only divides or counts.
const Unlimited = 100 * Gbit

// QueueKind is a kind of leaf qdisc, as tc names it.
type QueueKind string

// The kinds, best first.
const (
	FQCodel QueueKind = "fq_codel"
	SFQ     QueueKind = "sfq"
	BFIFO   QueueKind = "bfifo"
	// Netem is a fault's.
	Netem QueueKind = "netem"
)

// Queue is the qdisc below a leaf. Its handle is Leaf.Minor.Handle(), its parent the leaf's class. Only the fields of its kind are set:
//
//	fq_codel  limit <Packets> target <Target> interval <Interval> quantum <Quantum> memory_limit <Limit> [no]ecn
//	sfq       limit <Packets> quantum <Quantum> perturb 10
//	bfifo     limit <Limit>
//	netem     limit <Packets> delay <Delay> <Jitter> loss <Loss> duplicate <Duplicate>
type Queue struct {
	Kind     QueueKind `json:"kind"`
	Limit    Bytes     `json:"limit,omitempty"`
	Packets  uint32    `json:"packets,omitempty"`
	Target   Duration  `json:"target,omitempty"`   // whole microseconds
	Interval Duration  `json:"interval,omitempty"` // whole microseconds
	Quantum  Bytes     `json:"quantum,omitempty"`
	ECN      bool      `json:"ecn,omitempty"`

	Delay     Duration `json:"delay,omitempty"`
	Jitter    Duration `json:"jitter,omitempty"`
	Loss      Portion  `json:"loss,omitempty"`
	Duplicate Portion  `json:"duplicate,omitempty"`
}

// Filter sends the packets that meet all its criteria to a leaf. A criterion that is unset is not asked. Alternatives are several
// filters with one Class. A filter always has at least one criterion besides its Family.
//
// Selectors says the same as values and masks over the packet's bytes, for u32; package kernel may put it in an eBPF map instead.
type Filter struct {
	Class  Minor  `json:"class"`
	Family Family `json:"family"` // always set: IPv4 and IPv6 are different filters
	// Protocol is the IP protocol number; for IPv6 that of the first header after the fixed one. Set when ports are.
	Protocol *uint8 `json:"protocol,omitempty"`
	// Src and Dst are masked prefixes of Family.
	Src netip.Prefix `json:"src,omitzero"`
	Dst netip.Prefix `json:"dst,omitzero"`
	// SrcPorts and DstPorts are of TCP, UDP, SCTP, DCCP or UDP-Lite, whose ports are in the same place.
	SrcPorts PortRange `json:"src_ports,omitzero"`
	DstPorts PortRange `json:"dst_ports,omitzero"`
	// DSCP is the six upper bits of IPv4's type of service, IPv6's traffic class.
	DSCP *uint8 `json:"dscp,omitempty"`
}

// Family is a version of the Internet Protocol.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// EtherType is the family's protocol number in a filter (ETH_P_IP, ETH_P_IPV6).
func (f Family) EtherType() uint16 {
	if f == IPv6 {
		return 0x86dd
	}
	return 0x0800
}

// String is "ip" or "ipv6", as tc names it.
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ip"
}

// PortRange is the ports from First to Last, both included. The zero value is every port.
type PortRange struct {
	First uint16
	Last  uint16
}

// IsZero says that it asks nothing.
func (p PortRange) IsZero() bool { return p == PortRange{} }

// String is "443" or "8000-8080".
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// LimitKind is what a Limit counts.
type LimitKind string

// The kinds of limits, and where their rule hangs.
const (
	// PacketRate drops packets above Rate per second: table netdev. Of download at the egress of the veth's host side. Of upload at the egress of the
	// session's side (AtPeer), since the ingress of the host side does not see again what an IFB gives back; where no IFB shapes, that ingress will do (AtHost).
	PacketRate LimitKind = "packet_rate"
	// Connections drops the first packet of a connection while Count are open; ConnectionRate drops it above Rate per second. Table inet
	// in the session's own network namespace (hook output for upload, input for download), so that no network plugin matters.
	Connections    LimitKind = "connections"
	ConnectionRate LimitKind = "connection_rate"
)

// Inside says whether the rule hangs in the session's network namespace.
func (l Limit) Inside() bool { return l.Kind != PacketRate || l.Place == AtPeer }

// Limit is one nft rule. In Mode Report it counts without dropping.
type Limit struct {
	Kind      LimitKind `json:"kind"`
	Direction Direction `json:"direction"`
	Place     Place     `json:"place,omitempty"` // of PacketRate; empty: AtHost
	Rate      uint32    `json:"rate,omitempty"`  // per second
	Burst     uint32    `json:"burst,omitempty"` // packets or connections above Rate at once
	Count     uint32    `json:"count,omitempty"` // open at once, for Connections
}

// Direction is seen from the session.
type Direction string

// The directions.
const (
	Download Direction = "download"
	Upload   Direction = "upload"
)

// Capabilities is what a node's kernel was probed to do. The zero value can do nothing: Compile then returns a plan without trees that says so.
type Capabilities struct {
	HTB     bool `json:"htb"`
	FQCodel bool `json:"fq_codel"`
	SFQ     bool `json:"sfq"`
	BFIFO   bool `json:"bfifo"`
	Netem   bool `json:"netem"`
	// IFB is that IFB devices and mirred exist; Peer that the agent may enter sessions' network namespaces.
	IFB  bool `json:"ifb"`
	Peer bool `json:"peer"`
	// U32 and BPF are the classifiers; either is enough for filters.
	U32 bool `json:"u32"`
	BPF bool `json:"bpf"`
	// Faults is that eBPF classifiers may look at the time since boot, by which faults end (Linux 5.8).
	Faults bool `json:"faults"`
	// Relay is that the agent can delay packets itself (tap devices), for want of netem.
	Relay bool `json:"relay"`
	// NetdevIngress and NetdevEgress are nftables' hooks at a device; ConnLimit is nftables' "ct count" and "ct state".
	NetdevIngress bool `json:"netdev_ingress"`
	NetdevEgress  bool `json:"netdev_egress"`
	ConnLimit     bool `json:"conn_limit"`
	// TicksPerSecond is the resolution of the packet scheduler's timer (the fourth number of /proc/net/psched; with high-resolution timers
	// 1,000,000,000, for which the compiler assumes 1000). It sizes bursts. 0: 100, the worst.
	TicksPerSecond uint32 `json:"ticks_per_second,omitempty"`
}

// Bytes is the plan's canonical JSON: fixed field order, no spaces.
func (p *Plan) Bytes() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("tc: a plan is always JSON: %v", err)) // no field can fail to marshal
	}
	return b
}

// Hash names the plan: HashPlan of Bytes.
func (p *Plan) Hash() string { return HashPlan(p.Bytes()) }

// HashPlan names a plan by its bytes: their SHA-256 in hexadecimal. Who was sent a plan takes it of what came, since what it decodes leaves out the fields
// that it does not know yet.
func HashPlan(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Tree returns the tree of a direction, nil without one.
func (p *Plan) Tree(d Direction) *Tree {
	if d == Upload {
		return p.Upload
	}
	return p.Download
}
