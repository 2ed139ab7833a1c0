package scheduler

import (
	"context"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/scheduler/fair"
)

// preemptSpare is how long a task that was preempted is spared: so each gets something done, and two never put each other off in turn.
const preemptSpare = 10 * time.Minute

// preemptLocked makes room in a full queue for a waiting task of a higher priority, if the queue allows it: one at a time, so that one waiting task puts
// off no more than one running.
func (d *dispatcher) preemptLocked(name string, q *fair.Queue, now time.Time) {
	queue, _ := d.s.queue(name)
	if !queue.Preempt {
		return
	}
	if a := d.preempting[name]; a != nil && d.attempts[a.key] == a {
		return
	}
	victim, by, ok := q.Victim(now, func(id string) bool {
		key := keyIn(q.TenantOf(id), id)
		e, known := d.s.view.Get(key)
		return known && d.attempts[key] != nil && preemptible(e.State, now)
	})
	if !ok {
		return
	}
	key, urgent := keyIn(q.TenantOf(victim), victim), keyIn(q.TenantOf(by), by)
	e, ok := d.s.view.Get(urgent)
	if !ok || e.State.Priority == nil {
		return
	}
	a := d.attempts[key]
	o := outcome{kind: preempted, reason: fmt.Sprintf("a task of priority %d took its place", *e.State.Priority)}
	if urgent.Tenant == key.Tenant { // nobody hears of another tenant's
		o.by = by
	}
	d.preempting[name] = a
	d.s.metrics.preempted.Inc()
	d.s.log.Info("task preempted", "tenant", key.Tenant, "task", key.ID, "by_tenant", urgent.Tenant, "by", urgent.ID)
	a.yield(o)
}

// yield has the attempt end, as o says.
func (a *attempt) yield(o outcome) {
	a.putOff.Store(&o)
	a.poke()
	if stop := a.stopWork.Load(); stop != nil {
		(*stop)()
	}
}

// preemptible reports whether a task that runs may be put off. One that works in a session that it shares may not: the session goes on
// with what it was told.
func preemptible(rec api.TaskRecord, now time.Time) bool {
	if !rec.State.Active() || rec.CancelRequested || rec.SessionRequest != nil && rec.SessionRequest.Reuse != "" {
		return false
	}
	n := len(rec.Attempts)
	if n < 2 {
		return true
	}
	before := rec.Attempts[n-2]
	return before.Outcome != preempted.String() || before.EndedAt == nil || now.Sub(*before.EndedAt) >= preemptSpare
}

// execute runs the task with what takes the place of a session.
func (a *attempt) execute(ctx context.Context, run func(context.Context, api.Task) api.TaskResult) outcome {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a.stopWork.Store(&stop)
	if a.putOff.Load() != nil { // before it could be stopped
		stop()
	}
	result := run(ctx, a.task.Task)
	if o := a.putOff.Load(); o != nil {
		return *o
	}
	return outcome{kind: succeeded, result: result}
}
