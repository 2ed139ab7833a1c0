package tc

import (
	"encoding/json"
	"net/netip"
	"slices"
)

// Policy is what a person wants: how fast a session may send and receive, and who comes first when it is tight. YAML, JSON and Go
// have one vocabulary: the JSON names of these fields. A struct literal is a policy; Validate says what is wrong with it.
type Policy struct {
	Name string `json:"name"`
	// Origin tells policies of one name apart that several writers have for one tenant; it is no part of the document. Names are
	// shown as "origin/name".
	Origin      string    `json:"-"`
	Description string    `json:"description,omitempty"`
	AppliesTo   AppliesTo `json:"applies_to,omitzero"`
	Mode        Mode      `json:"mode,omitempty"` // empty: enforce
	// Priority orders policies of one tier (see Tier): the greatest is the most specific. Equal ones are ordered by name.
	Priority int `json:"priority,omitempty"`
	Rules
	Schedule *Schedule `json:"schedule,omitempty"`
}

// Rules is what a policy demands, always or in one window of its schedule.
type Rules struct {
	Link Link `json:"link,omitzero"`
	// Classes divide the link; the first class that matches a packet takes it. They hold in each direction on its own: a
	// guarantee of 1Mbit is one up and one down.
	Classes []Class `json:"classes,omitempty"`
	Limits  Limits  `json:"limits,omitzero"`
}

// AppliesTo selects sessions: those that meet all that is set. Empty, it selects every session.
type AppliesTo struct {
	Tenant   string        `json:"tenant,omitempty"`
	Users    []string      `json:"users,omitempty"` // any of these owners
	Sessions LabelSelector `json:"sessions,omitzero"`
	Nodes    []string      `json:"nodes,omitempty"` // any of these
}

// LabelSelector is a session's labels that must all be as given.
type LabelSelector struct {
	MatchLabels map[string]string `json:"match_labels,omitempty"`
}

// Link is the whole of a session's traffic.
type Link struct {
	Upload   LinkRate `json:"upload,omitzero"`   // what the session sends
	Download LinkRate `json:"download,omitzero"` // what it receives
}

// LinkRate is the most that one direction gets.
type LinkRate struct {
	Ceiling BitsPerSecond `json:"ceiling,omitempty"` // zero: no limit of this policy's
	Burst   Bytes         `json:"burst,omitempty"`   // what may pass at once after a pause; zero: sized to the ceiling
}

// Class is one kind of a session's traffic.
type Class struct {
	Name string `json:"name"`
	// Guarantee is what it gets in each direction whatever the others do; zero: none.
	Guarantee BitsPerSecond `json:"guarantee,omitempty"`
	// Ceiling is the most that it gets when the others leave some; zero: the link's.
	Ceiling BitsPerSecond `json:"ceiling,omitempty"`
	// Priority is who gets first what the guarantees leave: 0 before 7.
	Priority int `json:"priority,omitempty"`
	// LatencyTarget bounds how long a packet waits in the class's queue while it is sent at the guaranteed rate; zero: 50ms at the ceiling.
	LatencyTarget Duration `json:"latency_target,omitempty"`
	// Default takes what no class matches. Exactly one class is it.
	Default bool    `json:"default,omitempty"`
	Match   []Match `json:"match,omitempty"` // any of these
}

// Match is criteria that a packet must all meet. At least one besides Direction is set.
type Match struct {
	CIDR      netip.Prefix `json:"cidr,omitzero"`       // the other side's address
	Ports     []PortRange  `json:"ports,omitempty"`     // the other side's port is one of these
	Protocol  string       `json:"protocol,omitempty"`  // tcp, udp, icmp, icmpv6, sctp; ports without one: tcp and udp
	DSCP      DSCP         `json:"dscp,omitempty"`      // "ef", "af41", "cs1", "46"
	Direction Direction    `json:"direction,omitempty"` // empty: both
}

// Limits bounds what queues do not: packets and connections. The zero value of each is no limit.
type Limits struct {
	Upload   DirectionLimits `json:"upload,omitzero"`
	Download DirectionLimits `json:"download,omitzero"`
}

// DirectionLimits bounds one direction; connections count in that in which they were opened.
type DirectionLimits struct {
	PacketsPerSecond     uint32 `json:"packets_per_second,omitempty"`
	Connections          uint32 `json:"connections,omitempty"` // open at once
	ConnectionsPerSecond uint32 `json:"connections_per_second,omitempty"`
}

// Tier is how specific a policy is: of what it selects by, the narrowest.
type Tier int

// The tiers. The rate annotations of a Kubernetes pod come before them all.
const (
	TierAnnotation Tier = iota
	TierPlatform        // everyone, or a node's
	TierTenant
	TierUser
	TierSession // by labels
)

// String names the tier.
func (t Tier) String() string {
	return [...]string{"annotation", "platform", "tenant", "user", "session"}[t]
}

// MarshalText is String.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Tier returns the policy's tier.
func (a AppliesTo) Tier() Tier {
	switch {
	case len(a.Sessions.MatchLabels) > 0:
		return TierSession
	case len(a.Users) > 0:
		return TierUser
	case a.Tenant != "":
		return TierTenant
	}
	return TierPlatform
}

// Session is what a plan depends on of one session.
type Session struct {
	ID     string            `json:"id"`
	Tenant string            `json:"tenant"`
	User   string            `json:"user"`
	Node   string            `json:"node"`
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are its pod's; only IngressAnnotation and EgressAnnotation are read.
	Annotations map[string]string `json:"annotations,omitempty"`
	// MTU of its interface, without the 14 bytes of the Ethernet header; zero: 1500.
	MTU uint32 `json:"mtu,omitempty"`
}

// Selects says whether a policy with a applies to s.
func (a AppliesTo) Selects(s Session) bool {
	if a.Tenant != "" && a.Tenant != s.Tenant {
		return false
	}
	if len(a.Users) > 0 && !slices.Contains(a.Users, s.User) {
		return false
	}
	if len(a.Nodes) > 0 && !slices.Contains(a.Nodes, s.Node) {
		return false
	}
	for k, v := range a.Sessions.MatchLabels {
		if got, ok := s.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// in says whether the class has traffic in a direction.
func (c Class) in(d Direction) bool {
	return c.Default || slices.ContainsFunc(c.Match, func(m Match) bool { return m.Direction == "" || m.Direction == d })
}

// rate is the link's in a direction.
func (l Link) rate(d Direction) LinkRate {
	if d == Upload {
		return l.Upload
	}
	return l.Download
}

// of is the limits of a direction.
func (l Limits) of(d Direction) DirectionLimits {
	if d == Upload {
		return l.Upload
	}
	return l.Download
}

// label is the policy's name as Effective shows it.
func (p *Policy) label() string {
	if p.Origin != "" {
		return p.Origin + "/" + p.Name
	}
	return p.Name
}

// effectiveMode is the mode with the default filled in.
func (p *Policy) effectiveMode() Mode {
	if p.Mode == "" {
		return Enforce
	}
	return p.Mode
}

// JSON is the policy in the form that Parse reads.
func (p Policy) JSON() ([]byte, error) { return json.MarshalIndent(p, "", "  ") }

var directions = [...]Direction{Download, Upload}
