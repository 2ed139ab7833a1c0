package auth

import (
	"context"
	"sync"
	"time"

	"agentyard.dev/libs/bus"
)

const (
	// touchEvery is how exact a key's last use is kept: one write a minute however busy the key.
	touchEvery = time.Minute
	// usageFlush is how long a use waits to be written, together with others.
	usageFlush = time.Second
	// usagePending bounds the uses that wait; above it they are not recorded.
	usagePending = 4096
)

// usage records when API keys were last used.
type usage struct {
	s       *Service
	mu      sync.Mutex
	pending map[bus.Key]time.Time
}

func (u *usage) init(s *Service) {
	u.s, u.pending = s, map[bus.Key]time.Time{}
}

// touch notes that key was used at at, unless that is known to the minute.
func (u *usage) touch(key bus.Key, at time.Time) {
	if last, ok := u.s.lastUsed.view.Get(key); ok && at.Sub(last.State.At) < touchEvery {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, waits := u.pending[key]; !waits && len(u.pending) < usagePending {
		u.pending[key] = at
	}
}

// lastUsedAt returns when key was last used, or nil.
func (u *usage) lastUsedAt(key bus.Key) *time.Time {
	if e, ok := u.s.lastUsed.view.Get(key); ok {
		return &e.State.At
	}
	return nil
}

// run writes what was noted until ctx ends, and then what is left.
func (u *usage) run(ctx context.Context) error {
	tick := time.NewTicker(usageFlush)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			u.flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			u.flush(last)
			return nil
		}
	}
}

func (u *usage) flush(ctx context.Context) {
	u.mu.Lock()
	batch := u.pending
	u.pending = map[bus.Key]time.Time{}
	u.mu.Unlock()
	for key, at := range batch {
		_, err := put(ctx, u.s.lastUsed.Ledger, key, bus.Meta{Actor: "service:auth", Verb: "use"}, func(old lastUsed) (lastUsed, error) {
			if at.Sub(old.At) < touchEvery {
				return old, bus.ErrUnchanged // another replica was asked as well
			}
			return lastUsed{At: at}, nil
		})
		if err != nil {
			u.s.log.WarnContext(ctx, "last use of a key not recorded", "key", key.ID, "err", err)
			return // the bus is away: the next uses are recorded when it is back
		}
	}
}
