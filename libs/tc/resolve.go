package tc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Set is policies that were found valid, in the order in which they meet: the most specific first.
type Set struct {
	policies []Policy
	zones    []*time.Location // of each one's schedule
}

// NewSet validates policies. Two of one name and origin in one tenant are refused. The error is Problems whose pointers begin with the policy's index.
func NewSet(policies []Policy) (*Set, error) {
	var problems Problems
	type key struct{ tenant, name, origin string }
	seen := map[key]bool{}
	for i, p := range policies {
		for _, problem := range p.Validate() {
			problem.Pointer = pointer("", i) + problem.Pointer
			problems = append(problems, problem)
		}
		k := key{p.AppliesTo.Tenant, p.Name, p.Origin}
		if seen[k] {
			problems = append(problems, Problem{
				Pointer: pointer("", i) + "/name", Rule: RuleName,
				Detail: fmt.Sprintf("policy %s is there twice", clip(p.Name)), Remedy: "give each policy its own name",
			})
		}
		seen[k] = true
	}
	if len(problems) > 0 {
		return nil, problems
	}
	set := &Set{policies: slices.Clone(policies)}
	slices.SortFunc(set.policies, moreSpecific)
	for _, p := range set.policies {
		set.zones = append(set.zones, p.zone())
	}
	return set, nil
}

// moreSpecific orders by tier, then priority, then name; it is total over the policies of a Set.
func moreSpecific(a, b Policy) int {
	return cmp.Or(
		cmp.Compare(b.AppliesTo.Tier(), a.AppliesTo.Tier()),
		cmp.Compare(b.Priority, a.Priority),
		strings.Compare(a.Name, b.Name),
		strings.Compare(a.AppliesTo.Tenant, b.AppliesTo.Tenant),
		strings.Compare(a.Origin, b.Origin),
	)
}

// Effective is what holds for one session at one time, and which policy says so.
type Effective struct {
	Mode     Mode               `json:"mode"`
	Upload   EffectiveDirection `json:"upload"`
	Download EffectiveDirection `json:"download"`
	// Classes are of the most specific policy that has some, ClassesFrom its name.
	Classes     []Class `json:"classes,omitempty"`
	ClassesFrom string  `json:"classes_from,omitempty"`
	// Policies are all that apply to the session, the most specific first, with those that demand nothing now.
	Policies []AppliedPolicy `json:"policies,omitempty"`
	// Conflicts say where policies together leave less than one of them promised; for people. Compile adds those of classes.
	Conflicts []string `json:"conflicts,omitempty"`
	// Warnings say what was ignored; for people.
	Warnings []string `json:"warnings,omitempty"`
	// Until is when a schedule next changes this; zero: never.
	Until time.Time `json:"until,omitzero"`
}

// EffectiveDirection is one direction's part.
type EffectiveDirection struct {
	Ceiling              *Value[BitsPerSecond] `json:"ceiling,omitempty"`
	Burst                *Value[Bytes]         `json:"burst,omitempty"`
	PacketsPerSecond     *Value[uint32]        `json:"packets_per_second,omitempty"`
	Connections          *Value[uint32]        `json:"connections,omitempty"`
	ConnectionsPerSecond *Value[uint32]        `json:"connections_per_second,omitempty"`
}

// Value is what holds and the policy that set it.
type Value[T any] struct {
	Value T      `json:"value"`
	From  string `json:"from"`
}

// AppliedPolicy is one policy that selects the session.
type AppliedPolicy struct {
	Name   string `json:"name"`
	Tier   Tier   `json:"tier"`
	Mode   Mode   `json:"mode"`
	Window string `json:"window,omitempty"` // the one that is open, by name or number
	// Idle says why it has no part now: its mode is off, no window is open, or others are enforced and it only reports. Empty: it has.
	Idle string `json:"idle,omitempty"`
}

