package limit

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMemory(t *testing.T) {
	testBehaviour(t, func(t *testing.T) limiterAndCache {
		s, _ := open(t, Config{})
		return s
	})
}

func TestMemoryIsBounded(t *testing.T) {
	t.Run("forgets full buckets first", func(t *testing.T) {
		now := time.Unix(0, 0)
		m := newMemory(shards*8, 1<<20, func() time.Time { return now })
		m.take("debtor", 1, slow(1))
		for i := range 10_000 {
			now = now.Add(time.Millisecond) // each of these is full again before the next
			m.take(fmt.Sprint(i), 1, Rate{PerSecond: 2000, Burst: 1})
		}
		if d := m.take("debtor", 1, slow(1)); d.Allowed {
			t.Error("a bucket in use was forgotten for full ones")
		}
	})
	t.Run("keeps so many buckets and no more", func(t *testing.T) {
		m := newMemory(shards*8, 1<<20, time.Now)
		for i := range 10_000 {
			if d := m.take(fmt.Sprint(i), 1, slow(1)); !d.Allowed {
				t.Fatalf("a new key is denied: %+v", d)
			}
		}
		n := 0
		for i := range m.buckets {
			n += len(m.buckets[i].fullAt)
		}
		if n > shards*8 {
			t.Errorf("%d buckets are kept", n)
		}
	})
	t.Run("keeps so many bytes and no more", func(t *testing.T) {
		const limit = 1 << 20
		m := newMemory(1, limit, time.Now)
		value := make([]byte, 1000)
		for i := range 10_000 {
			m.set(fmt.Sprint(i), value, time.Hour)
			m.set("same", value, time.Hour) // replacing must not count twice
		}
		m.set("huge", make([]byte, limit), time.Hour)
		if _, _, ok := m.get("huge"); ok {
			t.Error("a value that fills the cache is kept")
		}
		total, kept := 0, 0
		for i := range m.cache {
			sum := 0
			for _, key := range m.cache[i].lru.Keys() {
				c, _ := m.cache[i].lru.Peek(key)
				sum += size(key, c.value)
				kept++
			}
			if sum != m.cache[i].bytes {
				t.Errorf("shard %d counts %d bytes and holds %d", i, m.cache[i].bytes, sum)
			}
			total += sum
		}
		if total > limit || kept < 500 {
			t.Errorf("%d values of %d bytes are kept", kept, total)
		}
		if _, _, ok := m.get("same"); !ok {
			t.Error("the value used last is gone")
		}
		m.purge()
		for i := range m.cache {
			if m.cache[i].bytes != 0 {
				t.Errorf("shard %d counts %d bytes after purge", i, m.cache[i].bytes)
			}
		}
	})
}

func TestRunWithoutRedisStartsNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	s := Open(Config{Logger: slog.New(slog.DiscardHandler)})
	s.Take(t.Context(), "k", 1, slow(1))
	s.Set(t.Context(), "k", nil, time.Minute)
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	if s.Degraded() {
		t.Error("memory by choice is not degraded")
	}
}

func FuzzTake(f *testing.F) {
	f.Add(5.0, 3, 1, int64(100))
	f.Add(1e-9, 1, 2, int64(0))
	f.Add(1e18, -1, -1, int64(-5))
	f.Fuzz(func(t *testing.T, perSecond float64, burst, n int, wait int64) {
		now := time.Unix(0, 0)
		m := newMemory(64, 1<<10, func() time.Time { return now })
		rate := Rate{PerSecond: perSecond, Burst: burst}
		for range 3 {
			d := m.take("k", n, rate)
			if d == unlimited {
				return
			}
			if d.Remaining < 0 || d.Remaining > d.Limit || d.Reset < 0 || d.RetryAfter < 0 || d.Allowed == (d.RetryAfter > 0) {
				t.Fatalf("%+v, n %d: %+v", rate, n, d)
			}
			if d.Allowed && n > d.Limit {
				t.Fatalf("%+v, n %d: allowed", rate, n)
			}
			now = now.Add(time.Duration(wait % int64(time.Hour)))
		}
	})
}

func BenchmarkTake(b *testing.B) {
	m := newMemory(1<<16, 1<<20, time.Now)
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = strings.Repeat("k", 20) + fmt.Sprint(i)
	}
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			m.take(keys[i%len(keys)], 1, Rate{PerSecond: 1000, Burst: 1000})
		}
	})
}
