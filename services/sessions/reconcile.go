package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	startCallTimeout = 30 * time.Second // of Runtime.Start, which does not wait for the runner to be ready
	listTimeout      = 30 * time.Second
	announceTimeout  = 5 * time.Second
	// A step that failed is tried again after retryFirst, twice as long each time, up to retryMost.
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
	// restartFirst is the wait before the second restart of a runner; the first is at once.
	restartFirst = 500 * time.Millisecond
	restartMost  = time.Minute
	// announceAge is how long after a change it may still be announced when the service was away meanwhile.
	announceAge = time.Minute
)

// changed is told of each change of the SESSIONS ledger.
func (s *Service) changed(old *bus.Entry[api.SessionRecord], now bus.Entry[api.SessionRecord]) {
	if d := s.deps.Declarations; d != nil {
		d.Changed(now.Key.Tenant, now.Key.ID)
	}
	s.gauges.started(old, now)
	if now.Deleted {
		s.enqueue(now.Key)
		return
	}
	if old != nil && old.State.State == now.State.State && old.State.Incarnation == now.State.Incarnation {
		return
	}
	if old == nil && s.now().Sub(now.At) < burstWindow {
		if key := (bus.Key{Tenant: now.Key.Tenant, ID: now.State.Profile}); s.pooled(key) {
			s.demand.note(key, s.now())
		}
	}
	if s.now().Sub(now.At) < announceAge {
		s.tracker.with(now.Key, func(k *tracked) {
			if len(k.announce) == maxAnnouncements {
				k.announce = k.announce[1:]
			}
			k.announce = append(k.announce, announcement{rev: now.Rev, at: now.At, state: now.State.State, reason: now.State.Reason, first: old == nil && now.Rev == now.Created})
		})
	} else if now.State.State.Final() {
		return // of long ago; if anything of it still runs, adopt has found it
	}
	s.enqueue(now.Key)
}

// watchExits takes the runtime's news.
func (s *Service) watchExits(ctx context.Context) error {
	for {
		select {
		case x := <-s.deps.Runtime.Exits():
			key := bus.Key{Tenant: x.Tenant, ID: x.Session}
			s.tracker.exited(key, x)
			s.enqueue(key)
		case <-ctx.Done():
			return nil
		}
	}
}

// reconcile brings one session one step nearer to what the ledger says. It may be called at any time.
func (s *Service) reconcile(ctx context.Context, key bus.Key) {
	e, ok := s.view.Get(key)
	var err error
	if ok {
		err = s.step(ctx, e)
	} else if s.tracker.see(key).running > 0 {
		err = s.removeNobodys(ctx, key)
	}
	if aerr := s.announceStates(ctx, key); err == nil {
		err = aerr
	}
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		s.tracker.with(key, func(k *tracked) { k.failures = 0 })
		if !ok || e.State.State.Final() {
			s.tracker.forget(key)
		}
		return
	}
	var wait time.Duration
	s.tracker.with(key, func(k *tracked) {
		wait = backoff(retryFirst, retryMost, k.failures)
		k.failures++
	})
	s.log.Warn("step", "op", "reconcile", "tenant", key.Tenant, "session", key.ID, "state", e.State.State, "code", api.CodeOf(err), "err", err)
	s.enqueueAfter(key, wait)
}

// removeNobodys ends a runner of which the ledger has no session.
func (s *Service) removeNobodys(ctx context.Context, key bus.Key) error {
	if _, err := s.sessions.Get(ctx, key); api.CodeOf(err) != api.CodeNotFound {
		return err // the view is behind: the change itself brings the next step
	}
	if err := s.deps.Runtime.Stop(ctx, refOf(key), s.orphanGrace(), false); err != nil {
		return fmt.Errorf("stop runner: %w", err)
	}
	s.orphaned(orphanRunner, key)
	s.tracker.with(key, func(k *tracked) { k.running = 0 })
	return nil
}

// backoff returns first · 2ⁿ, at most most.
func backoff(first, most time.Duration, n int) time.Duration {
	for d := first; ; d *= 2 {
		if d >= most {
			return most
		}
		if n <= 0 {
			return d
		}
		n--
	}
}

