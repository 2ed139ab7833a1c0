package tc

import (
	"fmt"
	"strings"
)

// Devices names one session's interfaces.
type Devices struct {
	Host string // the veth's side on the node
	IFB  string // the session's own IFB device; for a plan with a tree AtIFB
	// Peer is the session's side, in the network namespace that "ip netns" calls Namespace.
	Peer      string
	Namespace string
}

// Commands is a plan as the lines that would put it in force on clean interfaces: without the tool's name, as "ip -batch", "tc -batch" and
// "nft -f" read them. They say what the plan means; package kernel does the same by netlink, by comparing first.
type Commands struct {
	IP, TC, NFT           []string // on the node
	SessionTC, SessionNFT []string // in the session's network namespace
	namespace             string
}

// Commands prints the plan for the devices.
func (p *Plan) Commands(d Devices) Commands {
	c := Commands{namespace: d.Namespace}
	if p.Mode == Off {
		return c
	}
	for _, direction := range directions {
		t := p.Tree(direction)
		if t == nil {
			continue
		}
		switch t.Place {
		case AtHost:
			c.TC = append(c.TC, t.commands(d.Host)...)
		case AtIFB:
			c.IP = append(c.IP, "link add "+d.IFB+" type ifb", "link set "+d.IFB+" up")
			c.TC = append(c.TC, t.commands(d.IFB)...)
			c.TC = append(c.TC,
				"qdisc add dev "+d.Host+" clsact",
				"filter add dev "+d.Host+" ingress protocol all pref 1 u32 match u32 0 0 action mirred egress redirect dev "+d.IFB)
		case AtPeer:
			c.SessionTC = append(c.SessionTC, t.commands(d.Peer)...)
		}
	}
	c.NFT = p.nodeRules(d.Host)
	c.SessionNFT = p.sessionRules(d.Peer)
	return c
}

// commands builds the tree from the root, so that no class ever lands beside its parent.
func (t *Tree) commands(device string) []string {
	dev := " dev " + device
	lines := []string{
		fmt.Sprintf("qdisc add%s root handle %x: htb default %x", dev, RootMajor, uint16(t.Default)),
		fmt.Sprintf("class add%s parent %x: classid %s htb rate %dbit ceil %dbit burst %db cburst %db quantum %d",
			dev, RootMajor, Minor(ParentMinor), t.Rate, t.Rate, t.Burst, t.Burst, t.MTU),
	}
	for _, l := range t.Leaves {
		lines = append(lines,
			fmt.Sprintf("class add%s parent %s classid %s htb rate %dbit ceil %dbit burst %db cburst %db prio %d quantum %d",
				dev, Minor(ParentMinor), l.Minor, l.Rate, l.Ceiling, l.Burst, l.CeilingBurst, l.Priority, l.Quantum),
			fmt.Sprintf("qdisc add%s parent %s handle %s %s", dev, l.Minor, l.Minor.Handle(), l.Queue))
	}
	for _, f := range t.Filters {
		for _, s := range f.Selectors() {
			lines = append(lines, fmt.Sprintf("filter add%s parent %x: protocol %s pref %d u32%s flowid %s",
				dev, RootMajor, f.Family, f.Family.Pref(), s, f.Class))
		}
	}
	return lines
}

// Pref is the priority of the family's filters: a priority holds one protocol only, and the families' packets are apart.
func (f Family) Pref() uint16 {
	if f == IPv6 {
		return 2
	}
	return 1
}

// String is the selector as tc's u32 takes it, with a leading space.
func (s Selector) String() string {
	var b strings.Builder
	for _, w := range s {
		fmt.Fprintf(&b, " match u32 0x%08x 0x%08x at %d", w.Value, w.Mask, w.Offset)
	}
	return b.String()
}

