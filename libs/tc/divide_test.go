package tc_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"agentyard.dev/libs/tc"
)

func randomClaims(r *rand.Rand) (tc.BitsPerSecond, []tc.Claim) {
	rate := func() tc.BitsPerSecond {
		switch r.IntN(6) {
		case 0:
			return 0
		case 1:
			return tc.BitsPerSecond(1+r.IntN(4)) * 10 * tc.Mbit // equal ones are common
		}
		return tc.BitsPerSecond(r.Uint64N(uint64(tc.Gbit)))
	}
	claims := make([]tc.Claim, 1+r.IntN(12))
	for i := range claims {
		claims[i] = tc.Claim{Guarantee: rate() / 4, Ceiling: rate(), Demand: rate(), Weight: rate()}
		if r.IntN(2) == 0 {
			claims[i].Demand = claims[i].Ceiling // who takes all that it can get
		}
	}
	return rate() * tc.BitsPerSecond(1+r.IntN(4)), claims
}

// slack is what rounding to bytes per second, and of floating point, may cost n claims.
func slack(n int) tc.BitsPerSecond { return tc.BitsPerSecond(16*n) + 64 }

// TestDivide holds what Divide promises against random claims.
func TestDivide(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 1))
	for range 20_000 {
		capacity, claims := randomClaims(r)
		shares := tc.Divide(capacity, claims)
		var used, wanted, floor tc.BitsPerSecond
		want := func(i int) tc.BitsPerSecond { return min(claims[i].Demand, claims[i].Ceiling) }
		for i, c := range claims {
			used, wanted, floor = used+shares[i].Use, wanted+want(i), floor+min(c.Guarantee, want(i))
		}
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf(format, args...)
			t.Fatalf("capacity %d, claims %+v, shares %+v", capacity, claims, shares)
		}
		if all := min(capacity, wanted); used > all || all-used > slack(len(claims)) {
			fail("used %d of %d", used, all)
		}
		for i, c := range claims {
			s := shares[i]
			if s.Use > want(i) || s.Limit > c.Ceiling || s.Use > s.Limit {
				fail("claim %d gets more than it wants or may: %+v", i, s)
			}
			if least := min(c.Guarantee, want(i)); floor <= capacity && s.Use+slack(1) < least {
				fail("claim %d is guaranteed %d", i, least)
			}
			if floor <= capacity && s.Limit+slack(1) < min(c.Guarantee, c.Ceiling) {
				fail("claim %d may not send its guarantee", i)
			}
			if wanted <= capacity && s.Limit+slack(1) < c.Ceiling {
				fail("nobody waits, and claim %d is limited to %d", i, s.Limit)
			}
			// Max–min: who waits has no less for its weight than any other has that is above its guarantee.
			weight := func(j int) float64 { return float64(max(claims[j].Weight, 1)) }
			if floor > capacity || s.Use+slack(1) >= want(i) {
				continue
			}
			for j, o := range shares {
				mine, others := float64(s.Use+slack(2))/weight(i), float64(o.Use)/weight(j)
				if o.Use > min(claims[j].Guarantee, want(j))+slack(1) && others > mine*(1+1e-9)+float64(slack(2))/weight(j) {
					fail("claim %d waits with %g for its weight, and claim %d has %g", i, mine, j, others)
				}
			}
		}
	}
}

// TestDivideIsMonotone: more of one thing, all else equal.
func TestDivideIsMonotone(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 2))
	for range 20_000 {
		capacity, claims := randomClaims(r)
		before := tc.Divide(capacity, claims)
		loose := slack(len(claims))
		for i, s := range tc.Divide(capacity+capacity/4+tc.Mbit, claims) {
			if s.Use+loose < before[i].Use {
				t.Fatalf("claim %d of %+v: %d of capacity %d, and %d of more", i, claims, before[i].Use, capacity, s.Use)
			}
		}
		who := r.IntN(len(claims))
		more := append([]tc.Claim(nil), claims...)
		w, which := &more[who], r.IntN(5)
		for n, of := range []*tc.BitsPerSecond{&w.Demand, &w.Ceiling, &w.Weight, &w.Guarantee} {
			if which == n || which == 4 { // one of them, or all
				*of *= 2
			}
		}
		for i, s := range tc.Divide(capacity, more) {
			if i == who && s.Use+loose < before[i].Use || i != who && s.Use > before[i].Use+loose {
				t.Fatalf("claim %d asks for more: claim %d has %d and had %d; capacity %d of %+v", who, i, s.Use, before[i].Use, capacity, claims)
			}
		}
		r.Shuffle(len(claims), func(i, j int) {
			claims[i], claims[j] = claims[j], claims[i]
			before[i], before[j] = before[j], before[i]
		})
		for i, s := range tc.Divide(capacity, claims) {
			if diff := math.Abs(float64(s.Use) - float64(before[i].Use)); diff > float64(loose) {
				t.Fatalf("in another order claim %d has %d and not %d", i, s.Use, before[i].Use)
			}
		}
	}
}