func (s *Service) step(ctx context.Context, e bus.Entry[api.SessionRecord]) error {
	if done, err := s.timeOut(ctx, e); done || err != nil {
		return err
	}
	if done, err := s.replaceSilent(ctx, e); done || err != nil {
		return err
	}
	known := s.tracker.see(e.Key)
	switch st := e.State.State; {
	case st == api.StatePending:
		switch over, known := s.overQuota(e); {
		case !known:
			s.enqueueAfter(e.Key, viewLag)
			return nil
		case over != "":
			return s.fail(ctx, e, over)
		}
		next, err := s.move(ctx, e.Key, e.Rev, bus.Meta{Actor: actor, Verb: "start"}, func(rec *api.SessionRecord) error {
			rec.State = api.StateStarting
			nextIncarnation(rec)
			return nil
		})
		if err != nil {
			return ignoreConflict(err)
		}
		return s.start(ctx, next)
	case wantsRunner(st):
		return s.keepRunning(ctx, e, known)
	case st == api.StatePausing:
		if err := s.deps.Runtime.Stop(ctx, refOf(e.Key), s.cfg.StopGrace, true); err != nil {
			return fmt.Errorf("stop runner: %w", err)
		}
		return s.settle(ctx, e, api.StatePaused, "paused") // which, if the clock paused it, brings the next step at once
	case st == api.StateStopping:
		if err := s.deps.Runtime.Stop(ctx, refOf(e.Key), s.cfg.StopGrace, false); err != nil {
			return fmt.Errorf("stop runner: %w", err)
		}
		return s.settle(ctx, e, api.StateTerminated, "terminate")
	case known.running > 0: // paused, failed or terminated, yet something runs
		return s.deps.Runtime.Stop(ctx, refOf(e.Key), s.cfg.StopGrace, st != api.StateTerminated)
	}
	return nil
}

// settle writes the state that follows when the runtime has done its part.
func (s *Service) settle(ctx context.Context, e bus.Entry[api.SessionRecord], to api.State, verb string) error {
	s.tracker.with(e.Key, func(k *tracked) { k.running = 0 })
	_, err := s.move(ctx, e.Key, 0, bus.Meta{Actor: actor, Verb: verb}, func(rec *api.SessionRecord) error {
		if rec.State != e.State.State {
			return bus.ErrUnchanged
		}
		rec.State = to
		return nil
	})
	return err
}

// keepRunning sees that the runner of the current incarnation runs, or follows it with the next.
func (s *Service) keepRunning(ctx context.Context, e bus.Entry[api.SessionRecord], known tracked) error {
	rec := e.State
	switch {
	case known.running == rec.Incarnation:
		return nil
	case known.ended >= rec.Incarnation:
		return s.restart(ctx, e, known.reason, known.innocent)
	case rec.State == api.StateRunning:
		return s.restart(ctx, e, unwatched, true)
	}
	if rec.Restarts > 1 {
		wait := backoff(restartFirst, restartMost, rec.Restarts-2) - s.now().Sub(rec.StateSince)
		if wait > 0 {
			s.enqueueAfter(e.Key, wait)
			return nil
		}
	}
	return s.start(ctx, e)
}

// start has the runtime start the current incarnation.
func (s *Service) start(ctx context.Context, e bus.Entry[api.SessionRecord]) error {
	if wait := s.tracker.see(e.Key).notBefore.Sub(s.now()); wait > 0 {
		s.enqueueAfter(e.Key, wait)
		return nil
	}
	_, late := s.deps.Runtime.(LateBinder) // it makes a place; the runner there asks for what is secret
	l, err := s.launchOf(ctx, e, !late)
	switch {
	case api.CodeOf(err) == api.CodeInvalid:
		return s.fail(ctx, e, detailOf(err))
	case err != nil:
		return err
	}
	if late {
		l.Env, l.Files, l.MCPServers, l.CredentialFiles = e.State.Env, nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startCallTimeout)
	defer cancel()
	i, err := s.deps.Runtime.Start(ctx, l)
	switch api.CodeOf(err) {
	case api.CodeConflict: // this incarnation ended before
		return s.restart(ctx, e, unwatched, true)
	case api.CodeInvalid:
		return s.fail(ctx, e, detailOf(err))
	}
	var told *api.Error
	if asError(err, &told) && told.RetryAfter > 0 { // who has too much to do says when to come again
		s.tracker.with(e.Key, func(k *tracked) { k.notBefore = s.now().Add(min(told.RetryAfter, retryMost)) })
	}
	if err != nil {
		return fmt.Errorf("start runner: %w", err)
	}
	s.tracker.started(e.Key, i.Incarnation)
	return nil
}