// Resolve composes the policies that select s as they are at a time. The smallest ceiling and limit of all wins; classes with
// their guarantees are those of the most specific policy that has some. Policies that only report have no part while others are enforced. The
// annotations of the session's pod are a policy below all others. It is pure.
func (set *Set) Resolve(s Session, at time.Time) Effective {
	e := Effective{Mode: Off}
	var parts []Policy
	for i, p := range set.policies {
		if !p.AppliesTo.Selects(s) {
			continue
		}
		now, window, next, ok := p.at(at, set.zones[i])
		if !next.IsZero() && (e.Until.IsZero() || next.Before(e.Until)) {
			e.Until = next
		}
		applied := AppliedPolicy{Name: p.label(), Tier: p.AppliesTo.Tier(), Mode: now.effectiveMode(), Window: window}
		switch {
		case !ok:
			applied.Idle = "no window of its schedule is open"
		case applied.Mode == Off:
			applied.Idle = "its mode is off"
		default:
			parts = append(parts, now)
		}
		e.Policies = append(e.Policies, applied)
	}
	if p, wrong, ok := annotated(s); ok || len(wrong) > 0 {
		e.Warnings = append(e.Warnings, wrong...)
		if ok {
			parts = append(parts, p)
			e.Policies = append(e.Policies, AppliedPolicy{Name: p.Name, Tier: TierAnnotation, Mode: Enforce})
		}
	}
	e.compose(parts)
	return e
}

// Alike names what Compile makes of s besides its ID: sessions of one name have the same plan but for that, at one time and for nodes that can do the same.
func (set *Set) Alike(s Session) string {
	name := make([]byte, 0, len(set.policies)/8+1)
	for i, p := range set.policies {
		if i%8 == 0 {
			name = append(name, 0)
		}
		if p.AppliesTo.Selects(s) {
			name[i/8] |= 1 << (i % 8)
		}
	}
	if s.MTU == 0 && len(s.Annotations) == 0 {
		return string(name)
	}
	return fmt.Sprintf("%x %d %q %q", name, s.MTU, s.Annotations[IngressAnnotation], s.Annotations[EgressAnnotation])
}

// compose fills e from the policies that demand something, the most specific first.
func (e *Effective) compose(parts []Policy) {
	if len(parts) == 0 {
		return
	}
	e.Mode = Report
	if slices.ContainsFunc(parts, func(p Policy) bool { return p.effectiveMode() == Enforce }) {
		e.Mode = Enforce
		for i := range e.Policies {
			if a := &e.Policies[i]; a.Mode == Report && a.Idle == "" {
				a.Idle = "it only reports, and other policies are enforced"
			}
		}
	}
	for _, p := range parts {
		if p.effectiveMode() != e.Mode {
			continue
		}
		for _, d := range directions {
			e.Direction(d).narrow(p.Link.rate(d), p.Limits.of(d), p.label())
		}
		if len(p.Classes) > 0 && e.ClassesFrom == "" {
			e.Classes, e.ClassesFrom = p.Classes, p.label()
		}
	}
}

// Direction is the part of a direction.
func (e *Effective) Direction(d Direction) *EffectiveDirection {
	if d == Upload {
		return &e.Upload
	}
	return &e.Download
}

// narrow takes what is smaller; of equal values the more specific policy, which comes first, is said to have set it.
func (e *EffectiveDirection) narrow(link LinkRate, limits DirectionLimits, from string) {
	if link.Ceiling != 0 && (e.Ceiling == nil || link.Ceiling < e.Ceiling.Value) {
		e.Ceiling = &Value[BitsPerSecond]{link.Ceiling, from}
		e.Burst = nil // a burst belongs to its ceiling
		if link.Burst != 0 {
			e.Burst = &Value[Bytes]{link.Burst, from}
		}
	}
	least := func(mine **Value[uint32], theirs uint32) {
		if theirs != 0 && (*mine == nil || theirs < (*mine).Value) {
			*mine = &Value[uint32]{theirs, from}
		}
	}
	least(&e.PacketsPerSecond, limits.PacketsPerSecond)
	least(&e.Connections, limits.Connections)
	least(&e.ConnectionsPerSecond, limits.ConnectionsPerSecond)
}

// Guaranteed is what all classes together are guaranteed in a direction, at most its ceiling: what the session asks of its node's uplink.
func (e *Effective) Guaranteed(d Direction) BitsPerSecond {
	if e.Mode != Enforce {
		return 0
	}
	var sum BitsPerSecond
	for _, c := range e.Classes {
		if c.in(d) {
			sum += c.Guarantee
		}
	}
	if ceiling := e.Direction(d).Ceiling; ceiling != nil {
		sum = min(sum, ceiling.Value)
	}
	return sum
}
