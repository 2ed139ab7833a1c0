// Package limit bounds how often something may happen, and caches, shared between replicas through Redis or within one process.
// Redis is never the truth: when it is away each process limits and caches on its own, and says so once in its log.
//
// It is the only home of go-redis.
package limit

import (
	"context"
	"math"
	"time"
)

// Rate is a token bucket: Burst tokens at most (at least one), refilled evenly with PerSecond. A Rate whose PerSecond is not positive
// does not limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Decision is the answer to one request, in the terms of the RateLimit-* headers.
type Decision struct {
	Allowed    bool
	Limit      int           // Burst; zero: no limit
	Remaining  int           // whole tokens left
	Reset      time.Duration // until the bucket is full
	RetryAfter time.Duration // until the tokens asked for are there; zero when allowed
}

// Limiter takes tokens from named buckets.
type Limiter interface {
	// Take takes n tokens from the bucket of key, or none. It never fails: see the package's degradation. To take
	// none (n 0) is always allowed and shows the bucket; to take more than Burst never is. A bucket is
	// known by its key: use it with one rate.
	Take(ctx context.Context, key string, n int, rate Rate) Decision
}

// Cache keeps bytes for a while. It may forget at any time: what must not happen twice needs another guard than SetNX.
type Cache interface {
	Get(ctx context.Context, key string) (value []byte, ok bool)
	// Set keeps value for ttl, or for a millisecond when that is less.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration)
	Delete(ctx context.Context, key string)
	// SetNX sets key unless it is set, and reports whether it did.
	SetNX(ctx context.Context, key string, value []byte, ttl time.Duration) bool
}

// A bucket is one number, the time at which it will be full again: a bucket that is full need not be kept. What
// follows is the arithmetic of both implementations, in microseconds.

// longest bounds every span of time here, so that no rate overflows one: about 31 years.
const longest = 1e15

// refill returns how long n tokens take to come back, in microseconds.
func (r Rate) refill(n int) float64 {
	return min(float64(n)*1e6/r.PerSecond, longest)
}

func (r Rate) limits() bool { return r.PerSecond > 0 && !math.IsInf(r.PerSecond, 1) }

func (r Rate) burst() int { return max(r.Burst, 1) }

// unlimited is the answer when there is no limit.
var unlimited = Decision{Allowed: true}

// decide returns the decision that follows when, after it, the bucket is full in fullIn microseconds.
func (r Rate) decide(allowed bool, n int, fullIn float64) Decision {
	burst := r.burst()
	// A microsecond of slack for what floating point has rounded.
	left := int(math.Floor(float64(burst) - (fullIn-1)*r.PerSecond/1e6))
	d := Decision{
		Allowed: allowed, Limit: burst, Remaining: max(0, min(left, burst)),
		Reset: microseconds(fullIn),
	}
	if !allowed {
		d.RetryAfter = max(microseconds(fullIn+r.refill(n)-r.refill(burst)), time.Microsecond)
		d.Remaining = min(d.Remaining, max(n-1, 0))
	}
	return d
}

// microseconds rounds up, so that whoever waits that long has waited long enough.
func microseconds(us float64) time.Duration {
	return time.Duration(math.Ceil(max(us, 0))) * time.Microsecond
}
