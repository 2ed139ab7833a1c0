package bus_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// seen records what OnChange told.
type seen struct {
	mu   sync.Mutex
	revs map[bus.Key][]uint64
	olds map[bus.Key][]uint64
	dels int
}

func (s *seen) onChange(old *bus.Entry[thing], now bus.Entry[thing]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revs == nil {
		s.revs, s.olds = map[bus.Key][]uint64{}, map[bus.Key][]uint64{}
	}
	s.revs[now.Key] = append(s.revs[now.Key], now.Rev)
	var was uint64
	if old != nil {
		was = old.Rev
	}
	s.olds[now.Key] = append(s.olds[now.Key], was)
	if now.Deleted {
		s.dels++
	}
}

func (s *seen) last(k bus.Key) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.revs[k]; len(r) > 0 {
		return r[len(r)-1]
	}
	return 0
}

// checkChain fails unless each change of each key was told once, in order, with its predecessor.
func (s *seen) checkChain(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, revs := range s.revs {
		var before uint64
		for i, rev := range revs {
			if rev <= before || s.olds[k][i] != before {
				t.Fatalf("%v: told %v with old %v", k, revs, s.olds[k])
			}
			before = rev
		}
	}
}

func byOwner(e bus.Entry[thing]) []string { return []string{e.State.Owner} }

