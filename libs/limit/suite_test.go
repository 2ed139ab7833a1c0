package limit

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// slow refills so slowly that no test sees a token come back.
func slow(burst int) Rate { return Rate{PerSecond: 0.001, Burst: burst} }

// eventually polls until ok answers true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// limiterAndCache is what the behaviour suite runs on. Each call of newStore returns one that shares nothing with the others.
type limiterAndCache interface {
	Limiter
	Cache
}

func testBehaviour(t *testing.T, newStore func(t *testing.T) limiterAndCache) {
	t.Run("Take", func(t *testing.T) { testTake(t, newStore) })
	t.Run("Cache", func(t *testing.T) { testCache(t, newStore) })
}

func testTake(t *testing.T, newStore func(t *testing.T) limiterAndCache) {
	t.Run("allows a burst and then denies", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		for i := range 5 {
			d := s.Take(ctx, "k", 1, slow(5))
			if !d.Allowed || d.Limit != 5 || d.Remaining != 4-i || d.RetryAfter != 0 {
				t.Fatalf("take %d: %+v", i, d)
			}
		}
		d := s.Take(ctx, "k", 1, slow(5))
		if d.Allowed || d.Limit != 5 || d.Remaining != 0 {
			t.Errorf("got %+v, want a denial", d)
		}
		// A token takes 1,000 s; the test so far at most a few.
		if d.RetryAfter > 1000*time.Second || d.RetryAfter < 980*time.Second {
			t.Errorf("retry after %v, want just under 1000 s", d.RetryAfter)
		}
		if d.Reset > 5000*time.Second || d.Reset < 4980*time.Second {
			t.Errorf("reset in %v, want just under 5000 s", d.Reset)
		}
	})
	t.Run("takes all or none", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		if d := s.Take(ctx, "k", 4, slow(5)); !d.Allowed || d.Remaining != 1 {
			t.Fatalf("got %+v", d)
		}
		if d := s.Take(ctx, "k", 2, slow(5)); d.Allowed || d.Remaining != 1 || d.RetryAfter > 1000*time.Second {
			t.Errorf("two of one: %+v", d)
		}
		if d := s.Take(ctx, "k", 1, slow(5)); !d.Allowed || d.Remaining != 0 {
			t.Errorf("the one that is left: %+v", d)
		}
	})
	t.Run("never allows more than the burst", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		for _, n := range []int{6, 1 << 40} {
			if d := s.Take(ctx, "k", n, slow(5)); d.Allowed || d.RetryAfter <= 0 {
				t.Errorf("%d: %+v", n, d)
			}
		}
		if d := s.Take(ctx, "k", 5, slow(5)); !d.Allowed {
			t.Errorf("the denied ones have taken something: %+v", d)
		}
	})
	t.Run("shows the bucket for none", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		s.Take(ctx, "k", 2, slow(2))
		for _, n := range []int{0, -3} {
			if d := s.Take(ctx, "k", n, slow(2)); !d.Allowed || d.Remaining != 0 || d.Reset <= 0 {
				t.Errorf("%d: %+v", n, d)
			}
		}
		if d := s.Take(ctx, "new", 0, slow(2)); d.Remaining != 2 || d.Reset != 0 {
			t.Errorf("a full bucket: %+v", d)
		}
	})
	t.Run("refills, and is right about when", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		rate := Rate{PerSecond: 20, Burst: 1} // a token in 50 ms
		begin := time.Now()
		s.Take(ctx, "k", 1, rate)
		for got := 0; got < 3; {
			d := s.Take(ctx, "k", 1, rate)
			if d.Allowed {
				got++
				continue
			}
			if d.RetryAfter <= 0 || d.RetryAfter > 50*time.Millisecond {
				t.Fatalf("got %+v", d)
			}
			<-time.After(d.RetryAfter)
			if d := s.Take(ctx, "k", 1, rate); !d.Allowed {
				t.Errorf("denied after waiting as told: %+v", d)
			}
			got++
		}
		if took := time.Since(begin); took < 145*time.Millisecond {
			t.Errorf("3 tokens came back in %v, want 150 ms", took)
		}
	})
	t.Run("never holds more than the burst", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		rate := Rate{PerSecond: 1000, Burst: 2}
		s.Take(ctx, "k", 2, rate)
		eventually(t, "the bucket is full", func() bool { return s.Take(ctx, "k", 0, rate).Reset == 0 })
		<-time.After(10 * time.Millisecond)
		if d := s.Take(ctx, "k", 0, rate); d.Remaining != 2 {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("keeps keys apart", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		long := strings.Repeat("k", 300)
		for _, key := range []string{"a", "b", "", "a b\r\nc", "ключ", long + "1", long + "2"} {
			if d := s.Take(ctx, key, 1, slow(1)); !d.Allowed {
				t.Errorf("%q: %+v", key, d)
			}
			if d := s.Take(ctx, key, 1, slow(1)); d.Allowed {
				t.Errorf("%q: allowed twice", key)
			}
		}
	})
	t.Run("follows a limit that is lowered", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		s.Take(ctx, "k", 100, slow(100))
		d := s.Take(ctx, "k", 1, slow(2))
		if d.Allowed || d.Reset > 2000*time.Second || d.RetryAfter > 1000*time.Second {
			t.Errorf("the old limit's debt counts: %+v", d)
		}
	})
	t.Run("does not limit without a rate", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		for range 3 {
			if d := s.Take(ctx, "k", 1000, Rate{}); d != unlimited {
				t.Errorf("got %+v", d)
			}
		}
	})
	t.Run("takes extreme rates", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		for i, rate := range []Rate{{1e-300, 1}, {1e300, 1}, {1e-300, 1 << 40}, {1e12, 1 << 40}, {5, 0}, {5, -1}} {
			d := s.Take(ctx, fmt.Sprint(i), 1, rate)
			if !d.Allowed || d.Reset < 0 || d.Limit < 1 || d.Remaining < 0 || d.Remaining > d.Limit {
				t.Errorf("%v: %+v", rate, d)
			}
		}
	})
	t.Run("counts exactly among concurrent callers", func(t *testing.T) {
		s := newStore(t)
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 20 {
					if s.Take(context.Background(), "k", 1, slow(100)).Allowed {
						allowed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if got := allowed.Load(); got != 100 {
			t.Errorf("%d of 400 were allowed, want 100", got)
		}
	})
}

func testCache(t *testing.T, newStore func(t *testing.T) limiterAndCache) {
	want := func(t *testing.T, s Cache, key, value string) {
		t.Helper()
		if got, ok := s.Get(t.Context(), key); !ok || string(got) != value {
			t.Errorf("%q: got %q, %v, want %q", key, got, ok, value)
		}
	}
	gone := func(t *testing.T, s Cache, key string) {
		t.Helper()
		if got, ok := s.Get(t.Context(), key); ok {
			t.Errorf("%q: got %q, want nothing", key, got)
		}
	}
	t.Run("gets what was set last", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		gone(t, s, "k")
		s.Set(ctx, "k", []byte("one"), time.Minute)
		want(t, s, "k", "one")
		s.Set(ctx, "k", []byte("two"), time.Minute)
		want(t, s, "k", "two")
		s.Delete(ctx, "k")
		gone(t, s, "k")
		s.Delete(ctx, "k")
	})
	t.Run("keeps empty and binary values and long keys", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		long := strings.Repeat("k", 5000)
		for key, value := range map[string]string{"empty": "", "binary": "\x00\r\n\xff", long + "1": "1", long + "2": "2"} {
			s.Set(ctx, key, []byte(value), time.Minute)
			want(t, s, key, value)
		}
		s.Set(ctx, "nil", nil, time.Minute)
		want(t, s, "nil", "")
	})
	t.Run("forgets after the ttl", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		s.Set(ctx, "k", []byte("v"), 20*time.Millisecond)
		s.Set(ctx, "zero", []byte("v"), 0)
		s.Set(ctx, "stays", []byte("v"), time.Minute)
		eventually(t, "the value expires", func() bool { _, ok := s.Get(ctx, "k"); return !ok })
		eventually(t, "the value without ttl expires", func() bool { _, ok := s.Get(ctx, "zero"); return !ok })
		want(t, s, "stays", "v")
	})
	t.Run("is not changed through a slice", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		in := []byte("value")
		s.Set(ctx, "k", in, time.Minute)
		copy(in, "XXXXX")
		got, _ := s.Get(ctx, "k")
		if !bytes.Equal(got, []byte("value")) {
			t.Errorf("got %q", got)
		}
		copy(got, "YYYYY")
		want(t, s, "k", "value")
	})
	t.Run("sets what is not set once", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		if !s.SetNX(ctx, "k", []byte("one"), 30*time.Millisecond) {
			t.Error("not set at first")
		}
		if s.SetNX(ctx, "k", []byte("two"), time.Minute) {
			t.Error("set twice")
		}
		eventually(t, "the key is free again", func() bool { return s.SetNX(ctx, "k", []byte("three"), time.Minute) })
		want(t, s, "k", "three")
		s.Delete(ctx, "k")
		if !s.SetNX(ctx, "k", []byte("four"), time.Minute) {
			t.Error("not set after Delete")
		}
	})
	t.Run("lets one of many set", func(t *testing.T) {
		s := newStore(t)
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				if s.SetNX(context.Background(), "k", fmt.Append(nil, i), time.Minute) {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d won", won.Load())
		}
	})
	t.Run("keeps buckets and values apart", func(t *testing.T) {
		s, ctx := newStore(t), t.Context()
		s.Set(ctx, "k", []byte("v"), time.Minute)
		if d := s.Take(ctx, "k", 1, slow(1)); !d.Allowed {
			t.Errorf("got %+v", d)
		}
		want(t, s, "k", "v")
	})
}
