package limit

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// shards keep callers for different keys out of each other's way.
	shards = 32
	// evictionSample is how many buckets are looked at to make room for one: enough that a full one is found when there are
	// some, few enough that a flood of keys costs little.
	evictionSample = 16
	// entryOverhead is what an entry of the cache costs beside its key and value.
	entryOverhead = 128
)

// memory limits and caches within one process. Both its parts are bounded: buckets in number, the cache in bytes.
type memory struct {
	seed  maphash.Seed
	start time.Time
	now   func() time.Time

	buckets    [shards]bucketShard
	maxBuckets int // of a shard
	cache      [shards]cacheShard
	maxBytes   int // of a shard
}

type bucketShard struct {
	mu     sync.Mutex
	fullAt map[string]float64 // microseconds since start
}

func newMemory(maxBuckets, maxBytes int, now func() time.Time) *memory {
	m := &memory{
		seed: maphash.MakeSeed(), start: now(), now: now,
		maxBuckets: max(maxBuckets/shards, 1), maxBytes: max(maxBytes/shards, 1),
	}
	for i := range shards {
		m.buckets[i].fullAt = map[string]float64{}
		m.cache[i].init()
	}
	return m
}

func (m *memory) shard(key string) int { return int(maphash.String(m.seed, key) % shards) }

// take is Limiter.Take.
func (m *memory) take(key string, n int, rate Rate) Decision {
	if !rate.limits() {
		return unlimited
	}
	n = max(n, 0)
	cost, capacity := rate.refill(n), rate.refill(rate.burst())
	s := &m.buckets[m.shard(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := float64(m.now().Sub(m.start)) / 1e3
	fullAt, known := s.fullAt[key]
	fullIn := max(0, min(fullAt-now, capacity))
	if n > rate.burst() || fullIn+cost > capacity+1 {
		return rate.decide(false, n, fullIn)
	}
	fullIn += cost
	if n > 0 {
		if !known && len(s.fullAt) >= m.maxBuckets {
			s.evict(now)
		}
		s.fullAt[key] = now + fullIn
	}
	return rate.decide(true, n, fullIn)
}

// evict removes the full buckets of a sample, or else the one that is nearest to full: it is forgotten with the least to gain for its owner.
func (s *bucketShard) evict(now float64) {
	var nearest string
	var nearestAt float64
	seen, removed := 0, false
	for key, fullAt := range s.fullAt { // in random order
		if fullAt <= now {
			delete(s.fullAt, key)
			removed = true
		} else if nearest == "" || fullAt < nearestAt {
			nearest, nearestAt = key, fullAt
		}
		if seen++; seen >= evictionSample {
			break
		}
	}
	if !removed {
		delete(s.fullAt, nearest)
	}
}

// cacheShard is one part of the cache: least recently used first out.
type cacheShard struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[string, cached]
	bytes int
}

type cached struct {
	value   []byte
	expires time.Time
}

func (s *cacheShard) init() {
	// Bounded by bytes, not by count; NewLRU fails only for a size that is not positive.
	s.lru, _ = simplelru.NewLRU(1<<30, func(key string, c cached) { s.bytes -= size(key, c.value) })
}

func size(key string, value []byte) int { return len(key) + len(value) + entryOverhead }

// live returns the entry of key unless it has expired. The shard is locked.
func (s *cacheShard) live(key string, now time.Time) (cached, bool) {
	c, ok := s.lru.Get(key)
	if ok && !now.Before(c.expires) {
		s.lru.Remove(key)
		return cached{}, false
	}
	return c, ok
}

func (s *cacheShard) set(key string, c cached, maxBytes int) {
	s.lru.Remove(key)
	if size(key, c.value) > maxBytes {
		return // it would push out everything else and still not fit
	}
	s.bytes += size(key, c.value)
	s.lru.Add(key, c)
	for s.bytes > maxBytes {
		s.lru.RemoveOldest()
	}
}

func (m *memory) get(key string) (value []byte, left time.Duration, ok bool) {
	s := &m.cache[m.shard(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	c, ok := s.live(key, now)
	if !ok {
		return nil, 0, false
	}
	return clone(c.value), c.expires.Sub(now), true
}

func (m *memory) set(key string, value []byte, ttl time.Duration) {
	s := &m.cache[m.shard(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(key, cached{clone(value), m.now().Add(ttl)}, m.maxBytes)
}

func (m *memory) setNX(key string, value []byte, ttl time.Duration) bool {
	s := &m.cache[m.shard(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	if _, ok := s.live(key, now); ok {
		return false
	}
	s.set(key, cached{clone(value), now.Add(ttl)}, m.maxBytes)
	return true
}

func (m *memory) delete(key string) {
	s := &m.cache[m.shard(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Remove(key)
}

// purge empties the cache; buckets stay.
func (m *memory) purge() {
	for i := range m.cache {
		s := &m.cache[i]
		s.mu.Lock()
		s.lru.Purge()
		s.mu.Unlock()
	}
}

// clone is bytes.Clone that keeps an empty value apart from none.
func clone(b []byte) []byte { return append([]byte{}, b...) }
