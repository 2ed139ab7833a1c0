package schedule

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/scheduler/cron"
)

// Bounds of schedules.
const (
	maxTitle     = 200 // bytes
	maxSchedules = 10_000
	shownTimes   = 5
	maxTimes     = 100
)

// Register adds the operations on schedules to a server.
func (s *Service) Register(server *rpc.Server) {
	rpc.Handle(server, api.CreateSchedule, s.create)
	rpc.Handle(server, api.ListSchedules, s.list)
	rpc.Handle(server, api.GetSchedule, s.get)
	rpc.Handle(server, api.ScheduleHistory, s.history)
	rpc.Handle(server, api.UpdateSchedule, s.update)
	rpc.Handle(server, api.DeleteSchedule, s.delete)
	rpc.Handle(server, api.PauseSchedule, s.pause)
	rpc.Handle(server, api.ResumeSchedule, s.resume)
	rpc.Handle(server, api.RunSchedule, s.run)
	rpc.Handle(server, api.NextTimes, s.next)
	rpc.Handle(server, api.PreviewSchedule, s.preview)
}

// public returns what leaves the service: without the task's environment, with the next times.
func (s *Service) public(e bus.Entry[api.Schedule]) api.Schedule {
	st := shown(e.State, e.Rev)
	if p, err := planOf(e.State); err == nil && !st.Paused {
		st.Next = inUTC(p.times.NextN(latest(st.Planned, s.deps.Clock.Now()), shownTimes))
	}
	return st
}

func shown(st api.Schedule, rev uint64) api.Schedule {
	st.Rev, st.Task.Env = rev, nil
	return st
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// find returns the schedule id of the caller's tenant on which the caller holds perm; what is missing and what is another's is not_found alike.
func (s *Service) find(ctx context.Context, perm api.Permission, id string) (bus.Entry[api.Schedule], api.Principal, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return bus.Entry[api.Schedule]{}, p, api.Errorf(api.CodeUnauthenticated, "no valid credential came with the request")
	}
	if api.ValidID(api.KindSchedule, id) {
		if e, ok := s.view.Get(bus.Key{Tenant: p.Tenant, ID: id}); ok && p.CanOn(perm, e.State.Tenant, e.State.Owner) {
			return e, p, nil
		}
	}
	return bus.Entry[api.Schedule]{}, p, api.Errorf(api.CodeNotFound, "there is no schedule %.40q", id)
}

// check refuses a spec that could not fire.
func (s *Service) check(ctx context.Context, st api.Schedule) error {
	if _, err := planOf(st); err != nil {
		return err
	}
	switch {
	case len(st.Title) > maxTitle:
		return api.Invalid("/title", "must be at most %d bytes", maxTitle)
	case st.Overlap != api.OverlapSkip && st.Overlap != api.OverlapQueue && st.Overlap != api.OverlapCancel && st.Overlap != "":
		return api.Invalid("/overlap", "must be skip, queue or cancel_running")
	case st.CatchUp < 0 || st.CatchUp > api.MaxCatchUp:
		return api.Invalid("/catch_up", "must be between 0s (the default, %v) and %v", api.DefaultCatchUp, api.MaxCatchUp)
	case st.Jitter < 0 || st.Jitter > api.MaxJitter:
		return api.Invalid("/jitter", "must be between 0s and %v", api.MaxJitter)
	case st.PauseAfter > recentTasks/2:
		return api.Invalid("/pause_after", "must be at most %d; a negative number is never", recentTasks/2)
	case st.Task.Deadline != nil:
		return api.Invalid("/task/deadline", "is one moment, but the schedule makes many tasks; use timeout")
	case st.Task.NotBefore != nil:
		return api.Invalid("/task/not_before", "is one moment, but the schedule makes many tasks")
	case len(st.Task.DependsOn) > 0:
		return api.Invalid("/task/depends_on", "would be the same for each task of the schedule")
	}
	return below("/task", s.deps.Tasks.Check(ctx, Owner{Tenant: st.Tenant, ID: st.Owner}, st.Task))
}

// below puts the pointers of an invalid error under a prefix.
func below(prefix string, err error) error {
	if api.CodeOf(err) != api.CodeInvalid {
		return err
	}
	e := api.Redact(err)
	if len(e.Fields) == 0 {
		return api.Invalid(prefix, "%s", e.Detail)
	}
	out := api.Error{Code: e.Code}
	for i, f := range e.Fields {
		f.Pointer = prefix + f.Pointer
		out.Fields = append(out.Fields, f)
		if i > 0 {
			out.Detail += "; "
		}
		out.Detail += f.Pointer + ": " + f.Detail
	}
	return &out
}

