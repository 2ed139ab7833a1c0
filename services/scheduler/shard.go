package scheduler

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/scheduler/fair"
)

// shard is the queues of one lease. Every replica keeps their order, as the ledger says; the one that holds the lease dispatches them.
type shard struct {
	s      *Service
	number int
	wake   chan struct{} // of capacity 1: there may be something to do

	mu      sync.Mutex
	queues  map[string]*fair.Queue
	leading bool
	// Only while leading: who leads next begins with what the ledger says (adopt).
	attempts  map[bus.Key]*attempt // under way here
	todo      []bus.Key            // to look at: active without an attempt, or blocked and perhaps free
	deadlines deadlines            // of tasks that wait
	watched   map[bus.Key]struct{} // those in deadlines
}

func newShard(s *Service, number int) *shard {
	return &shard{s: s, number: number, wake: make(chan struct{}, 1), queues: map[string]*fair.Queue{}, attempts: map[bus.Key]*attempt{}, watched: map[bus.Key]struct{}{}}
}

func (sh *shard) signal() {
	select {
	case sh.wake <- struct{}{}:
	default:
	}
}

// queueLocked returns the order of a queue.
func (sh *shard) queueLocked(name string) *fair.Queue {
	q := sh.queues[name]
	if q == nil {
		q = fair.New(sh.s.rules(name))
		sh.queues[name] = q
	}
	return q
}

// configure takes over what has changed in a queue's rules.
func (sh *shard) configure(name string) {
	rules := sh.s.rules(name)
	sh.mu.Lock()
	if q := sh.queues[name]; q != nil {
		q.Configure(sh.s.now(), rules)
	}
	sh.mu.Unlock()
	sh.signal()
}

// known returns how many tasks of a queue have not ended, apart from blocked ones.
func (sh *shard) known(name string) int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if q := sh.queues[name]; q != nil {
		waiting, running := q.Len()
		return waiting + running
	}
	return 0
}

// waitReasons names the reasons of package fair.
var waitReasons = map[fair.Reason]api.WaitReason{
	fair.NotBefore: api.WaitNotBefore, fair.Retry: api.WaitRetry, fair.Paused: api.WaitPaused, fair.QueueLimit: api.WaitQueueLimit,
	fair.TenantLimit: api.WaitTenantLimit, fair.UserLimit: api.WaitUserLimit, fair.KeyLimit: api.WaitKeyLimit, fair.RateLimit: api.WaitRateLimit,
	fair.Session: api.WaitSession, fair.Capacity: api.WaitCapacity, fair.Turn: api.WaitTurn, fair.Running: api.WaitTurn,
}

// why says why a queued task does not run, and its place.
func (sh *shard) why(e bus.Entry[api.TaskRecord]) (api.WaitReason, int) {
	now := sh.s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r, position, ok := sh.queueLocked(e.State.Queue).Why(now, e.Key.ID)
	switch t := fairTask(e); {
	case ok:
		return waitReasons[r], position
	case t.NotBefore.After(now) && t.Retry: // it was queued a moment ago
		return api.WaitRetry, 0
	case t.NotBefore.After(now):
		return api.WaitNotBefore, 0
	}
	return api.WaitTurn, 0
}

func (sh *shard) waiting(queue, tenant string) map[api.WaitReason]int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	counts := map[api.WaitReason]int{}
	for r, n := range sh.queueLocked(queue).Waiting(sh.s.now(), tenant) {
		counts[waitReasons[r]] += n
	}
	return counts
}

// taskChanged keeps the order of the task's queue, and tells who waits for the change.
func (s *Service) taskChanged(old *bus.Entry[api.TaskRecord], now bus.Entry[api.TaskRecord]) {
	s.metrics.changed(old, now)
	s.tellSchedules(old, now)
	if now.Deleted {
		if old != nil {
			s.shardOf(old.State.Queue).forget(old.Key, old.State.Queue)
			s.children.drop(old.Key)
		}
		return
	}
	s.shardOf(now.State.Queue).take(old, now)
	if now.State.State == api.TaskBlocked {
		s.children.add(now)
	}
	if now.State.State.Final() && (old == nil || !old.State.State.Final()) {
		for _, child := range s.children.of(now.Key) {
			if e, ok := s.view.Get(child); ok {
				s.shardOf(e.State.Queue).look(child)
			}
		}
	}
}

// sessionChanged tells the attempt whose session it is, and those who wait for capacity.
func (s *Service) sessionChanged(old *bus.Entry[api.SessionRecord], now bus.Entry[api.SessionRecord]) {
	ended := now.Deleted || now.State.State.Final()
	if ended && old != nil && !old.State.State.Final() {
		for _, sh := range s.shards {
			sh.mu.Lock()
			for _, q := range sh.queues {
				q.Release(s.now(), now.Key.Tenant)
			}
			sh.mu.Unlock()
			sh.signal()
		}
	}
	s.watched.poke(now.Key)
}

