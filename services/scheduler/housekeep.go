package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// retentionEvery is after how many sweeps all tasks are looked through for those whose retention is over.
	retentionEvery = 20
	// maxSwept bounds what one sweep removes; the next one follows at once. sweepers remove at the same time.
	maxSwept = 5000
	sweepers = 8
	// sweepTimeout bounds the removals of one sweep.
	sweepTimeout = 60 * time.Second
)

var sweepKinds = []api.SweepKind{api.SweepTaskSession, api.SweepArtifacts, api.SweepTask}

// finding is something whose time is over, as it was seen.
type finding struct {
	api.SweepItem
	rev         uint64 // what was changed since is spared; 0: it is not
	task, owner string // of a session
}

// keepHouse sweeps while this process holds the lease, which another replica takes within 5 s when this one dies. Every removal is
// conditional on what was seen, so what a former holder still does does no harm.
func (s *Service) keepHouse(ctx context.Context) error {
	select {
	case <-s.sessions.Ready():
	case <-ctx.Done():
		return nil
	}
	lease := bus.NewLease(s.deps.Bus, bus.LeaseConfig{Service: "scheduler", Name: "housekeeping", Holder: s.id})
	return lease.Run(ctx, func(ctx context.Context, fence uint64) {
		s.log.InfoContext(ctx, "this replica keeps house", "fence", fence)
		s.metrics.leading.Set(1)
		defer s.metrics.leading.Set(0)
		tick := time.NewTicker(s.cfg.Sweep)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s.sweep(ctx, s.leftSessions())
			for more := n%retentionEvery == 0; more && ctx.Err() == nil; {
				var due []finding
				if due, more = s.overdue(s.now()); s.sweep(ctx, due) == 0 {
					break // what cannot be removed now is left for the next time
				}
			}
		}
	})
}

// sweepTasks answers api.SweepTasks.
func (s *Service) sweepTasks(ctx context.Context, req api.SweepRequest) (api.SweepReport, error) {
	select {
	case <-s.sessions.Ready():
	default:
		return api.SweepReport{}, api.Errorf(api.CodeUnavailable, "the sessions are not known yet")
	}
	old, _ := s.overdue(s.now())
	due := append(s.leftSessions(), old...)
	report := api.SweepReport{DryRun: req.DryRun, Counts: map[api.SweepKind]int{}, Items: []api.SweepItem{}}
	for _, f := range due {
		report.Add(f.SweepItem)
	}
	if !req.DryRun {
		s.sweep(ctx, due)
	}
	return report, nil
}

// retentions returns how long a task that has ended is kept, and its files; zero: for ever, and as long as the task.
func (s *Service) retentions(rec *api.TaskRecord) (task, files time.Duration) {
	task, files = s.cfg.Retention, s.cfg.ArtifactRetention
	q, _ := s.queue(rec.Queue)
	if q.Retention > 0 {
		task = q.Retention.D()
	}
	if q.ArtifactRetention > 0 {
		files = q.ArtifactRetention.D()
	}
	if rec.DeadLetter && task > 0 {
		if task = max(task, s.cfg.DeadRetention); s.cfg.DeadRetention == 0 {
			task = 0
		}
	}
	return task, files
}

// overdue returns the tasks, and the tasks' files, whose retention is over at now: at most maxSwept, and whether there are more. A task that another
// one waits for is kept.
func (s *Service) overdue(now time.Time) (due []finding, more bool) {
	needed := map[bus.Key]bool{}
	s.view.All(func(e bus.Entry[api.TaskRecord]) bool {
		if e.State.State == api.TaskBlocked {
			for _, id := range e.State.DependsOn {
				needed[keyIn(e.Key.Tenant, id)] = true
			}
		}
		return true
	})
	s.view.All(func(e bus.Entry[api.TaskRecord]) bool {
		rec := &e.State
		if !rec.State.Final() || rec.EndedAt == nil {
			return true
		}
		task, files := s.retentions(rec)
		f := finding{rev: e.Rev, SweepItem: api.SweepItem{Tenant: e.Key.Tenant, ID: e.Key.ID}}
		switch {
		case task > 0 && now.Sub(*rec.EndedAt) >= task && !needed[e.Key]:
			f.Kind, f.Since, f.Reason = api.SweepTask, rec.EndedAt.Add(task), fmt.Sprintf("it has %s and was kept for %s", rec.State, task)
		case files > 0 && now.Sub(*rec.EndedAt) >= files && rec.Result != nil && len(rec.Result.Artifacts) > 0:
			f.Kind, f.Since, f.Reason = api.SweepArtifacts, rec.EndedAt.Add(files), fmt.Sprintf("its files were kept for %s", files)
		default:
			return true
		}
		if more = len(due) == maxSwept; !more {
			due = append(due, f)
		}
		return !more
	})
	return due, more
}

