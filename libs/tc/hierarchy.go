package tc

import (
	"fmt"
	"slices"
)

// hierarchy checks that the classes fit their links: guarantees add up, ceilings do not rise, latencies can be had. at is the list of classes
// or, when inClasses is false, the link that changed under them.
func (v *validator) hierarchy(at string, inClasses bool, r Rules) {
	where := func(i int, field, link string) string {
		if inClasses {
			return pointer(at, i) + "/" + field
		}
		return at + link
	}
	for i, c := range r.Classes {
		// A class has one ceiling for both directions: it is cut where the link is narrower, and refused where it never holds.
		if widest := r.widest(c); widest != 0 && c.Ceiling > widest && c.Ceiling <= MaxRate {
			v.add(where(i, "ceiling", ""), RuleCeiling, fmt.Sprintf("lower it to %s, or leave it out", widest),
				"class %s has a ceiling of %s, more than the link's %s", clip(c.Name), c.Ceiling, widest)
		}
	}
	for _, d := range directions {
		link := r.Link.rate(d).Ceiling
		var sum BitsPerSecond
		for i, c := range r.Classes {
			if !c.in(d) || c.Guarantee > MaxRate || c.Ceiling > MaxRate {
				continue
			}
			sum += c.Guarantee
			v.latency(where(i, "latency_target", "/"+string(d)+"/ceiling"), c, link)
		}
		if link != 0 && sum > link {
			v.add(at, RuleSum, fmt.Sprintf("lower guarantees by %s, or raise the link's ceiling", sum-link),
				"the guarantees for %s add up to %s, more than the link's %s", d, sum, link)
		}
	}
}

// widest is the greater ceiling of the link in the directions that a class has; zero: one has none.
func (r Rules) widest(c Class) BitsPerSecond {
	var widest BitsPerSecond
	for _, d := range directions {
		if !c.in(d) {
			continue
		}
		ceiling := r.Link.rate(d).Ceiling
		if ceiling == 0 {
			return 0
		}
		widest = max(widest, ceiling)
	}
	return widest
}

// latency checks that a packet can leave within the target: at the guaranteed rate or, without one, at the ceiling.
func (v *validator) latency(at string, c Class, link BitsPerSecond) {
	if c.LatencyTarget == 0 || v.said(at, RuleLatency) {
		return
	}
	if c.LatencyTarget < MinLatency || c.LatencyTarget > MaxLatency {
		v.add(at, RuleLatency, fmt.Sprintf("write a duration from %s to %s", MinLatency, MaxLatency), "a latency target of %s is out of range", c.LatencyTarget)
		return
	}
	rate := drain(c, link)
	if rate < MinRate {
		return // no limit, or one that is refused elsewhere
	}
	if least := sendTime(etherMTU, rate); c.LatencyTarget < least {
		v.add(at, RuleLatency, fmt.Sprintf("allow at least %s, or raise the guarantee", roundUp(least)),
			"class %s cannot keep %s: at %s one packet alone takes %s", clip(c.Name), c.LatencyTarget, rate, least)
	}
}

// drain is the rate at which a class is surely emptied.
func drain(c Class, link BitsPerSecond) BitsPerSecond {
	switch {
	case c.Guarantee != 0:
		return c.Guarantee
	case c.Ceiling != 0 && (link == 0 || c.Ceiling < link):
		return c.Ceiling
	}
	return link
}

// sendTime is how long rate takes for size, up to the next microsecond.
func sendTime(size Bytes, rate BitsPerSecond) Duration {
	us := (uint64(size)*8*1_000_000 + uint64(rate) - 1) / uint64(rate)
	return Duration(us) * Microsecond
}

// roundUp is a number that a person would write.
func roundUp(d Duration) Duration { return (d + Millisecond - 1) / Millisecond * Millisecond }

// said says whether the same was complained about already, for the other direction.
func (v *validator) said(at string, rule Rule) bool {
	for _, p := range v.problems {
		if p.Pointer == at && p.Rule == rule {
			return true
		}
	}
	return false
}

// reach checks that each class gets packets of its own, and that its filters are not more than the kernel holds.
func (v *validator) reach(at string, classes []Class, d Direction) {
	var before []Filter
	selectors := 0
	for i, c := range classes {
		for _, m := range c.Match {
			selectors += m.selectors(d)
		}
		if selectors > MaxFilters { // before any is made
			if !v.said(at, RuleCount) {
				v.add(at, RuleCount, "use wider prefixes, fewer ports, or ranges that begin and end at powers of two",
					"the matches for %s take more than %d filters in the kernel", d, MaxFilters)
			}
			return
		}
		filters := filtersOf(c, d, 0)
		taken := func(f Filter) bool {
			return slices.ContainsFunc(before, func(b Filter) bool { return b.covers(f) })
		}
		here := pointer(at, i) + "/match"
		if !c.Default && len(filters) > 0 && !slices.ContainsFunc(filters, func(f Filter) bool { return !taken(f) }) && !v.said(here, RuleReach) {
			v.add(here, RuleReach, "move the class up, or narrow the matches above it",
				"class %s gets no packet for %s: the classes above it take all that it matches", clip(c.Name), d)
		}
		before = append(before, filters...)
	}
}
