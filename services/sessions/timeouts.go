package sessions

import (
	"context"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// overdue says which limit of a session has passed at now, if any.
type overdue int

const (
	notOverdue overdue = iota
	startOverdue
	ttlOverdue
	idleOverdue
	pausedLately // by the clock: perhaps while a message was on its way
	retentionOverdue
)

// overdueAt is pure: it says what is to be done about time. Only a session whose runner says idle is ever idle, and
// one whose agent left processes running works.
func overdueAt(cfg Config, rec *api.SessionRecord, now time.Time) overdue {
	switch st := rec.State; {
	case st.Final():
		if cfg.Retention > 0 && rec.EndedAt != nil && now.Sub(*rec.EndedAt) >= cfg.Retention {
			return retentionOverdue
		}
	case st == api.StateStopping:
	case rec.TTL > 0 && now.Sub(rec.CreatedAt) >= rec.TTL.D():
		return ttlOverdue
	case (st == api.StateStarting || st == api.StateResuming) && now.Sub(rec.StateSince) >= cfg.StartTimeout:
		return startOverdue
	case st == api.StatePaused && rec.IdlePaused && now.Sub(rec.StateSince) < justNow+cfg.Sweep:
		return pausedLately
	case st == api.StateRunning && rec.Activity == api.ActivityIdle && rec.Background == 0 && rec.IdleTimeout > 0 &&
		now.Sub(rec.LastActiveAt) >= rec.IdleTimeout.D() && now.Sub(rec.StateSince) >= rec.IdleTimeout.D():
		return idleOverdue
	}
	return notOverdue
}

// sweep queues, now and then, the sessions for which a time has passed.
func (s *Service) sweep(ctx context.Context) {
	begin := s.now()
	s.hearing.Store(&begin)
	tick := time.NewTicker(s.cfg.Sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.listen(ctx)
		now, then := s.now(), *s.hearing.Load()
		var due []bus.Key
		s.view.All(func(e bus.Entry[api.SessionRecord]) bool {
			if overdueAt(s.cfg, &e.State, now) != notOverdue || silentAt(s.cfg, &e, then, now) {
				due = append(due, e.Key)
			}
			return true
		})
		for _, key := range due {
			s.enqueue(key)
		}
	}
}

// timeOut does what a passed time demands, and reports whether that was the step.
func (s *Service) timeOut(ctx context.Context, e bus.Entry[api.SessionRecord]) (done bool, err error) {
	rec := e.State
	what := overdueAt(s.cfg, &rec, s.now())
	due, _ := what.item(s.cfg, &rec)
	switch what {
	case startOverdue:
		if rec.Reason != "" {
			due.Reason += ": " + rec.Reason
		}
		if s.deps.Info.Holdup != nil {
			if why := s.deps.Info.Holdup(ctx, refOf(e.Key)); why != "" {
				due.Reason += ": " + why
			}
		}
		if err := s.fail(ctx, e, due.Reason); err != nil {
			return true, err
		}
		s.swept(e.Key, due)
		return true, nil
	case ttlOverdue:
		return true, s.end(ctx, e, api.StateStopping, "expire", due)
	case idleOverdue:
		heard, err := s.heard(ctx, e.Key)
		if err != nil || heard {
			return false, err // a message is on its way to the runner
		}
		to := api.StatePausing
		if rec.IdleAction == api.IdleStop {
			to = api.StateStopping
		}
		return true, s.end(ctx, e, to, "idle", due)
	case pausedLately:
		return false, s.bringBackHeard(ctx, e.Key)
	case retentionOverdue:
		if err := s.deps.Runtime.Stop(ctx, refOf(e.Key), s.cfg.StopGrace, false); err != nil {
			return true, fmt.Errorf("remove workspace: %w", err)
		}
		if err := s.events.Purge(ctx, e.Key.Tenant, e.Key.ID); err != nil {
			return true, err
		}
		if err := s.sessions.Purge(ctx, e.Key); err != nil {
			return true, err
		}
		s.swept(e.Key, due)
		return true, nil
	}
	return false, nil
}

// end moves a session on because of time, unless somebody was faster.
func (s *Service) end(ctx context.Context, e bus.Entry[api.SessionRecord], to api.State, verb string, due api.SweepItem) error {
	_, err := s.move(ctx, e.Key, e.Rev, bus.Meta{Actor: actor, Verb: verb, Reason: due.Reason}, func(rec *api.SessionRecord) error {
		rec.State, rec.Reason = to, due.Reason
		rec.IdlePaused = to == api.StatePausing
		return nil
	})
	if err == nil {
		s.swept(e.Key, due)
	}
	return ignoreConflict(err)
}

// bringBackHeard resumes a session to which somebody wrote while the clock put it aside: whoever took the message, perhaps another replica,
// still saw it running. Before, none had waited.
func (s *Service) bringBackHeard(ctx context.Context, key bus.Key) error {
	waits, err := s.unanswered(ctx, key)
	if err != nil || !waits {
		return err
	}
	_, err = s.bringBack(ctx, key, 0, actor)
	return ignoreConflict(err)
}

// heard reports whether a person's message waits to be answered, whatever the runner last said.
func (s *Service) heard(ctx context.Context, key bus.Key) (bool, error) {
	if s.now().Sub(s.tracker.see(key).touched) < justNow {
		return true, nil
	}
	return s.unanswered(ctx, key)
}

// unanswered is heard by the log alone.
func (s *Service) unanswered(ctx context.Context, key bus.Key) (bool, error) {
	left, err := s.leftOff(ctx, key)
	if err != nil {
		return false, fmt.Errorf("look for messages: %w", err)
	}
	answered := map[string]bool{} // what reached the runner by another way than the log is no part of DoneSeq
	for _, m := range left.Conversation {
		answered[m.ReplyTo] = true
	}
	for _, m := range left.Conversation {
		if m.Role == roleUser && m.Seq > left.DoneSeq && !answered[m.ID] {
			return true, nil
		}
	}
	return false, nil
}

// justNow is how fresh a message is that may not be in the log yet: longer than its write may take.
const justNow = 10 * time.Second