// TestDivideExamples are what a person would work out.
func TestDivideExamples(t *testing.T) {
	const m = tc.Mbit
	for _, c := range []struct {
		name     string
		capacity tc.BitsPerSecond
		claims   []tc.Claim
		want     []tc.Share
	}{
		{"nobody waits", 100 * m, []tc.Claim{{Ceiling: 50 * m, Demand: 50 * m, Weight: 1}, {Ceiling: 50 * m, Demand: m, Weight: 1}},
			[]tc.Share{{50 * m, 50 * m}, {m, 50 * m}}},
		{"by weight", 100 * m, []tc.Claim{{Ceiling: 100 * m, Demand: 100 * m, Weight: 3}, {Ceiling: 100 * m, Demand: 100 * m, Weight: 1}},
			[]tc.Share{{75 * m, 75 * m}, {25 * m, 25 * m}}},
		{"who asks for little leaves the rest, and need not wait", 100 * m, []tc.Claim{{Ceiling: 100 * m, Demand: 100 * m, Weight: 1}, {Ceiling: 100 * m, Demand: 10 * m, Weight: 1}},
			[]tc.Share{{90 * m, 90 * m}, {10 * m, 90 * m}}},
		{"a guarantee before fairness", 100 * m, []tc.Claim{{Guarantee: 80 * m, Ceiling: 100 * m, Demand: 100 * m, Weight: 1}, {Ceiling: 100 * m, Demand: 100 * m, Weight: 1}},
			[]tc.Share{{80 * m, 80 * m}, {20 * m, 20 * m}}},
		{"more guaranteed than there is", 100 * m, []tc.Claim{{Guarantee: 150 * m, Ceiling: 200 * m, Demand: 200 * m}, {Guarantee: 50 * m, Ceiling: 50 * m, Demand: 50 * m}, {Ceiling: m, Demand: m}},
			[]tc.Share{{75 * m, 75 * m}, {25 * m, 25 * m}, {}}},
		{"no capacity", 0, []tc.Claim{{Ceiling: m, Demand: m}}, []tc.Share{{}}},
		{"nobody", m, nil, nil},
	} {
		got := tc.Divide(c.capacity, c.claims)
		for i := range c.want {
			if diff := func(a, b tc.BitsPerSecond) bool { return a > b || b-a > 16 }; diff(got[i].Use, c.want[i].Use) || diff(got[i].Limit, c.want[i].Limit) {
				t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
				break
			}
		}
	}
}

// TestNarrowed: a plan that gets less than its ceiling is one that a compiler could have made.
func TestNarrowed(t *testing.T) {
	p, _, err := tc.Compile([]tc.Policy{parsed(t, "team.yaml")}, ofAcme, able, noon)
	if err != nil {
		t.Fatal(err)
	}
	before := string(p.Bytes())
	if p.Download.Guarantee == 0 {
		t.Error("the plan does not say what the session is guaranteed")
	}
	for _, rate := range []tc.BitsPerSecond{1, tc.MinRate, 100 * tc.Kbit, tc.Mbit, 7777777, p.Download.Rate - 8, p.Download.Rate, tc.Gbit} {
		n := p.Narrowed(rate, 0)
		if n.Upload != p.Upload {
			t.Errorf("%s: the other direction changed", rate)
		}
		tree := n.Download
		if want := min(p.Download.Rate, max(rate/8*8, tc.MinRate)); tree.Rate != want {
			t.Errorf("%s: got %s, want %s", rate, tree.Rate, want)
		}
		var sum tc.BitsPerSecond
		for i, l := range tree.Leaves {
			sum += l.Rate
			if l.Rate > l.Ceiling || l.Ceiling > tree.Rate || l.Rate < tc.MinRate || l.Burst < tc.Bytes(tree.MTU) || l.CeilingBurst < tc.Bytes(tree.MTU) ||
				l.Minor != p.Download.Leaves[i].Minor {
				t.Errorf("%s: leaf %+v of a tree of %s", rate, l, tree.Rate)
			}
		}
		if sum > tree.Rate+tc.BitsPerSecond(len(tree.Leaves))*tc.MinRate {
			t.Errorf("%s: the leaves' rates are %s", rate, sum)
		}
	}
	if string(p.Bytes()) != before {
		t.Error("the plan itself was changed")
	}
	p.Mode = tc.Report
	if n := p.Narrowed(tc.Mbit, tc.Mbit); n.Download.Rate != p.Download.Rate {
		t.Error("a plan that only reports was narrowed")
	}
}
