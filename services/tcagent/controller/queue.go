package controller

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"agentyard.dev/libs/bus"
)

// queue is the sessions whose plans are to be compiled, now or, by the controller's clock, later: a window of a schedule ends, or a
// plan could not be written. It holds each session once. What is added at one time is taken at one time.
type queue struct {
	mu    sync.Mutex
	now   map[bus.Key]struct{}
	later map[bus.Key]time.Time
	wake  chan struct{} // of capacity 1: there are some
}

func newQueue() *queue {
	return &queue{now: map[bus.Key]struct{}{}, later: map[bus.Key]time.Time{}, wake: make(chan struct{}, 1)}
}

// add adds keys.
func (q *queue) add(keys ...bus.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.now[key] = struct{}{}
	}
	select {
	case q.wake <- struct{}{}:
	default:
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

// take takes all that is there by now.
func (q *queue) take(now time.Time) []bus.Key {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, at := range q.later {
		if !now.Before(at) {
			delete(q.later, key)
			q.now[key] = struct{}{}
		}
	}
	keys := make([]bus.Key, 0, len(q.now))
	for key := range q.now {
		keys = append(keys, key)
	}
	clear(q.now)
	return keys
}

// each calls f for everything in list, planWriters at a time, and returns when all have been, or ctx has ended.
func each[T any](ctx context.Context, list []T, f func(T)) {
	var g errgroup.Group
	g.SetLimit(planWriters)
	for _, one := range list {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { f(one); return nil })
	}
	_ = g.Wait() // f says itself what failed
}
