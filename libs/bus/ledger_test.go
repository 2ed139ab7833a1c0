package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

type thing struct {
	Owner string `json:"owner"`
	N     int    `json:"n"`
}

var (
	key  = bus.Key{Tenant: "acme", ID: "s1"}
	meta = bus.Meta{Actor: "u1", Verb: "test", Reason: "because"}
)

func openThings(t testing.TB, c *bus.Conn, history int64) *bus.Ledger[thing] {
	t.Helper()
	l, err := bus.OpenLedger[thing](testContext(t), c, bus.LedgerConfig{Noun: "sessions", History: history})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newThings(t testing.TB) *bus.Ledger[thing] {
	srv, ring := bustest.New(t)
	return openThings(t, bustest.Connect(t, srv, ring, "sessions"), 0)
}

func wantCode(t testing.TB, err error, want api.Code) {
	t.Helper()
	if err == nil || api.CodeOf(err) != want {
		t.Fatalf("error %v, want code %s", err, want)
	}
}

func increment(s thing) (thing, error) { s.N++; return s, nil }

func TestReplace(t *testing.T) {
	l, ctx := newThings(t), testContext(t)
	e, err := l.Create(ctx, key, meta, thing{N: 1})
	if err != nil {
		t.Fatal(err)
	}
	created := e.Rev
	for n := 2; n < 5; n++ {
		if e, err = l.Replace(ctx, e, meta, thing{N: n}); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := l.Get(ctx, key); err != nil || now.State.N != 4 || now.Rev != e.Rev || now.Created != created {
		t.Errorf("%+v %v", now, err)
	}
	if _, err := l.Update(ctx, key, meta, increment); err != nil {
		t.Fatal(err)
	}
	_, err = l.Replace(ctx, e, meta, thing{N: 100})
	wantCode(t, err, api.CodeConflict)
}

func TestLedger(t *testing.T) {
	l, ctx := newThings(t), testContext(t)

	t.Run("get of nothing is not found", func(t *testing.T) {
		_, err := l.Get(ctx, key)
		wantCode(t, err, api.CodeNotFound)
		_, err = l.Update(ctx, key, meta, increment)
		wantCode(t, err, api.CodeNotFound)
		if err := l.Delete(ctx, key, 0, meta); err != nil {
			t.Fatalf("deleting what is gone: %v", err)
		}
	})

	first, err := l.Create(ctx, key, meta, thing{Owner: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("create writes the first change", func(t *testing.T) {
		e, err := l.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if e.Rev != first.Rev || e.Created != first.Rev || e.State.Owner != "u1" || e.Actor != "u1" ||
			e.Verb != "test" || e.Reason != "because" || e.At.IsZero() || e.Key != key {
			t.Fatalf("got %+v, created %+v", e, first)
		}
		_, err = l.Create(ctx, key, meta, thing{})
		wantCode(t, err, api.CodeConflict)
	})

	t.Run("update keeps when it was created", func(t *testing.T) {
		e, err := l.Update(ctx, key, meta, increment)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if got.Rev != e.Rev || got.Created != first.Rev || got.State.N != 1 || e.Created != first.Rev {
			t.Fatalf("got %+v, updated %+v", got, e)
		}
	})

	t.Run("unchanged writes nothing", func(t *testing.T) {
		before, _ := l.Get(ctx, key)
		e, err := l.Update(ctx, key, meta, func(thing) (thing, error) { return thing{}, fmt.Errorf("no: %w", bus.ErrUnchanged) })
		if err != nil || e.Rev != before.Rev || e.State != before.State {
			t.Fatalf("got %+v, %v; want %+v", e, err, before)
		}
	})

	t.Run("returns the function's error", func(t *testing.T) {
		mine := errors.New("mine")
		if _, err := l.Update(ctx, key, meta, func(thing) (thing, error) { return thing{}, mine }); !errors.Is(err, mine) {
			t.Fatal(err)
		}
	})

	t.Run("update at a revision", func(t *testing.T) {
		_, err := l.UpdateAt(ctx, key, first.Rev, meta, increment)
		wantCode(t, err, api.CodeConflict)
		now, _ := l.Get(ctx, key)
		if _, err := l.UpdateAt(ctx, key, now.Rev, meta, increment); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("history is oldest first and pages", func(t *testing.T) {
		all, err := l.History(ctx, key, 0, 100)
		if err != nil || len(all) != 3 {
			t.Fatalf("%d changes, %v", len(all), err)
		}
		for i, c := range all {
			if c.State.N != i {
				t.Fatalf("change %d is %+v", i, c)
			}
		}
		page, err := l.History(ctx, key, all[0].Rev, 1)
		if err != nil || len(page) != 1 || page[0].Rev != all[1].Rev {
			t.Fatalf("page %+v, %v", page, err)
		}
		none, err := l.History(ctx, key, all[2].Rev, 10)
		if err != nil || len(none) != 0 {
			t.Fatalf("after the last: %+v, %v", none, err)
		}
	})

	t.Run("delete leaves a tombstone and history", func(t *testing.T) {
		wantCode(t, l.Delete(ctx, key, first.Rev, meta), api.CodeConflict)
		if err := l.Delete(ctx, key, 0, meta); err != nil {
			t.Fatal(err)
		}
		_, err := l.Get(ctx, key)
		wantCode(t, err, api.CodeNotFound)
		all, err := l.History(ctx, key, 0, 100)
		if err != nil || len(all) != 4 || !all[3].Deleted {
			t.Fatalf("%+v, %v", all, err)
		}
		again, err := l.Create(ctx, key, meta, thing{N: 7})
		if err != nil || again.Created != again.Rev || again.Created == first.Created {
			t.Fatalf("created again %+v, %v", again, err)
		}
	})

	t.Run("forget leaves the newest change", func(t *testing.T) {
		other := bus.Key{Tenant: key.Tenant, ID: "forgetful"}
		if _, err := l.Create(ctx, other, meta, thing{N: 1}); err != nil {
			t.Fatal(err)
		}
		e, err := l.Update(ctx, other, meta, func(thing) (thing, error) { return thing{N: 2}, nil })
		if err == nil {
			err = l.Forget(ctx, other)
		}
		if err != nil {
			t.Fatal(err)
		}
		all, err := l.History(ctx, other, 0, 100)
		if err != nil || len(all) != 1 || all[0].Rev != e.Rev || all[0].State.N != 2 {
			t.Errorf("%+v, %v", all, err)
		}
	})

	t.Run("purge on a condition spares what was changed", func(t *testing.T) {
		wantCode(t, l.PurgeAt(ctx, key, first.Rev), api.CodeConflict)
		now, err := l.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		other := bus.Key{Tenant: key.Tenant, ID: "other"}
		e, err := l.Create(ctx, other, meta, thing{N: 1})
		if err == nil {
			err = l.PurgeAt(ctx, other, e.Rev)
		}
		if err != nil || now.Rev == first.Rev {
			t.Fatal(err)
		}
		_, err = l.Get(ctx, other)
		wantCode(t, err, api.CodeNotFound)
	})

	t.Run("purge leaves nothing to read", func(t *testing.T) {
		if err := l.Purge(ctx, key); err != nil {
			t.Fatal(err)
		}
		_, err := l.Get(ctx, key)
		wantCode(t, err, api.CodeNotFound)
		all, err := l.History(ctx, key, 0, 100)
		if err != nil || len(all) != 1 || !all[0].Deleted || all[0].State != (thing{}) {
			t.Fatalf("%+v, %v", all, err)
		}
	})
}

func TestLedgerRefusesUnsafeKeys(t *testing.T) {
	l, ctx := newThings(t), testContext(t)
	for _, bad := range []string{"", "a.b", "*", ">", "a b", "a\tb", "é", "a\r\nb", strings.Repeat("x", 200)} {
		for _, k := range []bus.Key{{Tenant: bad, ID: "s1"}, {Tenant: "acme", ID: bad}} {
			_, err := l.Create(ctx, k, meta, thing{})
			wantCode(t, err, api.CodeInvalid)
			_, err = l.Get(ctx, k)
			wantCode(t, err, api.CodeInvalid)
			_, err = l.History(ctx, k, 0, 1)
			wantCode(t, err, api.CodeInvalid)
			wantCode(t, l.Purge(ctx, k), api.CodeInvalid)
		}
	}
}

// Each of many concurrent updates is applied exactly once, with and without a view.
func TestLedgerConcurrentUpdates(t *testing.T) {
	for _, viewed := range []bool{false, true} {
		t.Run(fmt.Sprintf("view=%v", viewed), func(t *testing.T) {
			l, ctx := newThings(t), testContext(t)
			if viewed {
				v := l.View(bus.ViewConfig[thing]{})
				running(t, v.Run)
				await(t, v.Ready(), "the view")
			}
			const keys, writers, each = 8, 16, 15
			for i := range keys {
				if _, err := l.Create(ctx, bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}, meta, thing{}); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := range each {
						k := bus.Key{Tenant: "acme", ID: fmt.Sprint("s", (w+i)%keys)}
						if _, err := l.Update(context.Background(), k, meta, increment); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			total := 0
			for i := range keys {
				e, err := l.Get(ctx, bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)})
				if err != nil {
					t.Fatal(err)
				}
				total += e.State.N
			}
			if total != writers*each {
				t.Fatalf("%d increments are kept, %d were acknowledged", total, writers*each)
			}
		})
	}
}

func TestLedgerKeepsBoundedHistory(t *testing.T) {
	srv, ring := bustest.New(t)
	l, ctx := openThings(t, bustest.Connect(t, srv, ring, "sessions"), 3), testContext(t)
	if _, err := l.Create(ctx, key, meta, thing{}); err != nil {
		t.Fatal(err)
	}
	first, _ := l.Get(ctx, key)
	for range 5 {
		if _, err := l.Update(ctx, key, meta, increment); err != nil {
			t.Fatal(err)
		}
	}
	all, err := l.History(ctx, key, 0, 100)
	if err != nil || len(all) != 3 || all[0].State.N != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	e, err := l.Get(ctx, key)
	if err != nil || e.Created != first.Created {
		t.Fatalf("%+v, %v; created at %d", e, err, first.Created)
	}
}
