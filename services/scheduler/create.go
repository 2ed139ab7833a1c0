package scheduler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/scheduler/dag"
)

const (
	// writeTimeout bounds the writes that no operation asked for: operations have deadlines.
	writeTimeout = 20 * time.Second
	// batchWriters write a batch's tasks at once.
	batchWriters = 64
	// waitingRetry is what a tenant that has too many tasks is told to wait.
	waitingRetry = 30 * time.Second
)

func keyIn(tenant, id string) bus.Key { return bus.Key{Tenant: tenant, ID: id} }

// create writes one task. Errors: invalid with every field that is wrong, exhausted when the tenant has too many, conflict for an idempotency
// key that was used for another request.
func (s *Service) create(ctx context.Context, req api.CreateTaskRequest) (api.Task, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return api.Task{}, api.Errorf(api.CodeUnauthenticated, "no credential")
	}
	tasks, err := s.enqueue(ctx, p, []api.TaskSpec{req.TaskSpec}, request{key: req.IdempotencyKey, one: true})
	if err != nil {
		return api.Task{}, err
	}
	return tasks[0], nil
}

func (s *Service) createBatch(ctx context.Context, req api.CreateTasksRequest) (api.CreateTasksResponse, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return api.CreateTasksResponse{}, api.Errorf(api.CodeUnauthenticated, "no credential")
	}
	if n := len(req.Tasks); n == 0 || n > api.MaxBatch {
		return api.CreateTasksResponse{}, api.Invalid("/tasks", "must hold 1 to %d tasks", api.MaxBatch)
	}
	tasks, err := s.enqueue(ctx, p, req.Tasks, request{key: req.IdempotencyKey})
	return api.CreateTasksResponse{Items: tasks}, err
}

// request says for whom tasks are made.
type request struct {
	key      string // idempotency key; "": none
	one      bool   // the spec is the whole body, not one of a list
	schedule string
}

// enqueue checks all specs, then writes a task for each in p's name, those that others depend on first. With a key the ids derive
// from it, so a repetition meets what was written before.
func (s *Service) enqueue(ctx context.Context, p api.Principal, specs []api.TaskSpec, req request) ([]api.Task, error) {
	if len(req.key) > maxKey {
		return nil, api.Invalid("/idempotency_key", "must be at most %d bytes", maxKey)
	}
	recs := make([]api.TaskRecord, len(specs))
	for i := range specs {
		recs[i].ID = api.NewID(api.KindTask)
		if req.key != "" {
			recs[i].ID = api.DeriveID(api.KindTask, p.Tenant, p.ID, req.key, strconv.Itoa(i))
			recs[i].RequestHash = hashSpec(specs[i])
		}
	}
	if req.key != "" {
		if e, ok := s.view.Get(keyIn(p.Tenant, recs[len(recs)-1].ID)); ok {
			if tasks, err := s.repeated(ctx, p.Tenant, recs); err != nil || tasks != nil {
				return tasks, err
			}
			if e.State.RequestHash != recs[len(recs)-1].RequestHash {
				return nil, usedKey()
			}
		}
	}
	order, err := s.prepare(ctx, p, specs, recs, req)
	if err != nil {
		return nil, err
	}
	if n := s.view.Len(indexLive, p.Tenant) + len(specs); n > s.cfg.MaxWaiting {
		return nil, &api.Error{Code: api.CodeExhausted, RetryAfter: waitingRetry,
			Detail: "your organisation would have " + strconv.Itoa(n) + " tasks that have not ended; its limit is " + strconv.Itoa(s.cfg.MaxWaiting)}
	}
	return s.write(ctx, p, recs, order, req)
}

func usedKey() error {
	return api.Errorf(api.CodeConflict, "this idempotency key was used for another request")
}

// repeated returns the tasks of a request that was carried out before, as they were then; nil when it was not, or not to its end.
func (s *Service) repeated(ctx context.Context, tenant string, recs []api.TaskRecord) ([]api.Task, error) {
	tasks := make([]api.Task, len(recs))
	for i := range recs {
		e, ok := s.view.Get(keyIn(tenant, recs[i].ID))
		if !ok || e.State.RequestHash != recs[i].RequestHash {
			return nil, nil
		}
		var err error
		if tasks[i], err = s.firstAnswer(ctx, e); err != nil {
			return nil, err
		}
	}
	return tasks, nil
}