// unwatched is the reason of a runner that was gone when the service came back.
const unwatched = "it ended while nobody watched"

// restart follows a runner that died with another, unless they die again and again. A death that is innocent, for the yard itself
// was stopped, does not count.
func (s *Service) restart(ctx context.Context, e bus.Entry[api.SessionRecord], reason string, innocent bool) error {
	rec := e.State
	restarts := rec.Restarts
	if rec.State == api.StateRunning && s.now().Sub(rec.StateSince) >= s.cfg.RestartReset {
		restarts = 0
	}
	if !innocent && restarts >= s.cfg.MaxRestarts {
		return s.fail(ctx, e, fmt.Sprintf("the session's runner died %s in a row; the last time %s", plural(restarts+1, "time"), reason))
	}
	s.log.Warn("runner died", "tenant", e.Key.Tenant, "session", e.Key.ID, "incarnation", rec.Incarnation, "reason", reason)
	meta := bus.Meta{Actor: actor, Verb: "restart", Reason: clip(reason, maxReason)}
	// On the condition of the revision: a delete or a pause that came in between decides.
	_, err := s.sessions.UpdateAt(ctx, e.Key, e.Rev, meta, func(rec api.SessionRecord) (api.SessionRecord, error) {
		if rec.State == api.StateRunning {
			rec.State = api.StateStarting
		}
		nextIncarnation(&rec)
		rec.Restarts = restarts
		if rec.Reason = ""; !innocent {
			rec.Restarts++
			rec.Reason = clip("the runner died and is started again: "+reason, maxReason)
		}
		entered(&rec, s.now().UTC())
		return rec, nil
	})
	return ignoreConflict(err) // the change itself brings the next step
}

// fail ends a session that cannot go on. Its workspace stays until retention ends or it is deleted.
func (s *Service) fail(ctx context.Context, e bus.Entry[api.SessionRecord], reason string) error {
	_, err := s.move(ctx, e.Key, e.Rev, bus.Meta{Actor: actor, Verb: "fail", Reason: clip(reason, maxReason)}, func(rec *api.SessionRecord) error {
		rec.State, rec.Reason = api.StateFailed, clip(reason, maxReason)
		return nil
	})
	return ignoreConflict(err)
}

// ignoreConflict makes nothing of a write that another was faster with: its change brings the next step.
func ignoreConflict(err error) error {
	if api.CodeOf(err) == api.CodeConflict {
		return nil
	}
	return err
}

// announceStates puts the session's changes of state into its log, in order.
func (s *Service) announceStates(ctx context.Context, key bus.Key) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	for {
		var next *announcement
		s.tracker.with(key, func(k *tracked) {
			if len(k.announce) > 0 {
				a := k.announce[0]
				next = &a
			}
		})
		if next == nil {
			return nil
		}
		if next.first {
			s.events.Begin(key.Tenant, key.ID)
		}
		_, _, err := s.events.AppendUser(ctx, key.Tenant, key.ID, fmt.Sprintf("state-%d", next.rev), api.Event{
			Type: api.EventStatus, At: next.at, State: next.state, Reason: next.reason,
		})
		if err != nil {
			return errors.Join(errors.New("announce state"), err)
		}
		s.tracker.with(key, func(k *tracked) {
			if len(k.announce) > 0 && k.announce[0].rev == next.rev {
				k.announce = k.announce[1:]
			}
		})
	}
}