func TestView(t *testing.T) {
	srv, ring := bustest.New(t)
	l, ctx := openThings(t, bustest.Connect(t, srv, ring, "sessions"), 0), testContext(t)
	for i := range 20 {
		owner := fmt.Sprint("u", i%2)
		if _, err := l.Create(ctx, bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}, meta, thing{Owner: owner, N: i}); err != nil {
			t.Fatal(err)
		}
	}
	// The oldest entity is changed last; its place in the lists stays.
	if _, err := l.Update(ctx, bus.Key{Tenant: "acme", ID: "s0"}, meta, func(s thing) (thing, error) { s.N = 100; return s, nil }); err != nil {
		t.Fatal(err)
	}

	var told seen
	reader := bus.ReadLedger[thing](bustest.Connect(t, srv, ring, "gateway"), "sessions")
	v := reader.View(bus.ViewConfig[thing]{
		Indexes:  map[string]func(bus.Entry[thing]) []string{"owner": byOwner},
		OnChange: told.onChange,
	})
	running(t, v.Run)
	await(t, v.Ready(), "the view")

	t.Run("counts what is coming once", func(t *testing.T) {
		there := v.List("owner", "u0", 0, 1, nil)[0].Key
		if n := v.LenWith("owner", "u0", slices.Values([]bus.Key{there, {Tenant: there.Tenant, ID: "not-yet"}})); n != 11 {
			t.Fatalf("u0 owns or is to own %d", n)
		}
	})
	t.Run("lists newest first, in pages, filtered", func(t *testing.T) {
		if n := v.Len("owner", "u0"); n != 10 {
			t.Fatalf("u0 owns %d", n)
		}
		var got []int
		var before uint64
		for {
			page := v.List("owner", "u0", before, 3, nil)
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				got = append(got, e.State.N)
				before = e.Created
			}
		}
		if fmt.Sprint(got) != "[18 16 14 12 10 8 6 4 2 100]" {
			t.Fatalf("listed %v", got)
		}
		odd := v.List("owner", "u1", 0, 100, func(e bus.Entry[thing]) bool { return e.State.N > 15 })
		if len(odd) != 2 || odd[0].State.N != 19 || odd[1].State.N != 17 {
			t.Fatalf("kept %+v", odd)
		}
		if v.List("none", "u0", 0, 10, nil) != nil || v.List("owner", "nobody", 0, 10, nil) != nil {
			t.Fatal("listed what is not there")
		}
	})

	t.Run("an entry moves between lists", func(t *testing.T) {
		e, err := l.Update(ctx, bus.Key{Tenant: "acme", ID: "s4"}, meta, func(s thing) (thing, error) { s.Owner = "u1"; return s, nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Wait(ctx, e.Key, func(g bus.Entry[thing]) bool { return g.Rev == e.Rev }); err != nil {
			t.Fatal(err)
		}
		if v.Len("owner", "u0") != 9 || v.Len("owner", "u1") != 11 {
			t.Fatalf("u0 %d, u1 %d", v.Len("owner", "u0"), v.Len("owner", "u1"))
		}
		list := v.List("owner", "u1", 0, 100, nil)
		for i := 1; i < len(list); i++ {
			if list[i].Created >= list[i-1].Created {
				t.Fatalf("out of order at %d", i)
			}
		}
	})

	t.Run("a deleted entry leaves", func(t *testing.T) {
		k := bus.Key{Tenant: "acme", ID: "s6"}
		if err := l.Delete(ctx, k, 0, meta); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is gone", func() bool { _, ok := v.Get(k); return !ok })
		if v.Len("owner", "u0") != 8 {
			t.Fatalf("u0 %d", v.Len("owner", "u0"))
		}
		again, err := l.Create(ctx, k, meta, thing{Owner: "u0"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Wait(ctx, k, func(g bus.Entry[thing]) bool { return g.Rev == again.Rev }); err != nil {
			t.Fatal(err)
		}
		if first := v.List("owner", "u0", 0, 1, nil); first[0].Key != k {
			t.Fatalf("the newest is %+v", first[0])
		}
	})

	t.Run("a purged entry leaves", func(t *testing.T) {
		k := bus.Key{Tenant: "acme", ID: "s8"}
		if err := l.Purge(ctx, k); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is gone", func() bool { _, ok := v.Get(k); return !ok })
	})

	t.Run("wait ends with its context", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_, err := v.Wait(short, bus.Key{Tenant: "acme", ID: "none"}, func(bus.Entry[thing]) bool { return true })
		wantCode(t, err, api.CodeUnavailable)
	})

	n := 0
	v.All(func(bus.Entry[thing]) bool { n++; return true })
	if n != 19 {
		t.Fatalf("%d live entries", n)
	}
}

// A process reads its own writes from its view at once, and hears of each once.
func TestViewReadsOwnWrites(t *testing.T) {
	l, ctx := newThings(t), testContext(t)
	var told seen
	v := l.View(bus.ViewConfig[thing]{OnChange: told.onChange})
	running(t, v.Run)
	await(t, v.Ready(), "the view")

	first, err := l.Create(ctx, key, meta, thing{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		e, err := l.Update(ctx, key, meta, increment)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := v.Get(key); !ok || got.Rev != e.Rev || got.Created != first.Rev || e.Created != first.Rev || got.State.N != i+1 {
			t.Fatalf("after %+v the view has %+v", e, got)
		}
	}
	if err := l.Delete(ctx, key, 0, meta); err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Get(key); ok {
		t.Fatal("deleted, but in the view")
	}
	last, err := l.Create(ctx, key, meta, thing{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is told", func() bool { return told.last(key) == last.Rev })
	told.mu.Lock()
	defer told.mu.Unlock()
	if n := len(told.revs[key]); n != 303 || told.dels != 1 {
		t.Fatalf("told %d changes, %d deletions", n, told.dels)
	}
}

// A view loses and repeats nothing while the server is stopped and started again.
func TestViewAcrossServerRestart(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	listen := srv.URL()[len("nats://"):]
	writer := openThings(t, bustest.Connect(t, srv, ring, "sessions"), 0)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()

	var told seen
	v := bus.ReadLedger[thing](bustest.Connect(t, srv, ring, "gateway"), "sessions").View(bus.ViewConfig[thing]{OnChange: told.onChange})
	running(t, v.Run)
	await(t, v.Ready(), "the view")

	const keys, each = 4, 150
	for i := range keys {
		if _, err := writer.Create(ctx, bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}, meta, thing{}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			for range each {
				for {
					try, cancel := context.WithTimeout(ctx, 10*time.Second)
					_, err := writer.Update(try, bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}, meta, increment)
					cancel()
					if err == nil {
						break
					}
					t.Errorf("update: %v", err) // the deadline is longer than a restart
					if ctx.Err() != nil {
						return
					}
				}
			}
		})
	}
	for range 2 {
		eventually(t, "some changes came", func() bool { told.mu.Lock(); defer told.mu.Unlock(); return len(told.revs) == keys })
		srv.Close()
		srv = bustest.Start(t, ring, dir, listen)
	}
	wg.Wait()
	for i := range keys {
		k := bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}
		e, err := writer.Get(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		if e.State.N != each {
			t.Errorf("%v: %d of %d updates are kept", k, e.State.N, each)
		}
		eventually(t, "the view caught up", func() bool { return told.last(k) == e.Rev })
		told.mu.Lock()
		if n := len(told.revs[k]); n != each+1 {
			t.Errorf("%v: %d of %d changes were told", k, n, each+1)
		}
		told.mu.Unlock()
	}
	told.checkChain(t)
}

// TestViewWakesAll: of several that waited for one entity only the last was woken.
func TestViewWakesAll(t *testing.T) {
	srv, ring := bustest.New(t)
	l, ctx := openThings(t, bustest.Connect(t, srv, ring, "sessions"), 0), testContext(t)
	v := bus.ReadLedger[thing](bustest.Connect(t, srv, ring, "gateway"), "sessions").View(bus.ViewConfig[thing]{})
	running(t, v.Run)
	await(t, v.Ready(), "the view")
	if _, err := l.Create(ctx, key, meta, thing{}); err != nil {
		t.Fatal(err)
	}
	const waiters = 5
	var waiting sync.WaitGroup
	waiting.Add(waiters)
	woken := make(chan error, waiters)
	for range waiters {
		go func() {
			first := sync.OnceFunc(waiting.Done)
			_, err := v.Wait(ctx, key, func(e bus.Entry[thing]) bool {
				defer first() // it is among those who are woken before it looks
				return e.State.N == 1
			})
			woken <- err
		}()
	}
	waiting.Wait()
	if _, err := l.Update(ctx, key, meta, func(s thing) (thing, error) { s.N = 1; return s, nil }); err != nil {
		t.Fatal(err)
	}
	for range waiters {
		if err := <-woken; err != nil {
			t.Error(err)
		}
	}
}

// What the stream drops by age leaves the view, also of a process that did not set the age.
func TestViewDropsWhatAged(t *testing.T) {
	srv, ring := bustest.New(t)
	c := bustest.Connect(t, srv, ring, "gateway")
	ctx := testContext(t)
	l, err := bus.OpenLedger[thing](ctx, c, bus.LedgerConfig{Noun: "tickets", MaxAge: 1500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	v := bus.ReadLedger[thing](c, "tickets").View(bus.ViewConfig[thing]{
		Indexes: map[string]func(bus.Entry[thing]) []string{"owner": byOwner},
	})
	running(t, v.Run)
	if _, err := l.Create(ctx, key, meta, thing{Owner: "u1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Wait(ctx, key, func(bus.Entry[thing]) bool { return true }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it aged", func() bool { return v.Len("owner", "u1") == 0 })
	if _, ok := v.Get(key); ok {
		t.Fatal("still there")
	}
}
