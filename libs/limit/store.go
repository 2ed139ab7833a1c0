package limit

import (
	"context"
	"flag"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where a Store keeps things.
type Config struct {
	RedisURL   string       // redis://, rediss:// or unix://; empty: this process alone
	Prefix     string       // of all keys in Redis; empty: "agentyard:"
	Logger     *slog.Logger // nil: slog.Default()
	MaxBuckets int          // kept in this process; zero: 65,536. Above it those nearest to full are forgotten.
	MaxBytes   int          // of the cache in this process; zero: 32 MiB. The least recently used goes first; a value above 1/32 of it is not kept.
}

// Register adds the flag -redis.url to fs.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.RedisURL, "redis.url", c.RedisURL,
		"`URL` of the Redis that replicas share limits and cache through, such as redis://127.0.0.1:6379/0; empty: each process on its own")
}

// Store is a Limiter and a Cache over Redis, or over this process's memory when there is no Redis or it is away.
//
// A call that Redis does not answer within 50 ms is answered from memory, and so are all calls after it until Run finds Redis
// well again: Redis's death costs the calls that meet it 50 ms and the others nothing. Meanwhile N replicas together let N times the
// rate pass, and each has a cache of its own. What was written to the cache meanwhile is written to Redis before it is
// used again, so that a value that was deleted or replaced does not come back.
type Store struct {
	remote *remote // nil: memory only
	local  *memory
	logger *slog.Logger
	badURL error // returned by Run

	away atomic.Bool

	mu       sync.Mutex
	missed   map[string]struct{} // cache keys that were written while Redis was away
	overflow bool
}

const (
	// probeEvery is how often Redis is tried while it is away.
	probeEvery = 250 * time.Millisecond
	// maxMissed bounds Store.missed, replayBatch what one round trip carries.
	maxMissed   = 1 << 16
	replayBatch = 256
)

var (
	_ Limiter = (*Store)(nil)
	_ Cache   = (*Store)(nil)
)

