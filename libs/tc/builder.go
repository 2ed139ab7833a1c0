package tc

import "net/netip"

// Builder writes a policy as a chain of calls and checks it at the end. A Policy literal is as good; this reads better where parts
// are optional.
type Builder struct{ policy Policy }

// NewPolicy begins a policy.
func NewPolicy(name string) *Builder { return &Builder{Policy{Name: name}} }

// Tenant restricts the policy to a tenant's sessions.
func (b *Builder) Tenant(name string) *Builder {
	b.policy.AppliesTo.Tenant = name
	return b
}

// Users restricts it to sessions of any of these owners.
func (b *Builder) Users(ids ...string) *Builder {
	b.policy.AppliesTo.Users = append(b.policy.AppliesTo.Users, ids...)
	return b
}

// Label restricts it to sessions with this label; of several, with all.
func (b *Builder) Label(key, value string) *Builder {
	if b.policy.AppliesTo.Sessions.MatchLabels == nil {
		b.policy.AppliesTo.Sessions.MatchLabels = map[string]string{}
	}
	b.policy.AppliesTo.Sessions.MatchLabels[key] = value
	return b
}

// Nodes restricts it to sessions on any of these nodes.
func (b *Builder) Nodes(names ...string) *Builder {
	b.policy.AppliesTo.Nodes = append(b.policy.AppliesTo.Nodes, names...)
	return b
}

// Mode sets the mode; without, it is Enforce.
func (b *Builder) Mode(m Mode) *Builder {
	b.policy.Mode = m
	return b
}

// Priority orders policies of one tier.
func (b *Builder) Priority(p int) *Builder {
	b.policy.Priority = p
	return b
}

// Download sets the ceiling of what sessions receive.
func (b *Builder) Download(ceiling BitsPerSecond) *Builder {
	b.policy.Link.Download.Ceiling = ceiling
	return b
}

// Upload sets the ceiling of what sessions send.
func (b *Builder) Upload(ceiling BitsPerSecond) *Builder {
	b.policy.Link.Upload.Ceiling = ceiling
	return b
}

// Class adds a class behind those that are there: packets are offered to them in this order.
func (b *Builder) Class(c Class) *Builder {
	b.policy.Classes = append(b.policy.Classes, c)
	return b
}

// Limits sets the limits of packets and connections.
func (b *Builder) Limits(l Limits) *Builder {
	b.policy.Limits = l
	return b
}

// Schedule makes the policy depend on the time.
func (b *Builder) Schedule(s Schedule) *Builder {
	b.policy.Schedule = &s
	return b
}

// Policy returns the policy, or everything that is wrong with it as Problems.
func (b *Builder) Policy() (Policy, error) {
	if problems := b.policy.Validate(); len(problems) > 0 {
		return Policy{}, problems
	}
	return b.policy, nil
}

// CIDR is a prefix for a Match; it panics when s is none, and is for prefixes that the program's text holds.
func CIDR(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// Port is one port for a Match.
func Port(p uint16) PortRange { return PortRange{p, p} }