func (s *Service) create(ctx context.Context, req api.CreateScheduleRequest) (api.Schedule, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return api.Schedule{}, api.Errorf(api.CodeUnauthenticated, "no valid credential came with the request")
	}
	now := s.deps.Clock.Now().UTC()
	st := api.Schedule{
		ID: api.NewID(api.KindSchedule), Tenant: p.Tenant, Owner: p.ID, ScheduleSpec: req.ScheduleSpec,
		Planned: now, Since: now, CreatedAt: now,
	}
	if req.IdempotencyKey != "" {
		st.ID = api.DeriveID(api.KindSchedule, p.Tenant, p.ID, req.IdempotencyKey)
	}
	if err := s.check(ctx, st); err != nil {
		return api.Schedule{}, err
	}
	if s.view.Len(byTenant, p.Tenant) >= maxSchedules {
		return api.Schedule{}, api.Errorf(api.CodeExhausted, "the tenant has %d schedules already; delete one first", maxSchedules)
	}
	key := bus.Key{Tenant: st.Tenant, ID: st.ID}
	e, err := s.ledger.Create(ctx, key, bus.Meta{Actor: p.ID, Verb: "create"}, st)
	if api.CodeOf(err) == api.CodeConflict && req.IdempotencyKey != "" {
		return s.repeated(ctx, key, req)
	}
	if err != nil {
		return api.Schedule{}, err
	}
	return s.public(e), nil
}

// repeated answers a create that has been made under the same idempotency key.
func (s *Service) repeated(ctx context.Context, key bus.Key, req api.CreateScheduleRequest) (api.Schedule, error) {
	first, err := s.ledger.History(ctx, key, 0, 1)
	if err != nil {
		return api.Schedule{}, err
	}
	e, err := s.ledger.Get(ctx, key)
	if err != nil {
		return api.Schedule{}, err
	}
	if len(first) == 1 && first[0].Verb == "create" && !same(first[0].State.ScheduleSpec, req.ScheduleSpec) {
		return api.Schedule{}, api.Errorf(api.CodeConflict, "the idempotency key was used for another schedule")
	}
	return s.public(e), nil
}

func same(a, b api.ScheduleSpec) bool {
	x, xerr := json.Marshal(a)
	y, yerr := json.Marshal(b)
	return xerr == nil && yerr == nil && string(x) == string(y)
}

