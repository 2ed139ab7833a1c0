package controller

import (
	"context"
	"sync"
	"time"

	"agentyard.dev/libs/bus"
)

// queue hands keys to workers: each key to one worker at a time, and once more when it was added meanwhile. Keys may be added for later. It
// holds each key once, so that it is bounded by the number of sessions.
type queue struct {
	mu    sync.Mutex
	ready []bus.Key
	state map[bus.Key]keyState
	later map[bus.Key]time.Time
	wake  chan struct{} // of capacity 1
}

type keyState uint8

const (
	keyQueued keyState = 1 << iota
	keyWorking
)

func newQueue() *queue {
	return &queue{state: map[bus.Key]keyState{}, later: map[bus.Key]time.Time{}, wake: make(chan struct{}, 1)}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) add(key bus.Key) {
	q.mu.Lock()
	q.addLocked(key)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) addLocked(key bus.Key) {
	s := q.state[key]
	if s&keyQueued != 0 {
		return
	}
	q.state[key] = s | keyQueued
	if s&keyWorking == 0 {
		q.ready = append(q.ready, key)
	}
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
	for key, at := range q.later {
		if !now.Before(at) {
			delete(q.later, key)
			q.addLocked(key)
		}
	}
	q.mu.Unlock()
	q.signal()
}

// take returns the next key, and waits for one until ctx ends.
func (q *queue) take(ctx context.Context) (bus.Key, bool) {
	for {
		q.mu.Lock()
		if len(q.ready) > 0 {
			key := q.ready[0]
			q.ready = q.ready[1:]
			q.state[key] = keyWorking
			more := len(q.ready) > 0
			q.mu.Unlock()
			if more {
				q.signal()
			}
			return key, true
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return bus.Key{}, false
		}
	}
}

// done says that a worker is finished with key.
func (q *queue) done(key bus.Key) {
	q.mu.Lock()
	if q.state[key]&keyQueued != 0 {
		q.state[key] = keyQueued
		q.ready = append(q.ready, key)
	} else {
		delete(q.state, key)
	}
	q.mu.Unlock()
	q.signal()
}
