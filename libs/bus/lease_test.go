package bus_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

type term struct {
	fence uint64
	ctx   context.Context
	begun time.Time
}

// candidate competes for a lease and reports each term.
func candidate(t *testing.T, c *bus.Conn, holder string, ttl time.Duration, terms chan<- term, leading *atomic.Int32) (stop func()) {
	t.Helper()
	l := bus.NewLease(c, bus.LeaseConfig{Service: "sessions", Name: "reconciler", Holder: holder, TTL: ttl})
	return running(t, func(ctx context.Context) error {
		return l.Run(ctx, func(ctx context.Context, fence uint64) {
			if n := leading.Add(1); n != 1 {
				t.Errorf("%d lead at once", n)
			}
			terms <- term{fence, ctx, time.Now()}
			<-ctx.Done()
			leading.Add(-1)
		})
	})
}

func nextTerm(t *testing.T, terms <-chan term) term {
	t.Helper()
	select {
	case x := <-terms:
		return x
	case <-time.After(patience):
		t.Fatal("nobody leads")
		return term{}
	}
}

func TestLease(t *testing.T) {
	srv, ring := bustest.New(t)
	terms := make(chan term, 10)
	var leading atomic.Int32
	const ttl = 900 * time.Millisecond
	stopA := candidate(t, bustest.Connect(t, srv, ring, "sessions"), "a", ttl, terms, &leading)
	first := nextTerm(t, terms)
	b := bustest.Connect(t, srv, ring, "sessions")
	candidate(t, b, "b", ttl, terms, &leading)

	t.Run("is kept by renewing", func(t *testing.T) {
		select {
		case <-first.ctx.Done():
			t.Fatal("lost")
		case x := <-terms:
			t.Fatalf("%+v leads too", x)
		case <-time.After(3 * ttl):
		}
	})

	t.Run("is taken at once when released", func(t *testing.T) {
		released := time.Now()
		stopA()
		second := nextTerm(t, terms)
		if second.fence <= first.fence {
			t.Errorf("fence %d after %d", second.fence, first.fence)
		}
		if d := second.begun.Sub(released); d > ttl {
			t.Errorf("taken after %v", d)
		}
		if first.ctx.Err() == nil {
			t.Error("the first still leads")
		}
	})

	t.Run("is lost when the bus is away, before another has it", func(t *testing.T) {
		begun := leading.Load()
		if begun != 1 {
			t.Fatalf("%d lead", begun)
		}
		b.NATS().Close() // as a process that is cut off
		cut := time.Now()
		candidate(t, bustest.Connect(t, srv, ring, "sessions"), "c", ttl, terms, &leading)
		third := nextTerm(t, terms) // candidate checks that b has stopped
		if d := third.begun.Sub(cut); d > ttl+ttl/2+time.Second {
			t.Errorf("taken after %v", d)
		}
	})
}

// TestLeaseReady: who cannot lead yet only watches, and what it has watched counts.
func TestLeaseReady(t *testing.T) {
	srv, ring := bustest.New(t)
	c := bustest.Connect(t, srv, ring, "sessions")
	terms := make(chan term, 10)
	var leading atomic.Int32
	const ttl = 3 * time.Second
	conn := bustest.Connect(t, srv, ring, "sessions")
	candidate(t, conn, "a", ttl, terms, &leading)
	nextTerm(t, terms)
	ready := make(chan struct{})
	took := make(chan time.Time, 1)
	l := bus.NewLease(c, bus.LeaseConfig{Service: "sessions", Name: "reconciler", Holder: "b", TTL: ttl, Ready: ready})
	running(t, func(ctx context.Context) error {
		return l.Run(ctx, func(ctx context.Context, _ uint64) {
			took <- time.Now()
			<-ctx.Done()
		})
	})
	conn.NATS().Close() // as a process that is cut off
	select {
	case <-took:
		t.Fatal("it leads before it can")
	case <-time.After(2 * ttl): // the lease has run out
	}
	close(ready)
	able := time.Now()
	select {
	case at := <-took:
		if d := at.Sub(able); d >= ttl {
			t.Errorf("it waited %v for a lease that had run out", d)
		}
	case <-time.After(patience):
		t.Fatal("it never leads")
	}
}
