// Package limit bounds how often something may happen, and caches, shared between replicas through Redis or within one process.
// Redis is never the truth: when it is away each process limits and caches on its own, and says so once in its log.
//
// It is the only home of go-redis.
package limit

import (
	"context"
	"time"
)

// Rate is a token bucket: Burst tokens at most, refilled evenly with PerSecond.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Decision is the answer to one request, in the terms of the RateLimit-* headers.
type Decision struct {
	Allowed    bool
	Limit      int           // Burst
	Remaining  int           // whole tokens left
	Reset      time.Duration // until the bucket is full
	RetryAfter time.Duration // until one token is there; zero when allowed
}

// Limiter takes tokens from named buckets.
type Limiter interface {
	// Take takes n tokens from the bucket of key, or none. It never fails: see the package's degradation.
	Take(ctx context.Context, key string, n int, rate Rate) Decision
}

// Cache keeps bytes for a while.
type Cache interface {
	Get(ctx context.Context, key string) (value []byte, ok bool)
	Set(ctx context.Context, key string, value []byte, ttl time.Duration)
	Delete(ctx context.Context, key string)
	// SetNX sets key unless it is set, and reports whether it did.
	SetNX(ctx context.Context, key string, value []byte, ttl time.Duration) bool
}