// leftSessions returns the sessions that were made for a task and that no attempt needs any more: what a killed process left.
func (s *Service) leftSessions() (due []finding) {
	var left []bus.Entry[api.SessionRecord]
	s.sessions.All(func(e bus.Entry[api.SessionRecord]) bool {
		if e.State.Labels[labelTask] != "" && !e.State.State.Final() && e.State.State != api.StateStopping {
			left = append(left, e)
		}
		return true
	})
	for _, e := range left {
		if now, ok := s.look(e); ok {
			if now.use == useOff {
				due = append(due, finding{rev: e.Rev, task: e.State.Labels[labelTask], owner: e.State.Owner, SweepItem: api.SweepItem{
					Kind: api.SweepTaskSession, Tenant: e.Key.Tenant, ID: e.Key.ID, Since: e.At, Reason: now.why,
				}})
			}
			continue
		}
		task, ok := s.view.Get(keyIn(e.Key.Tenant, e.State.Labels[labelTask]))
		if !ok || !superfluous(task.State, e) {
			continue
		}
		due = append(due, finding{task: task.Key.ID, owner: e.State.Owner, SweepItem: api.SweepItem{
			Kind: api.SweepTaskSession, Tenant: e.Key.Tenant, ID: e.Key.ID, Since: task.At,
			Reason: fmt.Sprintf("the task %s, for which it was made, needs it no more", task.Key.ID),
		}})
	}
	return due
}

// sweep removes what was found, tells of it, and returns how much it was.
func (s *Service) sweep(ctx context.Context, due []finding) (n int) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	var mu sync.Mutex
	done := map[api.SweepKind]int{}
	var failed error
	var g errgroup.Group
	g.SetLimit(sweepers)
	for _, f := range due {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := s.remove(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done[f.Kind]++
				s.metrics.swept.WithLabelValues(string(f.Kind)).Inc()
				s.deps.Did(f.Tenant, "scheduler.sweep", f.ID, f.Reason)
			case api.CodeOf(err) != api.CodeConflict: // it was changed meanwhile, and so spared
				failed = err
			}
			return nil
		})
	}
	_ = g.Wait()
	s.metrics.sweeps.Inc()
	args := []any{}
	for _, kind := range sweepKinds {
		n += done[kind]
		args = append(args, string(kind), done[kind])
	}
	switch {
	case failed != nil && !errors.Is(failed, context.Canceled):
		s.log.WarnContext(ctx, "swept; what is left is tried again", append(args, "code", api.CodeOf(failed), "err", failed)...)
	case n > 0:
		s.log.InfoContext(ctx, "swept", args...)
	default:
		s.log.DebugContext(ctx, "swept", args...)
	}
	return n
}

// remove does what a finding is due for. Removing what is gone is success; conflict when it was changed since.
func (s *Service) remove(ctx context.Context, f finding) error {
	key := keyIn(f.Tenant, f.ID)
	switch f.Kind {
	case api.SweepTaskSession:
		return s.endSession(ctx, key, f.rev, f.owner, f.task)
	case api.SweepArtifacts:
		return s.dropFiles(ctx, key, f)
	}
	e, ok := s.view.Get(key)
	if !ok || e.Rev != f.rev {
		return changed()
	}
	if err := s.removeFiles(ctx, e); err != nil {
		return err
	}
	if err := s.tasks.PurgeAt(ctx, key, f.rev); err != nil {
		return fmt.Errorf("remove task: %w", err)
	}
	if err := s.blobs.Purge(ctx, key.Tenant, key.ID); err != nil { // those of attempts that came to nothing, too
		return fmt.Errorf("remove the task's files: %w", err)
	}
	return nil
}

func changed() error { return api.Errorf(api.CodeConflict, "the task was changed") }

// dropFiles removes the files of a task that stays.
func (s *Service) dropFiles(ctx context.Context, key bus.Key, f finding) error {
	e, ok := s.view.Get(key)
	if !ok || e.Rev != f.rev {
		return changed()
	}
	if err := s.removeFiles(ctx, e); err != nil {
		return err
	}
	_, err := s.tasks.UpdateAt(ctx, key, f.rev, bus.Meta{Actor: actor, Verb: "drop-artifacts", Reason: f.Reason}, func(rec api.TaskRecord) (api.TaskRecord, error) {
		result := *rec.Result
		result.Artifacts = []api.TaskArtifact{}
		result.Problems = append(append([]string(nil), result.Problems...), fmt.Sprintf("%d files were removed: %s", len(rec.Result.Artifacts), f.Reason))
		rec.Result = &result
		return rec, nil
	})
	return err
}

// removeFiles removes the files that a task's result names, one by one: what another attempt leaves meanwhile is not theirs.
func (s *Service) removeFiles(ctx context.Context, e bus.Entry[api.TaskRecord]) error {
	if e.State.Result == nil {
		return nil
	}
	for _, a := range e.State.Result.Artifacts {
		if err := s.blobs.Remove(ctx, e.Key.Tenant, e.Key.ID, a.Blob); err != nil {
			return fmt.Errorf("remove a file of the task: %w", err)
		}
	}
	return nil
}
