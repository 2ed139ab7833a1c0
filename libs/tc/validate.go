package tc

import (
	"fmt"
	"slices"
	"time"
)

// What a policy may ask at most, and why.
const (
	MaxRate     = Tbit        // no device sends faster
	MaxBurst    = 1 * GiB     // more is no limit
	maxDrain    = 60 * 1000   // milliseconds that a bucket may take to empty; HTB counts a bucket in 32 bits of 64 ns
	MaxClasses  = 64          // adding one to an HTB walks them all
	MaxMatches  = 256         // of one class
	MaxPorts    = 64          // of one match
	MaxFilters  = 1024        // u32 selectors of one direction: a list is searched from its start, and 2,048 is where its order ends
	MaxWindows  = 64          // of a schedule
	MaxNames    = 1000        // users, nodes or labels of one policy
	MaxPriority = 1000        // of policies, and as far below zero
	MinLatency  = Millisecond // a timer tick
	MaxLatency  = 10 * Second // a queue that is longer helps nobody
	defaultMTU  = 1500        // without the Ethernet header
	etherHeader = 14          // which layer 2 counts
	assumedTick = 1000        // ticks a second of a timer with high resolution
	etherMTU    = 1500 + etherHeader
)

// Validate returns everything that is wrong with the policy, nil when nothing is. It holds for an interface of the common MTU; what a
// node adds to that, Compile says.
func (p *Policy) Validate() Problems {
	v := validator{}
	v.policy(p)
	return v.problems
}

type validator struct{ problems Problems }

