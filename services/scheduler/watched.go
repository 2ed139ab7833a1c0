package scheduler

import (
	"sync"

	"agentyard.dev/libs/bus"
)

// watched knows which attempt looks after which session.
type watched struct {
	mu sync.Mutex
	by map[bus.Key]*attempt
}

func newWatched() *watched { return &watched{by: map[bus.Key]*attempt{}} }

func (w *watched) add(session bus.Key, a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by[session] = a
}

func (w *watched) remove(session bus.Key, a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by[session] == a {
		delete(w.by, session)
	}
}

func (w *watched) poke(session bus.Key) {
	w.mu.Lock()
	a := w.by[session]
	w.mu.Unlock()
	if a != nil {
		a.poke()
	}
}
