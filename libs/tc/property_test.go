package tc_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"agentyard.dev/libs/tc"
)

// invariants are what every plan of valid policies is.
func invariants(t testing.TB, plan *tc.Plan) {
	t.Helper()
	for _, d := range []tc.Direction{tc.Download, tc.Upload} {
		tree := plan.Tree(d)
		if tree == nil {
			continue
		}
		var sum tc.BitsPerSecond
		reached := map[tc.Minor]bool{tree.Default: true}
		for _, f := range tree.Filters {
			reached[f.Class] = true
		}
		seen := map[tc.Minor]bool{}
		for i, l := range tree.Leaves {
			if l.Rate > tc.MinRate {
				sum += l.Rate
			}
			tick := tc.Bytes(l.Rate / 8000)
			switch {
			case l.Rate < tc.MinRate || l.Rate > l.Ceiling || l.Ceiling > tree.Rate:
				t.Errorf("%s %s: %s ≤ %s ≤ %s ≤ %s does not hold", d, l.Class, tc.MinRate, l.Rate, l.Ceiling, tree.Rate)
			case l.Rate%8 != 0 || l.Ceiling%8 != 0 || tree.Rate%8 != 0:
				t.Errorf("%s %s: a rate is not of whole bytes", d, l.Class)
			case l.Burst < tc.Bytes(tree.MTU) || l.Burst < tick || l.CeilingBurst < l.Burst:
				t.Errorf("%s %s: bursts %s and %s", d, l.Class, l.Burst, l.CeilingBurst)
			case l.Quantum < tc.Bytes(tree.MTU) || l.Quantum > tc.MaxQuantum:
				t.Errorf("%s %s: quantum %s", d, l.Class, l.Quantum)
			case l.Minor < tc.MinLeaf || l.Minor > tc.MaxLeaf || seen[l.Minor] || i > 0 && l.Minor < tree.Leaves[i-1].Minor:
				t.Errorf("%s %s: id %s", d, l.Class, l.Minor)
			case !reached[l.Minor]:
				t.Errorf("%s %s: no packet gets there", d, l.Class)
			case l.Queue.Limit == 0 && l.Queue.Packets == 0 || l.Queue.Kind == tc.BFIFO && l.Queue.Limit < tc.Bytes(tree.MTU):
				t.Errorf("%s %s: queue %+v holds no packet", d, l.Class, l.Queue)
			}
			seen[l.Minor] = true
		}
		if sum > tree.Rate {
			t.Errorf("%s: guarantees of %s at a link of %s", d, sum, tree.Rate)
		}
		if tree.Default != tc.DefaultMinor || !seen[tree.Default] {
			t.Errorf("%s: the default class is not there", d)
		}
		for _, f := range tree.Filters {
			if !seen[f.Class] {
				t.Errorf("%s: a filter leads to %s, which is not there", d, f.Class)
			}
			if f.Protocol == nil && f.DSCP == nil && !f.Src.IsValid() && !f.Dst.IsValid() {
				t.Errorf("%s: a filter asks nothing", d)
			}
		}
	}
}

// world makes random policies, valid ones and others.
type world struct{ *rand.Rand }

func (w world) one(n int) bool { return w.IntN(n) == 0 }

func (w world) rate(most int) tc.BitsPerSecond {
	return tc.BitsPerSecond(8000 + w.IntN(most))
}

func (w world) match() tc.Match {
	var m tc.Match
	for m.Protocol == "" && m.DSCP == "" && len(m.Ports) == 0 && !m.CIDR.IsValid() {
		if w.one(2) {
			bits := 8 * (1 + w.IntN(4))
			m.CIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(256))}), bits).Masked()
		}
		if w.one(3) {
			m.CIDR = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(w.IntN(256))}), 32+w.IntN(96)).Masked()
		}
		if w.one(2) {
			first := 1 + w.IntN(65535)
			m.Ports = append(m.Ports, tc.PortRange{First: uint16(first), Last: uint16(first + w.IntN(65536-first))}, tc.Port(443))
		}
		if w.one(2) {
			m.Protocol = []string{"tcp", "udp"}[w.IntN(2)]
		}
		if w.one(4) {
			m.DSCP = tc.DSCP(fmt.Sprint(w.IntN(64)))
		}
	}
	m.Direction = []tc.Direction{"", "", tc.Upload, tc.Download}[w.IntN(4)]
	return m
}