func (v *validator) add(at string, rule Rule, remedy, format string, args ...any) {
	v.problems = append(v.problems, Problem{Pointer: at, Rule: rule, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (v *validator) policy(p *Policy) {
	v.name("/name", p.Name, "the policy")
	if len(p.Description) > 4096 {
		v.add("/description", RuleCount, "shorten it", "it has %d bytes, and 4096 are the most", len(p.Description))
	}
	v.appliesTo(p.AppliesTo)
	v.mode("/mode", p.Mode)
	if p.Priority < -MaxPriority || p.Priority > MaxPriority {
		v.add("/priority", RuleValue, fmt.Sprintf("write a number from %d to %d", -MaxPriority, MaxPriority), "priority %d is out of range", p.Priority)
	}
	v.rules("", p.Rules, p.Rules)
	if p.Schedule != nil {
		v.schedule(p)
	} else if p.Rules.empty() && p.effectiveMode() != Off {
		v.add("", RuleEmpty, "set a link ceiling, classes or limits", "the policy demands nothing")
	}
}

func (r Rules) empty() bool {
	return r.Link == Link{} && len(r.Classes) == 0 && r.Limits == Limits{}
}

func (v *validator) name(at, name, what string) {
	if !ValidName(name) {
		v.add(at, RuleName, "write 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit", "%q cannot name %s", clip(name), what)
	}
}

// ValidName says whether name may name a policy or a class.
func ValidName(name string) bool {
	if name == "" || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// clip keeps a message short when the value is not.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

func (v *validator) mode(at string, m Mode) {
	if m != "" && m != Enforce && m != Report && m != Off {
		v.add(at, RuleValue, "write enforce, report or off", "there is no mode %q", clip(string(m)))
	}
}

func (v *validator) appliesTo(a AppliesTo) {
	for _, f := range [...]struct {
		name string
		list []string
	}{{"users", a.Users}, {"nodes", a.Nodes}} {
		at, list := "/applies_to/"+f.name, f.list
		if len(list) > MaxNames {
			v.add(at, RuleCount, "select by something wider, such as the tenant or labels", "it names %d, and %d are the most", len(list), MaxNames)
			continue
		}
		for i, name := range list {
			if name == "" || len(name) > 253 {
				v.add(pointer(at, i), RuleName, "write the name, or leave the item out", "%q names nothing", clip(name))
			}
		}
	}
	if len(a.Sessions.MatchLabels) > MaxNames {
		v.add("/applies_to/sessions/match_labels", RuleCount, "ask for fewer labels", "it asks for %d labels, and %d are the most", len(a.Sessions.MatchLabels), MaxNames)
	}
}

// rules checks what one moment demands; own is what the fields at this place of the document set, and all what holds with them.
func (v *validator) rules(at string, own, all Rules) {
	for _, d := range directions {
		v.link(at+"/link/"+string(d), own.Link.rate(d), all.Link.rate(d))
		v.limits(at+"/limits/"+string(d), own.Limits.of(d))
	}
	if len(own.Classes) > 0 {
		v.classes(at+"/classes", own.Classes)
	}
	// What holds together is wrong where it comes together: at the window that changes a part of it.
	if len(all.Classes) > 0 {
		classesAt := at + "/classes"
		if len(own.Classes) == 0 {
			classesAt = at + "/link"
		}
		v.hierarchy(classesAt, len(own.Classes) > 0, all)
	}
}

func (v *validator) rate(at string, r BitsPerSecond) bool {
	if r != 0 && (r < MinRate || r > MaxRate) {
		v.add(at, RuleValue, fmt.Sprintf("write a rate from %s to %s", MinRate, MaxRate), "%s is out of range", r)
		return false
	}
	return true
}

func (v *validator) link(at string, own, all LinkRate) {
	v.rate(at+"/ceiling", own.Ceiling)
	if own.Burst == 0 {
		return
	}
	at += "/burst"
	switch {
	case own.Burst > MaxBurst:
		v.add(at, RuleBurst, "write at most "+MaxBurst.String(), "a burst of %s is no limit", own.Burst)
	case own.Burst < etherMTU:
		v.add(at, RuleBurst, fmt.Sprintf("write at least %s, or leave it out", Bytes(etherMTU)), "a burst of %s is shorter than a packet", own.Burst)
	case all.Ceiling == 0:
		v.add(at, RuleBurst, "set the ceiling that it belongs to", "a burst without a ceiling means nothing")
	case all.Ceiling <= MaxRate && own.Burst < tick(all.Ceiling, assumedTick):
		v.add(at, RuleBurst, fmt.Sprintf("write at least %s, or leave it out", tick(all.Ceiling, assumedTick)),
			"a burst of %s is less than %s sends in one tick of the kernel's timer, and would slow it", own.Burst, all.Ceiling)
	case all.Ceiling >= MinRate && uint64(own.Burst)*8 > uint64(all.Ceiling)/1000*maxDrain:
		v.add(at, RuleBurst, "write less, or leave it out", "a burst of %s takes %s more than a minute", own.Burst, all.Ceiling)
	}
}

// tick is what rate sends in one tick, rounded up.
func tick(rate BitsPerSecond, ticks uint64) Bytes {
	return Bytes((uint64(rate) + 8*ticks - 1) / (8 * ticks))
}

// maxLimit is what nft and conntrack count without trouble.
const maxLimit = 100_000_000

func (v *validator) limits(at string, l DirectionLimits) {
	for _, f := range [...]struct {
		name  string
		value uint32
	}{
		{"packets_per_second", l.PacketsPerSecond}, {"connections", l.Connections}, {"connections_per_second", l.ConnectionsPerSecond},
	} {
		if f.value > maxLimit {
			v.add(at+"/"+f.name, RuleValue, fmt.Sprintf("write at most %d, or leave it out", maxLimit), "%d is no limit", f.value)
		}
	}
}

func (v *validator) classes(at string, classes []Class) {
	if len(classes) > MaxClasses {
		v.add(at, RuleCount, "put some together: a class may have several matches", "there are %d classes, and %d are the most", len(classes), MaxClasses)
		return
	}
	names, defaults := map[string]bool{}, 0
	for i, c := range classes {
		here := pointer(at, i)
		v.name(here+"/name", c.Name, "a class")
		if names[c.Name] && c.Name != "" {
			v.add(here+"/name", RuleName, "give each class its own name", "class %q is there twice", c.Name)
		}
		names[c.Name] = true
		guaranteed := v.rate(here+"/guarantee", c.Guarantee)
		if v.rate(here+"/ceiling", c.Ceiling) && guaranteed && c.Ceiling != 0 && c.Guarantee > c.Ceiling {
			v.add(here+"/guarantee", RuleCeiling, fmt.Sprintf("lower the guarantee to %s or raise the ceiling to %s", c.Ceiling, c.Guarantee),
				"class %s is guaranteed %s, more than its ceiling of %s", clip(c.Name), c.Guarantee, c.Ceiling)
		}
		if c.Priority < 0 || c.Priority > 7 {
			v.add(here+"/priority", RuleValue, "write a number from 0 (first) to 7", "priority %d is out of range", c.Priority)
		}
		if c.Default {
			if defaults++; defaults > 1 {
				v.add(here+"/default", RuleDefault, "keep default: true at one class", "class %s is a second default class", clip(c.Name))
			}
		} else if len(c.Match) == 0 {
			v.add(here+"/match", RuleEmptyMatch, "add a match, or make it the default class", "class %s matches nothing", clip(c.Name))
		}
		v.matches(here+"/match", c.Match)
	}
	if defaults == 0 {
		v.add(at, RuleDefault, "set default: true at the class for all other traffic", "no class is the default")
	}
	for _, d := range directions {
		v.reach(at, classes, d)
	}
}

func (v *validator) matches(at string, matches []Match) {
	if len(matches) > MaxMatches {
		v.add(at, RuleCount, "use wider prefixes or port ranges", "there are %d matches, and %d are the most", len(matches), MaxMatches)
		return
	}
	for i, m := range matches {
		v.match(pointer(at, i), m)
	}
}

func (v *validator) match(at string, m Match) {
	if !m.CIDR.IsValid() && len(m.Ports) == 0 && m.Protocol == "" && m.DSCP == "" {
		v.add(at, RuleEmptyMatch, "set cidr, ports, protocol or dscp, or leave it out and use the default class", "the match names no traffic")
	}
	if m.Direction != "" && m.Direction != Upload && m.Direction != Download {
		v.add(at+"/direction", RuleValue, "write upload or download, or leave it out for both", "there is no direction %q", clip(string(m.Direction)))
	}
	if m.CIDR.IsValid() && m.CIDR.Masked() != m.CIDR {
		v.add(at+"/cidr", RuleValue, "write "+m.CIDR.Masked().String(), "%s has bits behind its prefix", m.CIDR)
	}
	if m.CIDR.IsValid() && m.CIDR.Addr().Is4In6() {
		v.add(at+"/cidr", RuleValue, "write it as IPv4", "%s is an IPv4 address in IPv6, which no packet has", m.CIDR)
	}
	if m.DSCP != "" {
		if _, err := m.DSCP.Value(); err != nil {
			v.add(at+"/dscp", RuleValue, "write a name, such as ef, af41 or cs1, or a number from 0 to 63", "there is no dscp %q", clip(string(m.DSCP)))
		}
	}
	for i, p := range m.Ports {
		if p.First == 0 || p.Last < p.First {
			v.add(pointer(at+"/ports", i), RuleValue, "write a port from 1 to 65535, or a range", "%s are no ports", p)
		}
	}
	if len(m.Ports) > MaxPorts {
		v.add(at+"/ports", RuleCount, "use ranges", "there are %d ports, and %d are the most", len(m.Ports), MaxPorts)
	}
	if m.Protocol == "" {
		return
	}
	proto, ok := protocolNamed(m.Protocol)
	switch {
	case !ok:
		v.add(at+"/protocol", RuleValue, "write one of "+protocolNames(), "there is no protocol %q", clip(m.Protocol))
	case len(m.Ports) > 0 && !proto.ports:
		v.add(at+"/ports", RuleValue, "leave the ports out", "%s has no ports", m.Protocol)
	case m.CIDR.IsValid() && !slices.Contains(proto.families, familyOf(m.CIDR)):
		v.add(at+"/protocol", RuleValue, "use icmp with IPv4 and icmpv6 with IPv6", "%s is never at %s", m.Protocol, m.CIDR)
	}
}

// schedule checks the zone and each window, with all that holds while it is open.
func (v *validator) schedule(p *Policy) {
	s := p.Schedule
	if zone, err := time.LoadLocation(s.Timezone); err != nil || s.Timezone == "" || zone == time.Local {
		v.add("/schedule/timezone", RuleSchedule, "write an IANA zone, such as Europe/Berlin or UTC", "there is no timezone %q", clip(s.Timezone))
	}
	if s.Outside != "" && s.Outside != OutsideNone && s.Outside != OutsideBase {
		v.add("/schedule/outside", RuleValue, "write none or base", "%q is nothing to do outside", clip(string(s.Outside)))
	}
	if s.Outside == OutsideBase && p.Rules.empty() {
		v.add("/schedule/outside", RuleEmpty, "set what holds then, or write outside: none", "outside its windows the policy demands nothing")
	}
	if len(s.Windows) == 0 {
		v.add("/schedule/windows", RuleSchedule, "add a window, or leave the schedule out", "the schedule has no window")
	}
	if len(s.Windows) > MaxWindows {
		v.add("/schedule/windows", RuleCount, "put some together, or write several policies", "there are %d windows, and %d are the most", len(s.Windows), MaxWindows)
		return
	}
	for i, w := range s.Windows {
		v.window(pointer("/schedule/windows", i), w, p)
	}
}

func (v *validator) window(at string, w Window, p *Policy) {
	if w.Name != "" {
		v.name(at+"/name", w.Name, "a window")
	}
	for i, d := range w.Days {
		if !slices.Contains(weekdays[:], d) {
			v.add(pointer(at+"/days", i), RuleSchedule, "write mon, tue, wed, thu, fri, sat or sun", "there is no day %q", clip(string(d)))
		}
	}
	if w.From < 0 || w.From >= day {
		v.add(at+"/from", RuleSchedule, "write a time from 00:00 to 23:59", "%s is no time to open", w.From)
	}
	if w.To < 0 || w.To > day {
		v.add(at+"/to", RuleSchedule, "write a time from 00:00 to 24:00", "%s is no time to close", w.To)
	}
	v.mode(at+"/mode", w.Mode)
	all := p.Rules.overridden(w.Rules)
	if !w.Rules.empty() {
		v.rules(at, w.Rules, all)
	}
	if all.empty() && w.Mode != Off && p.effectiveMode() != Off {
		v.add(at, RuleEmpty, "set a link ceiling, classes or limits, here or in the policy", "the policy demands nothing in this window")
	}
}
