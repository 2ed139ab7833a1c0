package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

// outcome is what became of an attempt.
type outcome struct {
	kind   outcomeKind
	reason string
	result api.TaskResult
	final  bool   // another attempt would end the same
	by     string // the task for which it was preempted, if it may be named
}

type outcomeKind uint8

const (
	_ outcomeKind = iota
	succeeded
	failed   // the agent, the command or the delivery of its result
	lost     // the session died, or never came
	timedOut // the attempt took too long
	busy     // there was no capacity: no attempt at all
	cancelled
	expired
	preempted // another took its place: it does not count
)

func (k outcomeKind) String() string {
	return [...]string{"", "succeeded", "failed", "lost", "timeout", "busy", "cancelled", "expired", "preempted"}[k]
}

// verb is what the ledger calls it.
func (k outcomeKind) verb() string {
	return [...]string{"", "succeed", "fail", "fail", "fail", "return", "cancel", "expire", "preempt"}[k]
}

// maxSummary bounds what a task keeps of its agent's last words; all of it is in the session's log.
const maxSummary = 16 << 10

// outcome is that of a turn that ended by itself.
func (t *turn) outcome() outcome {
	o := outcome{kind: succeeded, result: api.TaskResult{Summary: tail(t.summary, maxSummary)}}
	switch {
	case t.failure != "":
		o.kind, o.reason, o.result.ExitCode = failed, "the agent could not finish: "+t.failure, 1
	case t.command && t.exit == nil:
		o.kind, o.reason, o.result.ExitCode = failed, "the command did not run to its end", 1
	case t.command && *t.exit != 0:
		o.kind, o.reason, o.result.ExitCode = failed, fmt.Sprintf("the command ended with status %d", *t.exit), *t.exit
		o.final = true // unless the task's policy says otherwise
	}
	return o
}