// take puts a change of a task into the order.
func (sh *shard) take(old *bus.Entry[api.TaskRecord], e bus.Entry[api.TaskRecord]) {
	now, rec := sh.s.now(), &e.State
	id := e.Key.ID
	sh.mu.Lock()
	defer sh.mu.Unlock()
	q := sh.queueLocked(rec.Queue)
	was := old != nil && old.State.State.Active()
	switch {
	case rec.State == api.TaskQueued:
		if was {
			sh.leaveLocked(q, old, e, now)
		}
		q.Add(now, fairTask(e))
		if e.State.Busy > 0 && was {
			q.HoldUser(now, e.Key.Tenant, rec.Owner, now.Add(busyPause(rec.Busy)))
		}
		sh.watchLocked(e)
	case rec.State.Active():
		q.Start(now, fairTask(e))
		if a := sh.attempts[e.Key]; a != nil {
			a.poke()
		} else {
			sh.lookLocked(e.Key)
		}
	case rec.State == api.TaskBlocked:
		sh.watchLocked(e)
		sh.lookLocked(e.Key)
	case was:
		sh.leaveLocked(q, old, e, now)
	default:
		q.Remove(now, id)
	}
	sh.signal()
}

// leaveLocked ends the run of a task in its queue's order. An assignment that met no capacity costs nothing.
func (sh *shard) leaveLocked(q *fair.Queue, old *bus.Entry[api.TaskRecord], e bus.Entry[api.TaskRecord], now time.Time) {
	if e.State.Busy > old.State.Busy {
		q.Return(now, e.Key.ID)
		return
	}
	ran := time.Duration(0)
	if began := old.State.StartedAt; began != nil {
		ran = e.At.Sub(*began)
	}
	q.Finish(now, e.Key.ID, max(ran, 0))
}

// watchLocked has the deadline of a task that waits looked at when it comes.
func (sh *shard) watchLocked(e bus.Entry[api.TaskRecord]) {
	if d := e.State.Deadline; d != nil {
		sh.alarmLocked(*d, e.Key)
	}
}

// alarmLocked keeps one time for a task, however often it begins to wait: its deadline does not change.
func (sh *shard) alarmLocked(at time.Time, key bus.Key) {
	if _, ok := sh.watched[key]; ok || !sh.leading {
		return
	}
	sh.watched[key] = struct{}{}
	heap.Push(&sh.deadlines, deadline{at, key})
}

func (sh *shard) forget(key bus.Key, queue string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.queueLocked(queue).Remove(sh.s.now(), key.ID)
	if a := sh.attempts[key]; a != nil {
		a.poke()
	}
}

// look has the dispatcher look at a task.
func (sh *shard) look(key bus.Key) {
	sh.mu.Lock()
	sh.lookLocked(key)
	sh.mu.Unlock()
	sh.signal()
}

func (sh *shard) lookLocked(key bus.Key) {
	if sh.leading {
		sh.todo = append(sh.todo, key)
	}
}

// fairTask is what a queue's order must know of a task.
func fairTask(e bus.Entry[api.TaskRecord]) fair.Task {
	rec := &e.State
	t := fair.Task{
		ID: e.Key.ID, Tenant: e.Key.Tenant, User: rec.Owner, Priority: api.DefaultPriority, Since: rec.QueuedAt, Seq: e.Created,
		Key: rec.ConcurrencyKey, RateKey: rec.RateKey,
	}
	if rec.Priority != nil {
		t.Priority = *rec.Priority
	}
	if rec.SessionRequest != nil {
		t.Session = rec.SessionRequest.Reuse
	}
	if rec.NotBefore != nil {
		t.NotBefore = *rec.NotBefore
	}
	if rec.RetryAt != nil && rec.RetryAt.After(t.NotBefore) {
		t.NotBefore, t.Retry = *rec.RetryAt, true
	}
	return t
}

// busyPause is how long nothing of a user starts after so many assignments in a row met no capacity. A session that ends ends the pause.
func busyPause(times int) time.Duration {
	const first, most = 250 * time.Millisecond, 10 * time.Second
	return min(first<<min(times, 10), most)
}

type deadline struct {
	at  time.Time
	key bus.Key
}

// deadlines is a heap, the earliest first. A task that has ended since is passed over when its time comes.
type deadlines []deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(deadline)) }
func (d *deadlines) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}

// dueLocked takes the tasks whose deadline has passed.
func (sh *shard) dueLocked(now time.Time) []bus.Key {
	var due []bus.Key
	for len(sh.deadlines) > 0 && !sh.deadlines[0].at.After(now) {
		key := heap.Pop(&sh.deadlines).(deadline).key
		delete(sh.watched, key)
		due = append(due, key)
	}
	return due
}

// lead dispatches until ctx ends: another may hold the lease then. It returns when all attempts have let go; they go on where the next
// holder is.
func (sh *shard) lead(ctx context.Context) {
	d := &dispatcher{shard: sh, places: make(chan struct{}, maxUnderWay), ended: make(chan struct{}, 1), preempting: map[string]*attempt{}}
	sh.mu.Lock()
	sh.leading = true
	sh.mu.Unlock()
	defer func() {
		d.work.Wait()
		sh.mu.Lock()
		sh.leading, sh.todo, sh.deadlines = false, nil, nil
		clear(sh.attempts)
		clear(sh.watched)
		sh.mu.Unlock()
	}()
	d.adopt()
	d.run(ctx)
}
