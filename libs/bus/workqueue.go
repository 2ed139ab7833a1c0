package bus

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"agentyard.dev/libs/parts"
)

// WorkQueue hands keys to workers: each key to one worker at a time, a key that was added while it is being worked on once
// more afterwards, and a delayed key when its time has come. A key waits once, however often it is added, so
// that the length is bounded by the number of keys that there are; a delay that an earlier one has replaced is kept until its time.
type WorkQueue struct {
	mu      sync.Mutex
	ready   []Key
	state   map[Key]keyState
	delayed delays
	until   map[Key]time.Time // the earliest delay of each key
	wake    chan struct{}     // of capacity 1: ready or delayed changed
}

type keyState uint8

const (
	keyQueued keyState = 1 << iota
	keyWorking
)

// NewWorkQueue returns an empty queue. Keys may be added before it runs.
func NewWorkQueue() *WorkQueue {
	return &WorkQueue{state: map[Key]keyState{}, until: map[Key]time.Time{}, wake: make(chan struct{}, 1)}
}

// Add has key worked on as soon as a worker is free.
func (q *WorkQueue) Add(key Key) {
	q.mu.Lock()
	q.addLocked(key)
	q.mu.Unlock()
	q.signal()
}

func (q *WorkQueue) addLocked(key Key) {
	s := q.state[key]
	if s&keyQueued != 0 {
		return
	}
	q.state[key] = s | keyQueued
	if s&keyWorking == 0 {
		q.ready = append(q.ready, key)
	}
}

// AddAfter is Add after d; an earlier time for the same key stands.
func (q *WorkQueue) AddAfter(key Key, d time.Duration) {
	if d <= 0 {
		q.Add(key)
		return
	}
	at := time.Now().Add(d)
	q.mu.Lock()
	if was, ok := q.until[key]; !ok || at.Before(was) {
		q.until[key] = at
		heap.Push(&q.delayed, delay{at, key})
	}
	q.mu.Unlock()
	q.signal()
}

func (q *WorkQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run works with n workers until ctx ends, and returns when all have. It is called once.
func (q *WorkQueue) Run(ctx context.Context, n int, work func(context.Context, Key)) {
	var crew parts.Crew
	defer crew.Wait()
	free := make(chan struct{}, n)
	for {
		wait := q.promote(time.Now())
		key, ok := q.next()
		if !ok {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-q.wake:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		crew.Go(func() {
			defer func() {
				<-free
				q.done(key)
			}()
			work(ctx, key)
		})
	}
}

func (q *WorkQueue) next() (Key, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		return Key{}, false
	}
	key := q.ready[0]
	q.ready = q.ready[1:]
	q.state[key] = keyWorking
	return key, true
}

func (q *WorkQueue) done(key Key) {
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

// promote queues the delayed keys whose time has come and returns how long the next has to wait.
func (q *WorkQueue) promote(now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.delayed) > 0 {
		d := q.delayed[0]
		if d.at.After(now) {
			return d.at.Sub(now)
		}
		heap.Pop(&q.delayed)
		if q.until[d.key].Equal(d.at) { // else an earlier time has come in between
			delete(q.until, d.key)
			q.addLocked(d.key)
		}
	}
	return time.Hour
}

type delay struct {
	at  time.Time
	key Key
}

// delays is a heap, the earliest first.
type delays []delay

func (d delays) Len() int           { return len(d) }
func (d delays) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d delays) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *delays) Push(x any)        { *d = append(*d, x.(delay)) }
func (d *delays) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}