func (w world) policy(i int) tc.Policy {
	b := tc.NewPolicy(fmt.Sprintf("p%d", i)).Priority(w.IntN(3))
	if w.one(2) {
		b.Tenant("acme")
	}
	if w.one(3) {
		b.Users("alice", "bob")
	}
	if w.one(3) {
		b.Label("team", "blue").Label("tier", "gold")
	}
	if !w.one(4) {
		b.Download(w.rate(1e9)).Upload(w.rate(1e7))
	}
	if w.one(2) {
		b.Limits(tc.Limits{Upload: tc.DirectionLimits{Connections: uint32(1 + w.IntN(9)), PacketsPerSecond: 100}, Download: tc.DirectionLimits{ConnectionsPerSecond: 7}})
	}
	if w.one(5) {
		b.Mode(tc.Report)
	}
	if n := w.IntN(6); n > 0 {
		fallback := w.IntN(n)
		for i := range n {
			c := tc.Class{Name: fmt.Sprintf("c%d", w.IntN(1000)), Priority: w.IntN(8), Default: i == fallback}
			if w.one(2) {
				c.Guarantee = w.rate(3e6)
			}
			if w.one(3) {
				c.Ceiling = c.Guarantee + w.rate(3e6)
			}
			if w.one(3) {
				c.LatencyTarget = tc.Duration(1+w.IntN(200)) * tc.Millisecond
			}
			for range w.IntN(4) {
				c.Match = append(c.Match, w.match())
			}
			if !c.Default && len(c.Match) == 0 {
				c.Match = append(c.Match, w.match())
			}
			b.Class(c)
		}
	}
	p, _ := b.Policy() // an invalid one is empty, and invalid
	return p
}

// shuffled is the same policies written in another order.
func (w world) shuffled(policies []tc.Policy) []tc.Policy {
	var other []tc.Policy
	for _, p := range policies {
		p.AppliesTo.Users = slices.Clone(p.AppliesTo.Users)
		w.Shuffle(len(p.AppliesTo.Users), func(i, j int) {
			p.AppliesTo.Users[i], p.AppliesTo.Users[j] = p.AppliesTo.Users[j], p.AppliesTo.Users[i]
		})
		p.Classes = slices.Clone(p.Classes)
		for i := range p.Classes {
			match := slices.Clone(p.Classes[i].Match)
			for j := range match {
				match[j].Ports = slices.Clone(match[j].Ports)
				slices.Reverse(match[j].Ports)
			}
			w.Shuffle(len(match), func(a, b int) { match[a], match[b] = match[b], match[a] })
			p.Classes[i].Match = match
		}
		other = append(other, p)
	}
	w.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
	return other
}

// TestCompileProperties compiles random sets of valid policies: the invariants hold, the order of what has none does not matter, and
// compiling does not change what it is given.
func TestCompileProperties(t *testing.T) {
	seed := rand.Uint64()
	w := world{rand.New(rand.NewPCG(seed, 1))}
	plans, divided := 0, 0
	for range 150 {
		var policies []tc.Policy
		for i := range 1 + w.IntN(5) {
			if p := w.policy(i); p.Name != "" {
				policies = append(policies, p)
			}
		}
		can := able
		can.FQCodel, can.SFQ, can.IFB, can.U32 = w.one(2), w.one(2), w.one(2), w.one(2)
		can.BPF, can.TicksPerSecond = !w.one(3), uint32(w.IntN(3)*500)
		s := ofAcme
		if w.one(3) {
			s.MTU = uint32(1280 + w.IntN(8000))
		}
		plan, effective, err := tc.Compile(policies, s, can, noon)
		if err != nil {
			t.Fatal(err)
		}
		invariants(t, plan)
		before := indented(t, policies)
		for range 3 {
			again, other, err := tc.Compile(w.shuffled(policies), s, can, noon)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(plan.Bytes(), again.Bytes()) || plan.Hash() != again.Hash() {
				t.Errorf("two plans of one input:\n%s\n%s", plan.Bytes(), again.Bytes())
			}
			if fmt.Sprint(effective.Policies, effective.Conflicts, effective.Until) != fmt.Sprint(other.Policies, other.Conflicts, other.Until) {
				t.Errorf("two answers to what holds: %+v and %+v", effective, other)
			}
		}
		if !bytes.Equal(before, indented(t, policies)) {
			t.Error("compiling changed the policies")
		}
		if plan.Download != nil {
			if plans++; len(plan.Download.Leaves) > 1 {
				divided++
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d, policies:\n%s", seed, before)
		}
	}
	if plans < 40 || divided < 8 {
		t.Errorf("only %d plans with a tree, %d of several classes: the policies are too poor to show anything", plans, divided)
	}
}