// String is the qdisc as tc takes it.
func (q Queue) String() string {
	switch q.Kind {
	case FQCodel:
		ecn := "noecn"
		if q.ECN {
			ecn = "ecn"
		}
		return fmt.Sprintf("fq_codel limit %d target %dus interval %dus quantum %d memory_limit %d %s",
			q.Packets, q.Target/Microsecond, q.Interval/Microsecond, q.Quantum, q.Limit, ecn)
	case Netem:
		return fmt.Sprintf("netem limit %d delay %dus %dus loss %s duplicate %s", q.Packets, q.Delay/Microsecond, q.Jitter/Microsecond, q.Loss, q.Duplicate)
	case SFQ:
		return fmt.Sprintf("sfq limit %d quantum %d perturb 10", q.Packets, q.Quantum)
	}
	return fmt.Sprintf("%s limit %d", q.Kind, q.Limit)
}

// verdict is what a rule does with what is over its limit.
func (p *Plan) verdict() string {
	if p.Mode == Report {
		return "counter"
	}
	return "counter drop"
}

// renewed begins an nft script that replaces a table as one transaction.
func renewed(table string) []string {
	return []string{"add table " + table, "delete table " + table, "add table " + table}
}

// nodeRules are the packet rates, at the veth's side on the node, in a table of the session's own.
func (p *Plan) nodeRules(device string) []string {
	table := "netdev " + TableName(p.Session)
	var lines []string
	for _, l := range p.Limits {
		if l.Inside() {
			continue
		}
		if lines == nil {
			lines = renewed(table)
		}
		hook := "egress" // what leaves towards the session
		if l.Direction == Upload {
			hook = "ingress"
		}
		lines = append(lines, p.packetRule(table, l, hook, device)...)
	}
	return lines
}

// packetRule is a chain at a device and its only rule.
func (p *Plan) packetRule(table string, l Limit, hook, device string) []string {
	return []string{
		fmt.Sprintf("add chain %s %s { type filter hook %s device \"%s\" priority 0; policy accept; }", table, l.Direction, hook, device),
		fmt.Sprintf("add rule %s %s limit rate over %d/second burst %d packets %s", table, l.Direction, l.Rate, l.Burst, p.verdict()),
	}
}

// SessionTable is the nft table of connections in the session's network namespace, SessionPacketTable that of packets.
const (
	SessionTable       = "inet agentyard"
	SessionPacketTable = "netdev agentyard"
)

// TableName is the netdev table of a session on the node.
func TableName(session string) string {
	return "agentyard_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, session)
}

// sessionRules are the limits of connections, and of the packets that the session sends. What a session says to itself is not counted.
func (p *Plan) sessionRules(peer string) []string {
	var lines []string
	connections := false
	for _, d := range directions {
		hook, device := "input", "iifname"
		if d == Upload {
			hook, device = "output", "oifname"
		}
		begun := false
		for _, l := range p.Limits {
			if l.Direction != d || l.Kind == PacketRate {
				continue
			}
			if !connections {
				connections = true
				lines = append(lines, renewed(SessionTable)...)
			}
			if !begun {
				begun = true
				lines = append(lines, fmt.Sprintf("add chain %s %s { type filter hook %s priority 0; policy accept; }", SessionTable, d, hook))
			}
			over := fmt.Sprintf("ct count over %d", l.Count)
			if l.Kind == ConnectionRate {
				over = fmt.Sprintf("limit rate over %d/second burst %d packets", l.Rate, l.Burst)
			}
			lines = append(lines, fmt.Sprintf("add rule %s %s %s != \"lo\" ct state new %s %s", SessionTable, d, device, over, p.verdict()))
		}
	}
	for _, l := range p.Limits {
		if l.Kind == PacketRate && l.Inside() {
			lines = append(lines, renewed(SessionPacketTable)...)
			lines = append(lines, p.packetRule(SessionPacketTable, l, "egress", peer)...)
		}
	}
	return lines
}

// String is a shell script.
func (c Commands) String() string {
	var b strings.Builder
	write := func(tool string, lines []string) {
		for _, l := range lines {
			if tool == "nft" || strings.HasSuffix(tool, " nft") {
				l = "'" + l + "'"
			}
			b.WriteString(tool + " " + l + "\n")
		}
	}
	write("ip", c.IP)
	write("tc", c.TC)
	write("nft", c.NFT)
	inside := "ip netns exec " + c.namespace + " "
	write(inside+"tc", c.SessionTC)
	write(inside+"nft", c.SessionNFT)
	return b.String()
}
