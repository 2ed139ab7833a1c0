package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// partSeen collects what a follower of a part was told.
type partSeen struct {
	mu  sync.Mutex
	now map[string]bus.Entry[thing]
	n   int
}

func (s *partSeen) take(e bus.Entry[thing]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if now := s.now[e.Key.ID]; e.NewerThan(now.Epoch, now.Rev) {
		s.now[e.Key.ID] = e
	}
	return nil
}

// becomes waits until the newest state of each is want.
func (s *partSeen) becomes(t *testing.T, want map[string]int) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		got := map[string]int{}
		for id, e := range s.now {
			if !e.Deleted {
				got[id] = e.State.N
			}
		}
		s.mu.Unlock()
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

// startPart follows a node's part of PLANS until the test ends, and returns when its head is reached.
func startPart(t *testing.T, c *bus.Conn, node string) *partSeen {
	t.Helper()
	seen, head := &partSeen{now: map[string]bus.Entry[thing]{}}, make(chan struct{})
	followPart(t, c, bus.Part[thing]{Live: api.LivePlansPrefix, Tenant: node, Tell: seen.take, CaughtUp: sync.OnceFunc(func() { close(head) })})
	select {
	case <-head:
	case <-time.After(patience):
		t.Fatal("the part's head is not reached")
	}
	return seen
}

// followPart follows a part of PLANS until the test ends.
func followPart(t *testing.T, c *bus.Conn, part bus.Part[thing]) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- bus.ReadLedger[thing](c, api.NounPlans).FollowPart(ctx, part) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the follower ended with %v", err)
		}
	})
}

// put writes an entry that may be there already.
func put(t *testing.T, l *bus.Ledger[thing], tenant, id string, n int) {
	t.Helper()
	k := bus.Key{Tenant: tenant, ID: id}
	_, err := l.Update(t.Context(), k, meta, func(thing) (thing, error) { return thing{N: n}, nil })
	if api.CodeOf(err) == api.CodeNotFound && err != nil {
		_, err = l.Create(t.Context(), k, meta, thing{N: n})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestFollowPart(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	ctx := testContext(t)
	owner := bustest.Connect(t, srv, ring, "tcagent")
	l, err := bus.OpenLedger[thing](ctx, owner, bus.LedgerConfig{Noun: api.NounPlans, History: 4, Live: api.LivePlansPrefix})
	if err != nil {
		t.Fatal(err)
	}
	put := func(tenant, id string, n int) {
		t.Helper()
		put(t, l, tenant, id, n)
	}
	put("node1", "s1", 1)
	put("node1", "s2", 1)
	put("node2", "s3", 1)

	url := srv.URL()
	seen := startPart(t, bustest.Connect(t, srv, ring, "tcagent"), "node1")
	seen.becomes(t, map[string]int{"s1": 1, "s2": 1})

	for i := range 600 { // more than wait for a follower
		put("node1", fmt.Sprintf("s%d", 1+i%2), i)
	}
	put("node2", "s3", 7)
	seen.becomes(t, map[string]int{"s1": 598, "s2": 599})
	if err := l.Delete(ctx, bus.Key{Tenant: "node1", ID: "s2"}, 0, meta); err != nil {
		t.Fatal(err)
	}
	seen.becomes(t, map[string]int{"s1": 598})
	t.Run("with no consumer", func(t *testing.T) {
		js, err := jetstream.New(owner.NATS())
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(ctx, "PLANS")
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Consumers; n != 0 {
			t.Errorf("%d consumers", n)
		}
	})
	outer := t // the follower ends with it
	t.Run("across the bus's absence", func(t *testing.T) {
		srv.Close()
		bustest.Start(outer, ring, dir, strings.TrimPrefix(url, "nats://"))
		put("node1", "s1", 1000)
		put("node1", "s4", 4)
		seen.becomes(t, map[string]int{"s1": 1000, "s4": 4})
	})
}

// TestFollowPartAnew: a bus that lost its data counts from the beginning again; who followed it before believes what is new there.
func TestFollowPartAnew(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	srv := bustest.Start(t, ring, t.TempDir(), "127.0.0.1:0")
	open := func() *bus.Ledger[thing] {
		t.Helper()
		l, err := bus.OpenLedger[thing](testContext(t), bustest.Connect(t, srv, ring, "tcagent"), bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := open()
	for n := range 20 {
		put(t, first, "node1", "s1", n)
	}
	put(t, first, "node1", "s2", 1)
	seen := startPart(t, bustest.ConnectNode(t, srv, ring, "node1"), "node1")
	seen.becomes(t, map[string]int{"s1": 19, "s2": 1})

	url := srv.URL()
	srv.Close()
	srv = bustest.Start(t, ring, t.TempDir(), strings.TrimPrefix(url, "nats://"))
	second := open()
	put(t, second, "node1", "s1", 100)
	seen.becomes(t, map[string]int{"s1": 100, "s2": 1})
	put(t, second, "node1", "s3", 3)
	put(t, second, "node1", "s1", 101)
	seen.becomes(t, map[string]int{"s1": 101, "s2": 1, "s3": 3})
	put(t, second, "node1", "s2", 2)
	if err := second.Delete(testContext(t), bus.Key{Tenant: "node1", ID: "s1"}, 0, meta); err != nil {
		t.Fatal(err)
	}
	seen.becomes(t, map[string]int{"s2": 2, "s3": 3})
}

// TestFollowPartOfMany: a part may have more entities than the bus answers for at once.
func TestFollowPartOfMany(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	srv := bustest.Start(t, ring, t.TempDir(), "127.0.0.1:0")
	l, err := bus.OpenLedger[thing](testContext(t), bustest.Connect(t, srv, ring, "tcagent"), bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	var wg sync.WaitGroup
	for w := range 8 {
		for i := w; i < 1100; i += 8 { // the bus answers for 1,024
			want[fmt.Sprintf("s%d", i)] = i
		}
		wg.Go(func() {
			for i := w; i < 1100; i += 8 {
				if _, err := l.Create(t.Context(), bus.Key{Tenant: "node1", ID: fmt.Sprintf("s%d", i)}, meta, thing{N: i}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	put(t, l, "node2", "s1", 7)
	seen := startPart(t, bustest.ConnectNode(t, srv, ring, "node1"), "node1")
	seen.becomes(t, want)
	few := startPart(t, bustest.ConnectNode(t, srv, ring, "node2"), "node2")
	few.becomes(t, map[string]int{"s1": 7})
	if few.n != 1 {
		t.Errorf("%d changes were told, of one", few.n)
	}
}

// TestCrowd: what connects as one of thousands is back after the bus was away, too.
func TestCrowd(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	url := srv.URL()
	creds, err := ring.NodeCredentials("node1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.Connect(bus.Config{URL: url, Credentials: creds, Name: bus.NodeService, Crowd: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.NATS().Close)
	if err := c.Ready(testContext(t)); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	bustest.Start(t, ring, dir, strings.TrimPrefix(url, "nats://"))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(2 * patience); c.Ready(t.Context()) != nil; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it is not back")
		}
	}
}
