package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// errAgain says that a schedule was changed while it was worked on.
var errAgain = errors.New("the schedule was changed meanwhile")

// recentTasks is how many of a schedule's tasks are looked at; more than overlap and pausing need.
const recentTasks = 200

// step makes the fires of one schedule that are due and returns when to look at it again; zero: when it changes.
func (s *Service) step(ctx context.Context, key bus.Key) (time.Time, error) {
	e, ok := s.view.Get(key)
	for ok && !e.State.Paused {
		if reason := s.troubled(e.State); reason != "" {
			_, err := s.pauseItself(ctx, e, reason)
			return time.Time{}, err
		}
		p, err := planOf(e.State)
		if err != nil { // an older release took it
			_, err = s.pauseItself(ctx, e, err.Error())
			return time.Time{}, err
		}
		fires, passed, missed := p.overdue(e.State.Planned, s.deps.Clock.Now())
		switch {
		case missed > 0:
			s.log.WarnContext(ctx, "fires missed", "tenant", key.Tenant, "schedule", key.ID, "missed", missed)
			e, err = s.write(ctx, e, "miss", fmt.Sprintf("%d fires came too late", missed), func(n *api.Schedule) {
				n.Planned, n.Missed = passed, n.Missed+missed
				n.LastProblem = fmt.Sprintf("fires up to %s came too late", passed.Format(time.RFC3339))
			})
		case len(fires) == 0:
			return p.nextDue(e.State.Planned), nil
		default:
			e, err = s.fire(ctx, e, fires[0])
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

// troubled returns why a schedule must pause itself; "": it need not.
func (s *Service) troubled(st api.Schedule) string {
	limit := st.PauseAfter
	if limit == 0 {
		limit = api.DefaultPauseAfter
	}
	if limit < 0 {
		return ""
	}
	if st.Failures >= limit {
		return fmt.Sprintf("the last %d fires were refused: %s", st.Failures, st.LastProblem)
	}
	if n, reason := failedInRow(s.deps.Tasks.Recent(st.Tenant, st.ID, recentTasks), st.Since); n >= limit {
		return fmt.Sprintf("the last %d tasks failed: %s", n, reason)
	}
	return ""
}

// VerbAutoPause marks the change by which a schedule paused itself.
const VerbAutoPause = "auto-pause"

func (s *Service) pauseItself(ctx context.Context, e bus.Entry[api.Schedule], reason string) (bus.Entry[api.Schedule], error) {
	s.log.WarnContext(ctx, "schedule pauses itself", "tenant", e.Key.Tenant, "schedule", e.Key.ID)
	return s.write(ctx, e, VerbAutoPause, reason, func(n *api.Schedule) { n.Paused, n.PausedReason = true, reason })
}

// fire makes the task of a planned time, or not if the overlap policy says so, and then moves Planned. It may be called again for the same time.
func (s *Service) fire(ctx context.Context, e bus.Entry[api.Schedule], planned time.Time) (bus.Entry[api.Schedule], error) {
	st := e.State
	owner := Owner{Tenant: st.Tenant, ID: st.Owner}
	if s.deps.Allowed != nil {
		if err := s.deps.Allowed(ctx, owner); passing(err) {
			return e, err
		} else if err != nil {
			return s.pauseItself(ctx, e, "its owner may make no tasks any more: "+api.Redact(err).Detail)
		}
	}
	m := Make{ID: TaskID(st.ID, planned), Owner: owner, Schedule: st.ID, Spec: st.Task}
	recent := s.deps.Tasks.Recent(st.Tenant, st.ID, recentTasks)
	if !slices.ContainsFunc(recent, func(t api.Task) bool { return t.ID == m.ID }) {
		before, why, err := s.overlap(ctx, st, recent)
		if err != nil {
			return e, err
		}
		if why != "" {
			return s.write(ctx, e, "skip", why, func(n *api.Schedule) {
				n.Planned, n.Skipped, n.LastProblem = planned, n.Skipped+1, why
			})
		}
		if len(before) > 0 {
			m.Spec.DependsOn, m.Spec.OnFailure = before, api.ParentRun
		}
	}
	if _, err := s.deps.Tasks.Make(ctx, m); passing(err) {
		return e, fmt.Errorf("make task: %w", err) // repeated, until it is too late for this fire
	} else if err != nil {
		why := "its task was refused: " + api.Redact(err).Detail
		return s.write(ctx, e, "refuse", why, func(n *api.Schedule) {
			n.Planned, n.Missed, n.Failures, n.LastProblem = planned, n.Missed+1, n.Failures+1, why
		})
	}
	return s.write(ctx, e, "fire", "", func(n *api.Schedule) {
		n.Planned, n.LastFire, n.LastTask = planned, &planned, m.ID
		n.Fires, n.Failures, n.LastProblem = n.Fires+1, 0, ""
	})
}

// overlap applies the policy to the tasks that have not ended: those to wait for, or why there is to be no task.
func (s *Service) overlap(ctx context.Context, st api.Schedule, recent []api.Task) (before []string, why string, err error) {
	for _, t := range recent {
		if !t.State.Final() {
			before = append(before, t.ID)
		}
	}
	switch {
	case len(before) == 0:
		return nil, "", nil
	case st.Overlap == api.OverlapQueue && len(before) >= api.MaxOverlapQueue:
		return nil, fmt.Sprintf("%d earlier tasks have not ended yet", len(before)), nil
	case st.Overlap == api.OverlapQueue:
		return before, "", nil
	case st.Overlap == api.OverlapCancel:
		for _, id := range before {
			if err := s.deps.Tasks.Cancel(ctx, st.Tenant, id, "replaced by the next task of schedule "+st.ID); err != nil {
				return nil, "", fmt.Errorf("cancel the earlier task: %w", err)
			}
		}
		return before[:min(len(before), api.MaxOverlapQueue)], "", nil
	}
	return nil, "task " + before[0] + " has not ended yet", nil
}

// passing reports whether trying again may mend err.
func passing(err error) bool {
	if err == nil {
		return false
	}
	switch api.CodeOf(err) {
	case api.CodeUnavailable, api.CodeInternal, api.CodeExhausted, api.CodeConflict:
		return true
	}
	return false
}

// write changes a schedule, if it is still what e says; otherwise errAgain.
func (s *Service) write(ctx context.Context, e bus.Entry[api.Schedule], verb, reason string, f func(*api.Schedule)) (bus.Entry[api.Schedule], error) {
	next, err := s.ledger.UpdateAt(ctx, e.Key, e.Rev, bus.Meta{Actor: actor, Verb: verb, Reason: reason}, func(st api.Schedule) (api.Schedule, error) {
		f(&st)
		return st, nil
	})
	if code := api.CodeOf(err); err != nil && (code == api.CodeConflict || code == api.CodeNotFound) {
		return e, errAgain
	}
	return next, err
}