// tail returns the last bytes of a text.
func tail(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[len(s)-most:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return "…" + s
}

// The retry policy of a task that says nothing.
const (
	usualAttempts   = 3
	usualBackoff    = 5 * time.Second
	usualMaxBackoff = 5 * time.Minute
)

// backoff returns how long to wait after the failed attempt n (1, 2, …) of a policy: doubled each time, and of that a random part of at
// least a half, so that what failed together is not tried again together.
func backoff(r *api.TaskRetry, n int, random func() float64) time.Duration {
	first, most := usualBackoff, usualMaxBackoff
	if r != nil && r.Backoff > 0 {
		first = r.Backoff.D()
		most = max(most, first)
	}
	if r != nil && r.MaxBackoff > 0 {
		most = r.MaxBackoff.D()
	}
	d := most
	if n := max(n-1, 0); n < 30 && first<<n > 0 && first<<n < most {
		d = first << n
	}
	return time.Duration(float64(d) * (0.5 + random()/2))
}

// settle writes what became of the attempt: the task's end, or that it waits for another. It reports false when that was not this assignment's to
// say any more, or ctx ended.
func (a *attempt) settle(ctx context.Context, o outcome) bool {
	ok := a.persist(ctx, func(ctx context.Context) error {
		_, err := a.write(ctx, bus.Meta{Actor: actor, Verb: o.kind.verb(), Reason: clip(o.reason, maxReason)}, func(rec *api.TaskRecord) error {
			a.s.conclude(rec, o, a.fence)
			return nil
		})
		return err
	})
	if ok {
		a.s.log.DebugContext(ctx, "attempt over", "tenant", a.key.Tenant, "task", a.key.ID, "session", a.session.ID, "outcome", o.kind.String())
	}
	return ok
}

// maxReason bounds a reason in the ledger.
const maxReason = 500

// conclude changes rec, of which an attempt is over, as the outcome and the task's policy say.
func (s *Service) conclude(rec *api.TaskRecord, o outcome, fence uint64) {
	now := s.now().UTC()
	o.reason = clip(o.reason, maxReason)
	if o.kind == busy && !rec.CancelRequested {
		rec.State, rec.Reason, rec.SessionID, rec.Message = api.TaskQueued, o.reason, "", ""
		rec.Attempt--
		rec.Busy++
		rec.Attempts = rec.Attempts[:len(rec.Attempts)-1]
		return
	}
	if rec.CancelRequested && o.kind != succeeded {
		o.kind, o.reason, o.by = cancelled, rec.Reason, ""
	}
	rec.Busy = 0
	kept := append([]api.TaskAttempt(nil), rec.Attempts...)
	if n := len(kept); n > 0 {
		last := &kept[n-1]
		last.Outcome, last.Reason, last.EndedAt, last.Fence, last.PreemptedBy = o.kind.String(), o.reason, &now, fence, o.by
		last.Usage = o.result.Usage
	}
	rec.Attempts, rec.Usage = kept, rec.Usage.Plus(o.result.Usage)
	o.result.Usage = rec.Usage
	if o.kind == preempted {
		rec.State, rec.Reason, rec.RetryAt = api.TaskQueued, o.reason, nil // since when it waits, and so its age, stays
		rec.Before++
		return
	}
	if o.result.Artifacts == nil {
		o.result.Artifacts = []api.TaskArtifact{}
	}
	if o.kind != succeeded && o.result.ExitCode == 0 {
		o.result.ExitCode = 1
	}
	if s.another(rec, o) {
		at := now.Add(backoff(rec.Retry, rec.Attempt-rec.Before, rand.Float64))
		rec.State, rec.Reason, rec.RetryAt = api.TaskQueued, o.reason, &at
		return
	}
	result := o.result
	rec.Result = &result
	switch o.kind {
	case succeeded:
		s.end(rec, api.TaskSucceeded, "")
	case cancelled:
		s.end(rec, api.TaskCancelled, o.reason)
	case expired:
		s.end(rec, api.TaskExpired, o.reason)
	default:
		s.end(rec, api.TaskFailed, o.reason)
		rec.DeadLetter = true
	}
}

// another reports whether the task is to be tried again.
func (s *Service) another(rec *api.TaskRecord, o outcome) bool {
	switch o.kind {
	case failed, lost, timedOut:
	default:
		return false
	}
	most := usualAttempts
	if rec.Retry != nil && rec.Retry.MaxAttempts > 0 {
		most = rec.Retry.MaxAttempts
	}
	again := !o.final || o.result.ExitCode != 0 && rec.Command != "" && rec.Retry != nil && rec.Retry.OnFailure
	return again && rec.Attempt-rec.Before < most
}

// cleanUp ends the session of an attempt that is over, unless it is not the attempt's own, was asked to stay or waits for another task.
func (a *attempt) cleanUp(ctx context.Context, o outcome) {
	if a.reuses() || o.kind == busy {
		return
	}
	if e, ok := a.s.view.Get(a.key); ok && e.State.State.Final() && e.State.SessionRequest.Keeps() {
		return
	}
	if a.keeps(o) {
		return
	}
	if err := a.s.endSession(ctx, a.session, 0, a.task.Owner, a.key.ID); err != nil && ctx.Err() == nil {
		a.s.log.WarnContext(ctx, "session not ended; the sweep tries again", "tenant", a.key.Tenant, "task", a.key.ID, "session", a.session.ID, "code", api.CodeOf(err), "err", err)
	}
}

// endSession stops a session in its owner's name, on the condition that it is at rev, unless that is zero. One that does not exist has ended.
func (s *Service) endSession(ctx context.Context, session bus.Key, rev uint64, owner, task string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, err := s.acting.as(ctx, session.Tenant, owner, "task "+task)
	if err == nil {
		_, err = rpc.Call(ctx, s.client, api.DeleteSession, api.SessionRef{ID: session.ID, IfMatch: rev})
	}
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	return err
}

// superfluous reports whether a session was made for a task that does not need it. The label alone proves nothing: whoever makes a session may
// write it. The session's id does, which derives from the assignment.
func superfluous(task api.TaskRecord, session bus.Entry[api.SessionRecord]) bool {
	rec := task
	for rec.Assigned = task.Assigned; rec.Assigned > 0 && rec.Assigned > task.Assigned-keptAttempts; rec.Assigned-- {
		rec.SessionRequest = nil
		id, _ := sessionOf(rec, keyIn(session.Key.Tenant, task.ID))
		if id != session.Key.ID {
			continue
		}
		current := rec.Assigned == task.Assigned
		switch {
		case current && task.State.Active():
			return false
		case current && task.State.Final() && task.SessionRequest.Keeps():
			return false
		}
		return true
	}
	return false
}
