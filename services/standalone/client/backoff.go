package client

import (
	"context"
	"math/rand/v2"
	"time"
)

// The pauses between attempts: short at first, because a restarted server is back within a
// second or two, and never so long that a person thinks nothing happens any more.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// pause waits before attempt+1, doubling from firstPause with jitter, or returns ctx's error.
func pause(ctx context.Context, attempt int) error {
	d := min(firstPause<<min(attempt-1, 10), maxPause)
	t := time.NewTimer(d/2 + rand.N(d/2+1)) //nolint:gosec // jitter
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
