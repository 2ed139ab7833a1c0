package scheduler

import (
	"context"
	"slices"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// list returns the caller's tasks, or the tenant's to whoever may read them, newest first. It costs what it visits of the owner's
// (or the tenant's) tasks, never another's.
func (s *Service) list(ctx context.Context, req api.ListTasksRequest) (api.Page[api.Task], error) {
	page := api.Page[api.Task]{Items: []api.Task{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorTasks, req.Cursor)
	if err != nil {
		return page, err
	}
	keep, err := filter(req)
	if err != nil {
		return page, err
	}
	index, value := indexTenant, p.Tenant
	switch {
	case req.Owner != "" && (req.Owner == p.ID || p.Can(api.TaskRead.Any())):
		index, value = indexOwner, ownerValue(p.Tenant, req.Owner)
	case req.Owner != "":
		return page, nil // another's, of which the caller may know nothing
	case !p.Can(api.TaskRead.Any()):
		index, value = indexOwner, ownerValue(p.Tenant, p.ID)
	}
	return s.page(cursorTasks, index, value, before, limit, keep), nil
}

// page lists what index holds under value.
func (s *Service) page(cursor byte, index, value string, before uint64, limit int, keep func(bus.Entry[api.TaskRecord]) bool) api.Page[api.Task] {
	page := api.Page[api.Task]{Items: []api.Task{}}
	entries := s.view.List(index, value, before, limit+1, keep)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = api.EncodeCursor(cursor, entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, s.public(e))
	}
	return page
}

// filter returns what a list request keeps; nil keeps all.
func filter(req api.ListTasksRequest) (func(bus.Entry[api.TaskRecord]) bool, error) {
	if req.State != "" && !slices.Contains(api.TaskStates(), req.State) {
		return nil, api.Invalid("/state", "there is no state %q", clip(string(req.State), 40))
	}
	if len(req.Label) > maxLabels {
		return nil, api.Invalid("/label", "at most %d labels can be asked for", maxLabels)
	}
	labels := map[string]string{}
	for _, l := range req.Label {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, api.Invalid("/label", "must be key=value")
		}
		if was, twice := labels[k]; twice && was != v {
			return func(bus.Entry[api.TaskRecord]) bool { return false }, nil // no task has both
		}
		labels[k] = v
	}
	query := strings.ToLower(req.Query)
	return func(e bus.Entry[api.TaskRecord]) bool {
		rec := &e.State
		if req.State != "" && rec.State != req.State || req.Queue != "" && rec.Queue != req.Queue || req.Schedule != "" && rec.Schedule != req.Schedule {
			return false
		}
		for k, v := range labels {
			if got, ok := rec.Labels[k]; !ok || got != v {
				return false
			}
		}
		return query == "" || strings.Contains(rec.ID, query) || strings.Contains(strings.ToLower(rec.Title), query) || strings.Contains(strings.ToLower(rec.Name), query)
	}, nil
}

func (s *Service) get(ctx context.Context, req api.TaskRef) (api.Task, error) {
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err != nil {
		return api.Task{}, err
	}
	return s.public(e), nil
}

const (
	usualWait = 30 * time.Second
	maxWait   = 120 * time.Second
)

// wait answers when a task has ended, or as it is when the time is over.
func (s *Service) wait(ctx context.Context, req api.WaitTaskRequest) (api.Task, error) {
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err != nil {
		return api.Task{}, err
	}
	timeout := req.Timeout.D()
	switch {
	case timeout == 0:
		timeout = usualWait
	case timeout < 0 || timeout > maxWait:
		return api.Task{}, api.Invalid("/timeout", "must be at most %s", maxWait)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ended, err := s.view.Wait(ctx, e.Key, func(now bus.Entry[api.TaskRecord]) bool { return now.State.State.Final() })
	if err == nil {
		return s.public(ended), nil
	}
	if now, ok := s.view.Get(e.Key); ok {
		e = now
	}
	return s.public(e), nil
}

func (s *Service) history(ctx context.Context, req api.HistoryRequest) (api.Page[api.Change[api.Task]], error) {
	page := api.Page[api.Change[api.Task]]{Items: []api.Change[api.Task]{}}
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err != nil {
		return page, err
	}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	after, err := api.DecodeCursor(cursorHistory, req.Cursor)
	if err != nil {
		return page, err
	}
	changes, err := s.tasks.History(ctx, e.Key, after, limit+1)
	if err != nil {
		return page, err
	}
	if len(changes) > limit {
		changes = changes[:limit]
		page.NextCursor = api.EncodeCursor(cursorHistory, changes[limit-1].Rev)
	}
	for _, c := range changes {
		page.Items = append(page.Items, api.Change[api.Task]{
			Rev: c.Rev, At: c.At, Actor: c.Actor, Verb: c.Verb, Reason: c.Reason, Deleted: c.Deleted,
			State: shown(bus.Entry[api.TaskRecord]{Key: e.Key, Change: c}),
		})
	}
	return page, nil
}

func (s *Service) artifacts(ctx context.Context, req api.TaskRef) (api.Page[api.TaskArtifact], error) {
	page := api.Page[api.TaskArtifact]{Items: []api.TaskArtifact{}}
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err == nil && e.State.Result != nil {
		page.Items = append(page.Items, e.State.Result.Artifacts...)
	}
	return page, err
}

// deadLetters lists the tasks of a queue that failed for good: the caller's, or the tenant's to whoever may read them.
func (s *Service) deadLetters(ctx context.Context, req api.DeadLettersRequest) (api.Page[api.Task], error) {
	page := api.Page[api.Task]{Items: []api.Task{}}
	p, _ := api.PrincipalFrom(ctx)
	if _, ok := s.queue(req.Name); !ok {
		return page, noQueue(req.Name)
	}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorDead, req.Cursor)
	if err != nil {
		return page, err
	}
	return s.page(cursorDead, indexDead, ownerValue(p.Tenant, req.Name), before, limit, func(e bus.Entry[api.TaskRecord]) bool {
		return p.CanOn(api.TaskRead, e.State.Tenant, e.State.Owner)
	}), nil
}
