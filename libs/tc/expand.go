package tc

import (
	"cmp"
	"net/netip"
	"slices"
)

func familyOf(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

// parts are the families and the protocols (0: any) that a match is about.
func (m Match) parts() (families []Family, numbers []uint8) {
	families, numbers = both, []uint8{0}
	if p, ok := protocolNamed(m.Protocol); ok {
		families, numbers = p.families, []uint8{p.number}
	} else if len(m.Ports) > 0 {
		numbers = []uint8{6, 17}
	}
	if m.CIDR.IsValid() {
		families = []Family{familyOf(m.CIDR)}
	}
	return families, numbers
}

// selectors is how many u32 selectors the match takes in a direction.
func (m Match) selectors(d Direction) int {
	if m.Direction != "" && m.Direction != d {
		return 0
	}
	families, numbers := m.parts()
	n := 1
	if len(m.Ports) > 0 {
		n = 0
		for _, p := range m.Ports {
			n += len(p.Masks())
		}
	}
	return len(families) * len(numbers) * n
}

// filters are the match in a direction: the criteria of each are all asked, any filter is enough.
func (m Match) filters(d Direction, class Minor) []Filter {
	if m.Direction != "" && m.Direction != d {
		return nil
	}
	families, numbers := m.parts()
	ports := m.Ports
	if len(ports) == 0 {
		ports = []PortRange{{}}
	}
	var dscp *uint8
	if m.DSCP != "" {
		value, err := m.DSCP.Value()
		if err != nil {
			return nil // Validate has refused it
		}
		dscp = &value
	}
	var found []Filter
	for _, family := range families {
		for _, number := range numbers {
			for _, p := range ports {
				f := Filter{Class: class, Family: family, DSCP: dscp}
				if number != 0 {
					f.Protocol = &number
				}
				// The other side is where downloads come from and uploads go to.
				if d == Download {
					f.Src, f.SrcPorts = m.CIDR, p
				} else {
					f.Dst, f.DstPorts = m.CIDR, p
				}
				found = append(found, f)
			}
		}
	}
	return found
}

// filtersOf are a class's filters in a direction, in an order that does not depend on that of its matches, each once.
func filtersOf(c Class, d Direction, class Minor) []Filter {
	var found []Filter
	for _, m := range c.Match {
		found = append(found, m.filters(d, class)...)
	}
	slices.SortFunc(found, compareFilters)
	return slices.CompactFunc(found, func(a, b Filter) bool { return compareFilters(a, b) == 0 })
}

func compareFilters(a, b Filter) int {
	return cmp.Or(
		cmp.Compare(a.Family, b.Family),
		compareOptional(a.Protocol, b.Protocol),
		comparePrefix(a.Src, b.Src), comparePrefix(a.Dst, b.Dst),
		comparePorts(a.SrcPorts, b.SrcPorts), comparePorts(a.DstPorts, b.DstPorts),
		compareOptional(a.DSCP, b.DSCP),
	)
}

func compareOptional(a, b *uint8) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(*a, *b)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func comparePorts(a, b PortRange) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// covers says that every packet of g is one of f.
func (f Filter) covers(g Filter) bool {
	return f.Family == g.Family &&
		coversValue(f.Protocol, g.Protocol) && coversValue(f.DSCP, g.DSCP) &&
		coversPrefix(f.Src, g.Src) && coversPrefix(f.Dst, g.Dst) &&
		coversPorts(f.SrcPorts, g.SrcPorts) && coversPorts(f.DstPorts, g.DstPorts)
}

func coversValue(f, g *uint8) bool { return f == nil || g != nil && *f == *g }

func coversPrefix(f, g netip.Prefix) bool {
	return !f.IsValid() || g.IsValid() && f.Bits() <= g.Bits() && f.Contains(g.Addr())
}

func coversPorts(f, g PortRange) bool {
	return f.IsZero() || !g.IsZero() && f.First <= g.First && g.Last <= f.Last
}
