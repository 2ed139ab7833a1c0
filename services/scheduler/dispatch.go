package scheduler

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
)

const (
	// maxUnderWay bounds the attempts of one shard, whatever its queues' limits say.
	maxUnderWay = 4096
	// idleWake is when a dispatcher looks again although nothing has happened.
	idleWake = time.Minute
	// smallWrites bounds the writes that a dispatcher has under way for tasks that wait: deadlines and parents.
	smallWrites = 16
)

// dispatcher starts what is next while its shard's lease is held.
type dispatcher struct {
	*shard
	work   parts.Crew
	places chan struct{} // one is taken for each attempt
	ended  chan struct{}

	preempting map[string]*attempt // by queue: the last that was put off, which may have ended; needs the lock
}

// adopt looks at every task of the shard that is active or blocked, for another process was at it, and at the deadlines of those that wait.
func (d *dispatcher) adopt() {
	var keys []bus.Key
	var waiting []bus.Entry[api.TaskRecord]
	d.s.view.All(func(e bus.Entry[api.TaskRecord]) bool {
		if e.State.State.Final() || d.s.shardOf(e.State.Queue) != d.shard {
			return true
		}
		if e.State.State != api.TaskQueued {
			keys = append(keys, e.Key)
		}
		if !e.State.State.Active() && e.State.Deadline != nil {
			waiting = append(waiting, e)
		}
		return true
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.todo = append(d.todo, keys...)
	for _, e := range waiting {
		d.watchLocked(e)
	}
}

func (d *dispatcher) run(ctx context.Context) {
	small := make(chan struct{}, smallWrites)
	for ctx.Err() == nil {
		d.mu.Lock()
		todo, due := d.todo, d.dueLocked(d.s.now())
		d.todo = nil
		d.mu.Unlock()
		for _, key := range todo {
			d.look(ctx, key, small)
		}
		for _, key := range due {
			d.background(ctx, small, func() { d.expire(ctx, key) })
		}
		wait := d.start(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-d.ended:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// background runs a write that others need not wait for.
func (d *dispatcher) background(ctx context.Context, places chan struct{}, write func()) {
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return
	}
	d.work.Go(func() {
		defer func() { <-places }()
		write()
	})
}

// look takes up a task of this shard: an active one without an attempt, or one that may be free of its parents.
func (d *dispatcher) look(ctx context.Context, key bus.Key, small chan struct{}) {
	e, ok := d.s.view.Get(key)
	if !ok || d.s.shardOf(e.State.Queue) != d.shard {
		return
	}
	switch {
	case e.State.State == api.TaskBlocked:
		d.background(ctx, small, func() { d.s.unblock(ctx, e) })
	case e.State.State.Active():
		d.mu.Lock()
		if d.attempts[key] != nil {
			d.mu.Unlock()
			return
		}
		a := newAttempt(d.shard, key)
		d.attempts[key] = a
		d.mu.Unlock()
		select {
		case d.places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		d.spawn(ctx, a, func() (bus.Entry[api.TaskRecord], bool) { return e, true })
	}
}

// start assigns as many tasks as may run, and returns how long nothing changes by itself.
func (d *dispatcher) start(ctx context.Context) time.Duration {
	for {
		select {
		case d.places <- struct{}{}:
		default:
			return idleWake // an attempt's end wakes it
		}
		a, queue, wait := d.next()
		if a == nil {
			<-d.places
			return wait
		}
		d.spawn(ctx, a, func() (bus.Entry[api.TaskRecord], bool) { return d.assign(ctx, a, queue) })
	}
}

// next takes the task that is next in one of the queues, in turn.
func (d *dispatcher) next() (a *attempt, queue string, wait time.Duration) {
	now := d.s.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = idleWake
	if len(d.deadlines) > 0 {
		wait = min(wait, d.deadlines[0].at.Sub(now))
	}
	for name, q := range d.queues { // a map's order is as good as any between queues
		id, ok := q.Next(now)
		if !ok {
			d.preemptLocked(name, q, now)
			if at, ok := q.Wake(); ok {
				wait = min(wait, at.Sub(now))
			}
			continue
		}
		a := newAttempt(d.shard, keyIn(q.TenantOf(id), id))
		d.attempts[a.key] = a
		return a, name, 0
	}
	return nil, "", max(wait, time.Millisecond)
}

// spawn runs an attempt. begin returns the assignment.
func (d *dispatcher) spawn(ctx context.Context, a *attempt, begin func() (bus.Entry[api.TaskRecord], bool)) {
	d.work.Go(func() {
		defer func() {
			d.mu.Lock()
			if d.attempts[a.key] == a {
				delete(d.attempts, a.key)
			}
			if e, ok := d.s.view.Get(a.key); ok && e.State.State.Active() { // an assignment whose answer was lost, or another's
				d.todo = append(d.todo, a.key)
			}
			d.mu.Unlock()
			<-d.places
			select {
			case d.ended <- struct{}{}:
			default:
			}
		}()
		if e, ok := begin(); ok {
			a.run(ctx, e)
		}
	})
}

// assign writes that a task is given to a session. That write's revision is the fence: whoever writes for this assignment later must name it.
func (d *dispatcher) assign(ctx context.Context, a *attempt, queue string) (bus.Entry[api.TaskRecord], bool) {
	e, ok := d.s.view.Get(a.key)
	if ok && e.State.State == api.TaskQueued {
		now := d.s.now().UTC()
		var err error
		e, err = d.s.tasks.Replace(ctx, e, bus.Meta{Actor: actor, Verb: "assign"}, assigned(e.State, a.key, now))
		if err == nil {
			d.s.metrics.waited(now.Sub(e.State.QueuedAt))
			return e, true
		}
		if ctx.Err() == nil && api.CodeOf(err) != api.CodeConflict {
			d.s.log.WarnContext(ctx, "task not assigned", "tenant", a.key.Tenant, "task", a.key.ID, "code", api.CodeOf(err), "err", err)
		}
	}
	// It has changed in between, or nobody knows: what the ledger says puts it right.
	d.mu.Lock()
	d.queueLocked(queue).Return(d.s.now(), a.key.ID)
	d.mu.Unlock()
	return e, false
}

// keptAttempts is how many attempts a task shows.
const keptAttempts = 20

// assigned returns rec as the next assignment. The session's id is known before it exists: it derives from the key under which it will be asked for.
func assigned(rec api.TaskRecord, key bus.Key, now time.Time) api.TaskRecord {
	rec.State, rec.Reason, rec.RetryAt, rec.Fence = api.TaskAssigned, "", nil, 0
	rec.Attempt++
	rec.Assigned++
	rec.StartedAt = &now
	rec.SessionID, rec.Message = sessionOf(rec, key)
	rec.SessionShared = rec.SessionRequest.Reuses()
	kept := rec.Attempts[max(0, len(rec.Attempts)-keptAttempts+1):]
	rec.Attempts = append(append(make([]api.TaskAttempt, 0, len(kept)+1), kept...), api.TaskAttempt{Attempt: rec.Attempt, Session: rec.SessionID, StartedAt: now})
	return rec
}

// expire ends a task whose deadline passed while it waited.
func (d *dispatcher) expire(ctx context.Context, key bus.Key) {
	_, err := d.s.change(ctx, key, bus.Meta{Actor: actor, Verb: "expire"}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		if rec.State != api.TaskQueued && rec.State != api.TaskBlocked || rec.Deadline == nil || rec.Deadline.After(d.s.now()) {
			return bus.ErrUnchanged // its attempt has its own clock
		}
		d.s.end(rec, api.TaskExpired, "its deadline passed before it could run")
		return nil
	})
	if err != nil && ctx.Err() == nil && api.CodeOf(err) != api.CodeNotFound {
		d.s.log.WarnContext(ctx, "task not expired; it is tried again", "tenant", key.Tenant, "task", key.ID, "code", api.CodeOf(err), "err", err)
		d.later(key)
	}
}

// later has a task's deadline looked at again soon.
func (d *dispatcher) later(key bus.Key) {
	const soon = time.Second
	d.mu.Lock()
	d.alarmLocked(d.s.now().Add(soon), key)
	d.mu.Unlock()
}
