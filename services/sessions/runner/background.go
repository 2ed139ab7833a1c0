package runner

import (
	"context"
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

// backgroundEvery is how often an idle session's processes are counted.
const backgroundEvery = 3 * time.Second

// background counts what the agent has started and left running. What ran before the agent's first turn is the agent itself, with
// its servers and helpers.
type background struct {
	mu   sync.Mutex
	base map[string]bool // nil: no turn has begun since the agent started
}

// begin is called before each turn.
func (b *background) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.base == nil {
		b.base = descendants()
		if b.base == nil {
			b.base = map[string]bool{}
		}
	}
}

// forget is called when another agent starts.
func (b *background) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.base = nil
}

// count returns how many processes the agent has left running.
func (b *background) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.base == nil {
		return 0
	}
	n := 0
	for id := range descendants() {
		if !b.base[id] {
			n++
		}
	}
	return n
}

// watchBackground reports processes that begin or end while the agent is idle, until ctx ends.
func (r *runner) watchBackground(ctx context.Context) error {
	tick := time.NewTicker(backgroundEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := r.state.snapshot()
		if now.Activity != api.ActivityIdle {
			continue
		}
		if n := r.background.count(); n != now.Background {
			r.state.change(func(now *api.RunnerReportRequest) { now.Background = n })
		}
	}
}
