package bus_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// listed are the entities that a follower lists beside its part: those that the states of the part name, "g" and a number above 1,000.
type listed struct {
	partSeen
	order    []string // of what was told
	caughtUp int
}

func (s *listed) also() []bus.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []bus.Key
	for _, e := range s.now {
		if k := (bus.Key{Tenant: api.SharedPlans, ID: fmt.Sprint("g", e.State.N)}); e.State.N > 1000 && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (s *listed) take(e bus.Entry[thing]) error {
	s.mu.Lock()
	s.order = append(s.order, fmt.Sprint(e.Key.ID, "=", e.State.N))
	s.mu.Unlock()
	return s.partSeen.take(e)
}

// TestFollowPartAlso: what a part names in other parts is followed from then on, with what is there already, and no longer than that.
func TestFollowPartAlso(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	url := srv.URL()
	l, err := bus.OpenLedger[thing](testContext(t), bustest.Connect(t, srv, ring, "tcagent"), bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix})
	if err != nil {
		t.Fatal(err)
	}
	const shared = api.SharedPlans
	put(t, l, shared, "g1001", 1)
	put(t, l, shared, "g1002", 2)
	put(t, l, "node1", "s1", 1001)
	put(t, l, shared, "g1001", 10)

	seen := &listed{partSeen: partSeen{now: map[string]bus.Entry[thing]{}}}
	followPart(t, bustest.ConnectNode(t, srv, ring, "node1"), bus.Part[thing]{Live: api.LivePlansPrefix, Tenant: "node1", Also: seen.also, Tell: seen.take, CaughtUp: func() {
		seen.mu.Lock()
		seen.caughtUp++
		seen.mu.Unlock()
	}})
	seen.becomes(t, map[string]int{"s1": 1001, "g1001": 10})
	put(t, l, shared, "g1001", 11)
	put(t, l, shared, "g1002", 20) // which nobody lists
	seen.becomes(t, map[string]int{"s1": 1001, "g1001": 11})
	put(t, l, "node1", "s2", 1002)
	seen.becomes(t, map[string]int{"s1": 1001, "s2": 1002, "g1001": 11, "g1002": 20})
	put(t, l, shared, "g1002", 21)
	seen.becomes(t, map[string]int{"s1": 1001, "s2": 1002, "g1001": 11, "g1002": 21})

	t.Run("what the part's change leaves is told no more, and what was written before is told before", func(t *testing.T) {
		from := len(seen.told())
		for n := range 20 {
			put(t, l, "node1", "s1", n)
			put(t, l, shared, "g1001", 100+n)
			put(t, l, "node1", "s1", 1001)
			put(t, l, shared, "g1002", 200+n)
		}
		put(t, l, "node1", "s1", 1001)
		seen.becomes(t, map[string]int{"s1": 1001, "s2": 1002, "g1001": 119, "g1002": 219})
		put(t, l, "node1", "s1", 7)
		put(t, l, "node1", "s3", 3)
		seen.becomes(t, map[string]int{"s1": 7, "s2": 1002, "s3": 3, "g1001": 119, "g1002": 219})
		last := ""
		for _, told := range seen.told()[from:] {
			if strings.HasPrefix(told, "s1=") {
				last = told
			}
			if strings.HasPrefix(told, "g1001=") && last != "s1=1001" {
				t.Errorf("%s was told after %s", told, last)
			}
		}
		put(t, l, shared, "g1001", 1)
		put(t, l, shared, "g1002", 1)
		seen.becomes(t, map[string]int{"s1": 7, "s2": 1002, "s3": 3, "g1001": 119, "g1002": 1})
	})
	outer := t
	t.Run("across the bus's absence", func(t *testing.T) {
		srv.Close()
		bustest.Start(outer, ring, dir, strings.TrimPrefix(url, "nats://"))
		put(t, l, shared, "g1002", 3)
		seen.becomes(t, map[string]int{"s1": 7, "s2": 1002, "s3": 3, "g1001": 119, "g1002": 3})
	})
	t.Run("more than are heard", func(t *testing.T) {
		want := map[string]int{"s1": 7, "s2": 1002, "s3": 3, "g1001": 119, "g1002": 3}
		var wg sync.WaitGroup
		for w := range 8 {
			for i := 2000 + w; i < 2300; i += 8 {
				want[fmt.Sprint("g", i)], want[fmt.Sprint("m", i)] = 1, i
			}
			wg.Go(func() {
				for i := 2000 + w; i < 2300; i += 8 {
					_, err := l.Create(t.Context(), bus.Key{Tenant: shared, ID: fmt.Sprint("g", i)}, meta, thing{N: 1})
					if err == nil {
						_, err = l.Create(t.Context(), bus.Key{Tenant: "node1", ID: fmt.Sprint("m", i)}, meta, thing{N: i})
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		seen.becomes(t, want)
	})
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if seen.caughtUp == 0 {
		t.Error("it never said that it had caught up")
	}
}

func (s *listed) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// TestFollowPartAlsoCheck: what nobody heard of is found by the check, wherever it stands.
func TestFollowPartAlsoCheck(t *testing.T) {
	srv, ring := bustest.New(t)
	c := bustest.Connect(t, srv, ring, "tcagent")
	l, err := bus.OpenLedger[thing](testContext(t), c, bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix})
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, "node1", "s1", 1001)
	put(t, l, "node1", "s2", 1002)
	seen := &listed{partSeen: partSeen{now: map[string]bus.Entry[thing]{}}}
	c.CheckPartsEvery(10 * time.Millisecond)
	followPart(t, c, bus.Part[thing]{Live: api.LiveCountersPrefix, Tenant: "node1", Also: seen.also, Tell: seen.take}) // where nothing is heard
	want := map[string]int{"s1": 1001, "s2": 1002}
	for n, id := range []string{"g1001", "g1002", "g1001", "s3", "g1002", "s2", "s1", "s3", "g1001"} {
		tenant, value := api.SharedPlans, 1+n
		switch id {
		case "s1":
			tenant, value = "node1", 1001
		case "s2":
			tenant, value = "node1", 1002
		case "s3":
			tenant = "node1"
		}
		put(t, l, tenant, id, value)
		want[id] = value
		seen.becomes(t, want)
	}
}