func (s *Service) list(ctx context.Context, req api.ListSchedulesRequest) (api.Page[api.Schedule], error) {
	page := api.Page[api.Schedule]{Items: []api.Schedule{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := position(req.Cursor)
	if err != nil {
		return page, err
	}
	all := p.Can(api.TaskRead.Any())
	index, value := byTenant, p.Tenant
	switch {
	case req.Owner != "" && (req.Owner == p.ID || all):
		index, value = byOwner, ownerValue(p.Tenant, req.Owner)
	case req.Owner != "":
		return page, nil // another's, of which the caller may know nothing
	case !all:
		index, value = byOwner, ownerValue(p.Tenant, p.ID)
	}
	var keep func(bus.Entry[api.Schedule]) bool
	if q := strings.ToLower(req.Query); q != "" {
		keep = func(e bus.Entry[api.Schedule]) bool {
			return strings.Contains(strings.ToLower(e.State.Title+"\n"+e.State.Cron+"\n"+e.State.ID), q)
		}
	}
	entries := s.view.List(index, value, before, limit+1, keep)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = strconv.FormatUint(entries[limit-1].Created, 36)
	}
	for _, e := range entries {
		page.Items = append(page.Items, s.public(e))
	}
	return page, nil
}

// position reads a cursor: the revision behind which a list goes on.
func position(cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	at, err := strconv.ParseUint(cursor, 36, 64)
	if err != nil || at == 0 {
		return 0, api.Invalid("/cursor", "is not a cursor that this list gave out")
	}
	return at, nil
}

func (s *Service) get(ctx context.Context, req api.ScheduleRef) (api.Schedule, error) {
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err != nil {
		return api.Schedule{}, err
	}
	return s.public(e), nil
}

func (s *Service) history(ctx context.Context, req api.HistoryRequest) (api.Page[api.Change[api.Schedule]], error) {
	page := api.Page[api.Change[api.Schedule]]{Items: []api.Change[api.Schedule]{}}
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err != nil {
		return page, err
	}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	after, err := position(req.Cursor)
	if err != nil {
		return page, err
	}
	changes, err := s.ledger.History(ctx, e.Key, after, limit+1)
	if err != nil {
		return page, err
	}
	if len(changes) > limit {
		changes = changes[:limit]
		page.NextCursor = strconv.FormatUint(changes[limit-1].Rev, 36)
	}
	for _, c := range changes {
		c.State = shown(c.State, c.Rev)
		page.Items = append(page.Items, c)
	}
	return page, nil
}

// change writes what f makes of a schedule that the caller may change.
func (s *Service) change(ctx context.Context, id string, rev uint64, verb string, f func(api.Schedule) (api.Schedule, error)) (api.Schedule, error) {
	e, p, err := s.find(ctx, api.TaskWrite, id)
	if err != nil {
		return api.Schedule{}, err
	}
	e, err = s.ledger.UpdateAt(ctx, e.Key, rev, bus.Meta{Actor: p.ID, Verb: verb}, f)
	if err != nil {
		return api.Schedule{}, err
	}
	return s.public(e), nil
}

func (s *Service) update(ctx context.Context, req api.UpdateScheduleRequest) (api.Schedule, error) {
	return s.change(ctx, req.ID, req.IfMatch, "update", func(st api.Schedule) (api.Schedule, error) {
		was := st
		set(&st.Title, req.Title)
		set(&st.Cron, req.Cron)
		set(&st.Timezone, req.Timezone)
		set(&st.Task, req.Task)
		set(&st.Overlap, req.Overlap)
		set(&st.CatchUp, req.CatchUp)
		set(&st.Jitter, req.Jitter)
		set(&st.PauseAfter, req.PauseAfter)
		if st.Task.Env == nil {
			st.Task.Env = was.Task.Env // it is never shown, so who changes something else cannot send it back
		}
		if req.Paused != nil && *req.Paused != st.Paused {
			st.Paused, st.PausedReason = *req.Paused, ""
		}
		if st.Cron != was.Cron || st.Timezone != was.Timezone || was.Paused && !st.Paused {
			st = s.anew(st)
		}
		st.Since, st.Failures = s.deps.Clock.Now().UTC(), 0
		return st, s.check(ctx, st)
	})
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// anew lets a schedule go on from now: neither fires nor failures of before count.
func (s *Service) anew(st api.Schedule) api.Schedule {
	now := s.deps.Clock.Now().UTC()
	st.Planned, st.Since = latest(st.Planned, now), now
	st.Failures, st.LastProblem = 0, ""
	return st
}

func (s *Service) delete(ctx context.Context, req api.ScheduleRef) (api.None, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.ID)
	if err != nil {
		return api.None{}, err
	}
	return api.None{}, s.ledger.Delete(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"})
}

func (s *Service) pause(ctx context.Context, req api.ScheduleRef) (api.Schedule, error) {
	return s.change(ctx, req.ID, req.IfMatch, "pause", func(st api.Schedule) (api.Schedule, error) {
		if st.Paused {
			return st, bus.ErrUnchanged
		}
		st.Paused, st.PausedReason = true, ""
		return st, nil
	})
}

func (s *Service) resume(ctx context.Context, req api.ScheduleRef) (api.Schedule, error) {
	return s.change(ctx, req.ID, req.IfMatch, "resume", func(st api.Schedule) (api.Schedule, error) {
		if !st.Paused {
			return st, bus.ErrUnchanged
		}
		st.Paused, st.PausedReason = false, ""
		return s.anew(st), nil
	})
}

func (s *Service) run(ctx context.Context, req api.RunScheduleRequest) (api.Task, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.ID)
	if err != nil {
		return api.Task{}, err
	}
	id := api.NewID(api.KindTask)
	if req.IdempotencyKey != "" {
		id = api.DeriveID(api.KindTask, "schedule-run", e.State.ID, p.ID, req.IdempotencyKey)
	}
	st := e.State
	return s.deps.Tasks.Make(ctx, Make{ID: id, Owner: Owner{Tenant: st.Tenant, ID: st.Owner}, Schedule: st.ID, Spec: st.Task})
}

func (s *Service) next(ctx context.Context, req api.NextTimesRequest) (api.NextTimesResponse, error) {
	e, _, err := s.find(ctx, api.TaskRead, req.ID)
	if err != nil {
		return api.NextTimesResponse{}, err
	}
	p, err := planOf(e.State)
	if err != nil {
		return api.NextTimesResponse{}, err
	}
	after := req.After
	if after.IsZero() {
		after = latest(e.State.Planned, s.deps.Clock.Now())
	}
	return times(p.times, after, req.Count)
}

func (s *Service) preview(_ context.Context, req api.PreviewScheduleRequest) (api.NextTimesResponse, error) {
	if req.After.IsZero() {
		req.After = s.deps.Clock.Now().UTC()
	}
	p, err := planOf(api.Schedule{ScheduleSpec: api.ScheduleSpec{Cron: req.Cron, Timezone: req.Timezone}, CreatedAt: req.After})
	if err != nil {
		return api.NextTimesResponse{}, err
	}
	return times(p.times, req.After, req.Count)
}

func times(c cron.Schedule, after time.Time, count int) (api.NextTimesResponse, error) {
	if count == 0 {
		count = shownTimes
	}
	if count < 0 || count > maxTimes {
		return api.NextTimesResponse{}, api.Invalid("/count", "must be between 1 and %d", maxTimes)
	}
	return api.NextTimesResponse{Items: inUTC(c.NextN(after, count))}, nil
}

func inUTC(list []time.Time) []time.Time {
	out := make([]time.Time, len(list))
	for i, t := range list {
		out[i] = t.UTC()
	}
	return out
}
