package scheduler

import (
	"context"
	"errors"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// change is every write of a task that exists: f changes a copy of the newest record, and the table says whether it may. Another writer in between
// makes it start again. bus.ErrUnchanged from f writes nothing and is success.
//
// It also keeps the fence: from the second write of an assignment on, the record holds the revision of the first.
func (s *Service) change(ctx context.Context, key bus.Key, meta bus.Meta, f func(e bus.Entry[api.TaskRecord], rec *api.TaskRecord) error) (bus.Entry[api.TaskRecord], error) {
	e, ok := s.view.Get(key)
	for viewed := ok; ; viewed, ok = false, false {
		if !ok {
			var err error
			if e, err = s.tasks.Get(ctx, key); err != nil {
				return e, err
			}
		}
		rec := e.State
		err := f(e, &rec)
		if err != nil && viewed {
			continue // the view may be behind: ask the bus
		}
		if errors.Is(err, bus.ErrUnchanged) {
			return e, nil
		}
		if err != nil {
			return e, err
		}
		from := e.State.State
		if rec.State != from && !mayFollow(from, rec.State) {
			return e, api.Errorf(api.CodeConflict, "the task is %s", from)
		}
		rec.Fence = 0
		if rec.State.Active() && from.Active() {
			rec.Fence = fenceOf(e)
		}
		now, err := s.tasks.Replace(ctx, e, meta, rec)
		if api.CodeOf(err) != api.CodeConflict || ctx.Err() != nil {
			return now, err
		}
	}
}

// fenceOf returns the revision of a task's present assignment; 0 when it has none.
func fenceOf(e bus.Entry[api.TaskRecord]) uint64 {
	switch {
	case !e.State.State.Active():
		return 0
	case e.State.Fence != 0:
		return e.State.Fence
	}
	return e.Rev
}

// cancel ends a task that waits at once, and asks the dispatcher to end one that runs. Cancelling what was cancelled is success.
func (s *Service) cancel(ctx context.Context, req api.CancelTaskRequest) (api.Task, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.ID)
	if err != nil {
		return api.Task{}, err
	}
	reason := req.Reason
	if reason == "" {
		reason = "cancelled by " + p.Name
	}
	e, err = s.change(ctx, e.Key, bus.Meta{Actor: p.ID, Verb: "cancel", Reason: clip(reason, maxTitle)}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		switch {
		case rec.State == api.TaskCancelled || rec.CancelRequested:
			return bus.ErrUnchanged
		case rec.State.Final():
			return api.Errorf(api.CodeConflict, "the task has %s", rec.State)
		case rec.State.Active():
			rec.CancelRequested, rec.Reason = true, clip(reason, maxTitle)
		default:
			s.end(rec, api.TaskCancelled, clip(reason, maxTitle))
		}
		return nil
	})
	return s.public(e), err
}

// end makes rec one that has ended.
func (s *Service) end(rec *api.TaskRecord, state api.TaskState, reason string) {
	now := s.now().UTC()
	rec.State, rec.Reason, rec.EndedAt, rec.RetryAt = state, reason, &now, nil
	if rec.Result == nil {
		rec.Result = &api.TaskResult{Artifacts: []api.TaskArtifact{}, ExitCode: 1}
	}
	rec.Result.Status = state
}

// retry queues a task that has ended once more, with all its attempts before it.
func (s *Service) retry(ctx context.Context, req api.TaskRef) (api.Task, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.ID)
	if err != nil {
		return api.Task{}, err
	}
	if req.IfMatch != 0 && req.IfMatch != e.Rev {
		return api.Task{}, api.Errorf(api.CodeConflict, "the task was changed by another")
	}
	e, err = s.again(ctx, e.Key, p.ID, "retry")
	return s.public(e), err
}

func (s *Service) again(ctx context.Context, key bus.Key, by, verb string) (bus.Entry[api.TaskRecord], error) {
	return s.change(ctx, key, bus.Meta{Actor: by, Verb: verb}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		now := s.now().UTC()
		switch {
		case rec.State == api.TaskQueued:
			return bus.ErrUnchanged
		case !rec.State.Final():
			return api.Errorf(api.CodeConflict, "the task is %s and has not ended", rec.State)
		case rec.Deadline != nil && !rec.Deadline.After(now):
			return api.Errorf(api.CodeConflict, "the task's deadline has passed")
		}
		rec.State, rec.Reason, rec.QueuedAt, rec.EndedAt, rec.RetryAt, rec.Result = api.TaskQueued, "", now, nil, nil, nil
		rec.DeadLetter, rec.CancelRequested, rec.Busy, rec.Before = false, false, 0, rec.Attempt
		return nil
	})
}

const (
	usualRedrive = 100
	maxRedrive   = 500
)

// redrive queues dead letters once more.
func (s *Service) redrive(ctx context.Context, req api.RedriveRequest) (api.RedriveResponse, error) {
	p, _ := api.PrincipalFrom(ctx)
	if _, ok := s.queue(req.Name); !ok {
		return api.RedriveResponse{}, noQueue(req.Name)
	}
	if len(req.IDs) > maxRedrive || req.Limit < 0 || req.Limit > maxRedrive {
		return api.RedriveResponse{}, api.Invalid("/limit", "at most %d tasks are queued at once", maxRedrive)
	}
	var keys []bus.Key
	for _, id := range req.IDs {
		e, _, err := s.find(ctx, api.TaskWrite, id)
		if err != nil {
			return api.RedriveResponse{}, err
		}
		if e.State.DeadLetter && e.State.Queue == req.Name {
			keys = append(keys, e.Key)
		}
	}
	if len(req.IDs) == 0 {
		limit := req.Limit
		if limit == 0 {
			limit = usualRedrive
		}
		for _, e := range s.view.List(indexDead, ownerValue(p.Tenant, req.Name), 0, limit, func(e bus.Entry[api.TaskRecord]) bool {
			return p.CanOn(api.TaskWrite, e.State.Tenant, e.State.Owner)
		}) {
			keys = append(keys, e.Key)
		}
	}
	var done api.RedriveResponse
	for _, key := range keys {
		if _, err := s.again(ctx, key, p.ID, "redrive"); err != nil {
			if api.CodeOf(err) == api.CodeConflict {
				continue // another has, or its deadline has passed
			}
			return done, err
		}
		done.Queued++
	}
	return done, nil
}
