package tc

import (
	"math"
	"slices"
)

// Claim is what one of many asks of a link that they share.
type Claim struct {
	Guarantee BitsPerSecond // what it gets before the others get more than theirs, as far as it asks for it
	Ceiling   BitsPerSecond // it gets no more
	Demand    BitsPerSecond // what it would send now
	Weight    BitsPerSecond // its part of what is left, beside the others' weights; zero counts as 1
}

// Share is what one gets.
type Share struct {
	// Use is what it gets of what it asks for.
	Use BitsPerSecond
	// Limit is what it may be let send: Use, or more when it asks for less than is its due, so that it need not wait when it asks for
	// that. It is its ceiling while nobody has to wait.
	Limit BitsPerSecond
}

// Divide divides a link's capacity: first guarantees, then what is left by weighted max–min fairness, so that who has the least for its
// weight gets more first. It is pure, and the order of claims does not matter. It guarantees, but for some bits of rounding:
//
//   - Uses add up to the capacity, or to all demands when those are less: nothing is left over that somebody asks for.
//   - A use is at least the guarantee or the demand, whichever is less, when the guarantees fit the capacity; else guarantees are lowered
//     in proportion.
//   - Nobody gets more for its weight than another who asks for more, but by its guarantee.
//   - More capacity takes nothing from anybody; more weight, guarantee, ceiling or demand takes nothing from who has it, and gives nothing to others.
func Divide(capacity BitsPerSecond, claims []Claim) []Share {
	floors, wants := make([]part, len(claims)), make([]part, len(claims))
	var floor, want float64
	for i, c := range claims {
		most := min(c.Demand, c.Ceiling)
		wants[i] = part{low: float64(min(c.Guarantee, most)), high: float64(most), weight: float64(max(c.Weight, 1))}
		floors[i] = part{high: wants[i].low, weight: float64(max(c.Guarantee, 1))}
		floor, want = floor+wants[i].low, want+wants[i].high
	}
	parts, overcommitted := wants, floor > float64(capacity)
	if overcommitted {
		parts, want = floors, floor
	}
	level := math.Inf(1)
	if want > float64(capacity) {
		level = levelOf(float64(capacity), parts)
	}
	shares := make([]Share, len(claims))
	for i, c := range claims {
		use := round(parts[i].at(level))
		due := min(float64(c.Ceiling), level*parts[i].weight)
		if overcommitted && c.Guarantee == 0 {
			due = 0
		}
		least := BitsPerSecond(0)
		if !overcommitted {
			least = min(c.Guarantee, c.Ceiling)
		}
		shares[i] = Share{Use: use, Limit: max(use, least, round(due))}
	}
	return shares
}

// part is a claim as a function of the level: it has level × weight, between low and high.
type part struct{ low, high, weight float64 }

func (p part) at(level float64) float64 { return min(max(level*p.weight, p.low), p.high) }

// round cuts to what the kernel can hold: bytes per second.
func round(v float64) BitsPerSecond { return BitsPerSecond(v) / 8 * 8 }

// levelOf is the level at which the parts add up to the capacity, which is between all their lows and all their highs.
func levelOf(capacity float64, parts []part) float64 {
	type bend struct{ at, slope float64 } // where the sum begins or ends to grow with a part
	bends := make([]bend, 0, 2*len(parts))
	sum, slope, at := 0.0, 0.0, 0.0
	for _, p := range parts {
		sum += p.low
		bends = append(bends, bend{p.low / p.weight, p.weight}, bend{p.high / p.weight, -p.weight})
	}
	slices.SortFunc(bends, func(a, b bend) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	for _, b := range bends {
		if next := sum + slope*(b.at-at); next >= capacity && slope > 0 {
			break
		} else {
			sum, at = next, b.at
		}
		slope += b.slope
	}
	if slope <= 0 { // rounding: there is nothing more to give
		return at
	}
	return at + (capacity-sum)/slope
}

// Narrowed is the plan with its trees no wider than given, for as long as a session gets less than its ceiling of a link that it shares;
// zero: as it is. Guarantees that do not fit are lowered in proportion, and queues that are as long as their rate is high are shortened. The plan itself is not changed.
func (p *Plan) Narrowed(download, upload BitsPerSecond) *Plan {
	out := *p
	if p.Mode == Enforce {
		out.Download, out.Upload = p.Download.narrowed(download), p.Upload.narrowed(upload)
	}
	return &out
}

func (t *Tree) narrowed(rate BitsPerSecond) *Tree {
	if t == nil || rate == 0 || rate >= t.Rate {
		return t
	}
	rate = max(rate/8*8, MinRate)
	out := *t
	out.Rate, out.Burst = rate, t.shorter(t.Burst, t.Rate, rate)
	out.Leaves = slices.Clone(t.Leaves)
	var sum BitsPerSecond
	for i := range out.Leaves {
		l := &out.Leaves[i]
		if l.Ceiling > rate {
			l.CeilingBurst = t.shorter(l.CeilingBurst, l.Ceiling, rate)
			if l.Queue.Kind == BFIFO {
				l.Queue.Limit = max(Bytes(mulDiv(uint64(l.Queue.Limit), uint64(rate), uint64(l.Ceiling))), min(l.Queue.Limit, oneWrite))
			}
			l.Ceiling = rate
		}
		sum += min(l.Rate, l.Ceiling)
	}
	for i := range out.Leaves {
		l, lowered := &out.Leaves[i], min(out.Leaves[i].Rate, out.Leaves[i].Ceiling)
		if sum > rate {
			lowered = max(share(lowered, rate, sum)/8*8, MinRate)
		}
		l.Burst, l.Rate = t.shorter(l.Burst, l.Rate, lowered), lowered
	}
	return &out
}

// shorter is a bucket of one rate as one of a lower rate: what is more than a packet shrinks as the rate does.
func (t *Tree) shorter(b Bytes, from, to BitsPerSecond) Bytes {
	packet := Bytes(t.MTU)
	if from <= to || b <= packet {
		return b
	}
	return packet + Bytes(mulDiv(uint64(b-packet), uint64(to), uint64(from)))
}