// Open returns a store; it connects when it is first used. With a malformed RedisURL it works in memory, and Run returns the error.
func Open(cfg Config) *Store {
	s := &Store{logger: cfg.Logger, missed: map[string]struct{}{}}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	s.local = newMemory(orDefault(cfg.MaxBuckets, 1<<16), orDefault(cfg.MaxBytes, 32<<20), time.Now)
	if cfg.RedisURL != "" {
		prefix := cfg.Prefix
		if prefix == "" {
			prefix = "agentyard:"
		}
		s.remote, s.badURL = newRemote(cfg.RedisURL, prefix)
	}
	return s
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

// Degraded reports whether Redis is configured and away.
func (s *Store) Degraded() bool { return s.badURL != nil || s.away.Load() }

// Run watches over the way back to Redis until ctx ends, and closes the connections. Without it a store that has lost Redis stays in memory.
func (s *Store) Run(ctx context.Context) error {
	if s.badURL != nil {
		return s.badURL
	}
	if s.remote == nil {
		<-ctx.Done()
		return nil
	}
	defer func() {
		s.away.Store(true) // later calls go on in memory
		_ = s.remote.close()
	}()
	ticks := time.NewTicker(probeEvery)
	defer ticks.Stop()
	for {
		if s.wantsProbe() {
			s.recover(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
	}
}

// wantsProbe reports whether Redis is away, or was when a write came that it has not seen.
func (s *Store) wantsProbe() bool {
	if s.away.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.missed) > 0
}

// use calls f with the deadline of one call, unless Redis is away. It reports whether the answer counts.
func (s *Store) use(ctx context.Context, f func(context.Context) error) bool {
	if s.remote == nil || s.away.Load() || ctx.Err() != nil {
		return false
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := f(call)
	if err == nil {
		return true
	}
	// The caller's own end says nothing about Redis.
	if ctx.Err() == nil && s.away.CompareAndSwap(false, true) {
		s.logger.Warn("redis is away; limits and cache are this process's own until it is back", "err", err)
	}
	return false
}

// recover goes back to Redis if it is well: first what it has missed, then all calls.
func (s *Store) recover(ctx context.Context) {
	try := func(f func(context.Context) error) bool {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return f(call) == nil
	}
	if !try(s.remote.probe) {
		return
	}
	for {
		s.mu.Lock()
		if len(s.missed) == 0 {
			// A write to memory that comes later is missed again, and the next tick repeats it. Memory starts empty
			// the next time: others may have changed on Redis by then what it holds.
			s.local.purge()
			back, overflow := s.away.CompareAndSwap(true, false), s.overflow
			s.overflow = false
			s.mu.Unlock()
			if back {
				s.logger.Info("redis is back")
			}
			if overflow {
				s.logger.Warn("the cache changed too much while redis was away; some values may be old until they expire")
			}
			return
		}
		batch := s.nextMissed()
		s.mu.Unlock()
		if !try(func(ctx context.Context) error { return s.remote.replay(ctx, batch) }) {
			s.mu.Lock()
			for _, c := range batch {
				s.miss(c.key)
			}
			s.mu.Unlock()
			return
		}
	}
}

// nextMissed takes some of the missed changes out. mu is held.
func (s *Store) nextMissed() []change {
	batch := make([]change, 0, replayBatch)
	for key := range s.missed {
		if len(batch) == replayBatch {
			break
		}
		delete(s.missed, key)
		value, left, ok := s.local.get(key)
		batch = append(batch, change{key: key, value: value, left: left, set: ok})
	}
	return batch
}

// miss notes that Redis has not seen a write. mu is held.
func (s *Store) miss(key string) {
	if len(s.missed) >= maxMissed {
		s.overflow = true
		return
	}
	s.missed[key] = struct{}{}
}

// writeLocal makes a change of the cache in memory, to be repeated on Redis when that is back.
func (s *Store) writeLocal(key string, f func()) {
	if s.remote == nil {
		f()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.miss(key)
}

// Take implements Limiter.
func (s *Store) Take(ctx context.Context, key string, n int, rate Rate) (d Decision) {
	if s.use(ctx, func(ctx context.Context) (err error) {
		d, err = s.remote.takeTokens(ctx, key, n, rate)
		return err
	}) {
		return d
	}
	return s.local.take(key, n, rate)
}

// Get implements Cache.
func (s *Store) Get(ctx context.Context, key string) (value []byte, ok bool) {
	if s.use(ctx, func(ctx context.Context) (err error) {
		value, ok, err = s.remote.get(ctx, key)
		return err
	}) {
		return value, ok
	}
	value, _, ok = s.local.get(key)
	return value, ok
}

// Set implements Cache.
func (s *Store) Set(ctx context.Context, key string, value []byte, ttl time.Duration) {
	ttl = atLeast(ttl)
	if !s.use(ctx, func(ctx context.Context) error { return s.remote.set(ctx, key, value, ttl) }) {
		s.writeLocal(key, func() { s.local.set(key, value, ttl) })
	}
}

// Delete implements Cache.
func (s *Store) Delete(ctx context.Context, key string) {
	if !s.use(ctx, func(ctx context.Context) error { return s.remote.delete(ctx, key) }) {
		s.writeLocal(key, func() { s.local.delete(key) })
	}
}

// SetNX implements Cache. While Redis is away, and on the call that meets its death, it knows this process's keys only.
func (s *Store) SetNX(ctx context.Context, key string, value []byte, ttl time.Duration) (done bool) {
	ttl = atLeast(ttl)
	if s.use(ctx, func(ctx context.Context) (err error) {
		done, err = s.remote.setNX(ctx, key, value, ttl)
		return err
	}) {
		return done
	}
	s.writeLocal(key, func() { done = s.local.setNX(key, value, ttl) })
	return done
}