// firstAnswer returns the task as it was made, whatever became of it since. Where its history does not go back so far it is the task as it is now.
func (s *Service) firstAnswer(ctx context.Context, now bus.Entry[api.TaskRecord]) (api.Task, error) {
	changes, err := s.tasks.History(ctx, now.Key, 0, 1)
	switch {
	case err != nil:
		return api.Task{}, err
	case len(changes) == 0 || changes[0].Verb != "create" || changes[0].Rev == now.Rev:
		return s.public(now), nil
	}
	return shown(bus.Entry[api.TaskRecord]{Key: now.Key, Change: changes[0]}), nil
}

// prepare checks specs, fills in recs and returns the order in which to write them.
func (s *Service) prepare(ctx context.Context, p api.Principal, specs []api.TaskSpec, recs []api.TaskRecord, req request) ([]int, error) {
	var bad api.Problems
	at := func(i int) string {
		if req.one {
			return ""
		}
		return "/tasks/" + strconv.Itoa(i)
	}
	named := map[string]int{}
	for i := range specs {
		s.checkSpec(&bad, at(i), &specs[i], p)
		if name := specs[i].Name; name != "" && !req.one {
			if _, twice := named[name]; twice {
				bad.Add(at(i)+"/name", "there are two tasks %q", name)
			}
			named[name] = i
		}
	}
	needs := make([][]int, len(specs))
	now := s.now().UTC()
	for i, spec := range specs {
		parents, open := []string{}, false
		for n, ref := range spec.DependsOn {
			if j, ok := named[ref]; ok {
				needs[i] = append(needs[i], j)
				parents, open = append(parents, recs[j].ID), true
				continue
			}
			e, err := s.lookUp(ctx, p, api.TaskRead, ref)
			if api.CodeOf(err) == api.CodeNotFound {
				bad.Add(at(i)+"/depends_on/"+strconv.Itoa(n), "there is no task %q", clip(ref, 40))
				continue
			}
			if err != nil {
				return nil, err
			}
			parents = append(parents, ref)
			open = open || e.State.State != api.TaskSucceeded
		}
		slices.Sort(parents)
		s.fill(&recs[i], spec, p, now)
		recs[i].DependsOn, recs[i].Schedule = slices.Compact(parents), req.schedule
		if open {
			recs[i].State = api.TaskBlocked
		}
	}
	order, err := dag.Order(needs, func(i int) string { return specs[i].Name })
	if err != nil {
		bad.Add("/tasks", "%v", err)
	}
	return order, bad.Err()
}

// fill makes the record of a spec that was checked.
func (s *Service) fill(rec *api.TaskRecord, spec api.TaskSpec, p api.Principal, now time.Time) {
	if spec.Queue == "" {
		spec.Queue = api.DefaultQueue
	}
	if spec.Priority == nil {
		usual := api.DefaultPriority
		spec.Priority = &usual
	}
	rec.Tenant, rec.Owner, rec.State, rec.CreatedAt, rec.QueuedAt = p.Tenant, p.ID, api.TaskQueued, now, now
	rec.SessionRequest, spec.Session = spec.Session, nil
	rec.TaskSpec = spec
}

func (s *Service) write(ctx context.Context, p api.Principal, recs []api.TaskRecord, order []int, req request) ([]api.Task, error) {
	tasks := make([]api.Task, len(recs))
	one := func(ctx context.Context, i int) error {
		key := keyIn(p.Tenant, recs[i].ID)
		e, err := s.tasks.Create(ctx, key, bus.Meta{Actor: p.ID, Verb: "create"}, recs[i])
		if api.CodeOf(err) == api.CodeConflict && req.key != "" {
			if e, err = s.tasks.Get(ctx, key); err == nil && e.State.RequestHash != recs[i].RequestHash {
				err = usedKey()
			}
			if err == nil {
				tasks[i], err = s.firstAnswer(ctx, e)
			}
			return err
		}
		if err == nil {
			tasks[i] = s.public(e)
		}
		return err
	}
	if len(recs) == 1 { // the usual case needs no other goroutine
		if err := one(ctx, 0); err != nil {
			return nil, err
		}
		return tasks, nil
	}
	// Nobody may see a child before its parents.
	free := func(i int) bool { return recs[i].State != api.TaskBlocked }
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(batchWriters)
	for _, i := range order {
		if free(i) {
			g.Go(func() error { return one(gctx, i) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, i := range order {
		if free(i) {
			continue
		}
		if err := one(ctx, i); err != nil {
			return nil, err
		}
	}
	return tasks, nil
}

// hashSpec tells one request from another.
func hashSpec(spec api.TaskSpec) string {
	data, err := json.Marshal(spec) // maps are in order
	if err != nil {
		return "" // cannot happen: it came as JSON
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}
