package controller

import (
	"sync"
	"time"

	"agentyard.dev/libs/bus"
)

// queue is the sessions whose plans are to be compiled, now or, by the controller's clock, later: a window of a schedule ends, or a
// plan could not be written. It holds each session once.
type queue struct {
	*bus.WorkQueue
	mu    sync.Mutex
	later map[bus.Key]time.Time
}

func newQueue() *queue {
	return &queue{WorkQueue: bus.NewWorkQueue(), later: map[bus.Key]time.Time{}}
}

// addAt adds key at a time, in place of another time; the zero time: not.
func (q *queue) addAt(key bus.Key, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at.IsZero() {
		delete(q.later, key)
	} else {
		q.later[key] = at
	}
}

// due adds what was to be added by now.
func (q *queue) due(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, at := range q.later {
		if !now.Before(at) {
			delete(q.later, key)
			q.Add(key)
		}
	}
}
