package scheduler

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/scheduler/fair"
)

// Bounds of a queue's configuration.
const (
	maxWeight  = 1000
	maxWeights = 10_000
	maxRates   = 1000
	maxLimit   = 1_000_000
)

// queueKey is where a queue is kept: queues are the yard's, not a tenant's.
func queueKey(name string) bus.Key { return keyIn(api.HomeTenant, name) }

func noQueue(name string) error {
	return api.Errorf(api.CodeNotFound, "there is no queue %q", clip(name, 40))
}

// queue returns the queue called name, or "" for the default one.
func (s *Service) queue(name string) (api.Queue, bool) {
	if name == "" {
		name = api.DefaultQueue
	}
	if e, ok := s.byName.Get(queueKey(name)); ok {
		q := e.State
		q.Rev = e.Rev
		return q, true
	}
	return api.Queue{Name: name}, name == api.DefaultQueue
}

// rules returns what a queue's order needs of it.
func (s *Service) rules(name string) fair.Config {
	q, _ := s.queue(name)
	c := fair.Config{
		Paused: q.Paused, Concurrency: q.Concurrency, PerTenant: q.PerTenant, PerUser: q.PerUser, PerKey: q.PerKey,
		TenantWeights: q.TenantWeights, UserWeights: q.UserWeights, Ageing: q.Ageing.D(), Rates: map[string]fair.Rate{},
	}
	for key, r := range q.Rates {
		c.Rates[key] = fair.Rate{Count: r.Count, Per: r.Per.D()}
	}
	for field, def := range map[*int]int{&c.Concurrency: s.cfg.Concurrency, &c.PerTenant: s.cfg.PerTenant, &c.PerUser: s.cfg.PerUser} {
		if *field == 0 {
			*field = def
		}
	}
	return c
}

func (s *Service) queueChanged(_ *bus.Entry[api.Queue], now bus.Entry[api.Queue]) {
	s.shardOf(now.Key.ID).configure(now.Key.ID)
}

func checkQueue(q api.Queue) error {
	var bad api.Problems
	if !api.ValidName(q.Name) {
		bad.Add("/name", "is 1 to 40 of a–z, 0–9 and '-'")
	}
	bad.Line("/description", q.Description, maxTitle)
	for at, n := range map[string]int{"/concurrency": q.Concurrency, "/per_tenant": q.PerTenant, "/per_user": q.PerUser, "/per_key": q.PerKey} {
		if n < 0 || n > maxLimit {
			bad.Add(at, "must be between 0 and %d", maxLimit)
		}
	}
	for at, weights := range map[string]map[string]int{"/tenant_weights": q.TenantWeights, "/user_weights": q.UserWeights} {
		if len(weights) > maxWeights {
			bad.Add(at, "has %d entries; at most %d are allowed", len(weights), maxWeights)
		}
		for _, w := range weights {
			if w < 1 || w > maxWeight {
				bad.Add(at, "a weight is 1 to %d", maxWeight)
				break
			}
		}
	}
	if len(q.Rates) > maxRates {
		bad.Add("/rates", "has %d entries; at most %d are allowed", len(q.Rates), maxRates)
	}
	for _, r := range q.Rates {
		if r.Count < 1 || r.Count > maxLimit || r.Per.D() < time.Millisecond || r.Per.D() > maxDuration {
			bad.Add("/rates", "a rate has a count from 1 and a time from 1ms")
			break
		}
	}
	checkReuse(&bad, "/session_reuse", q.Reuse)
	checkDuration(&bad, "/ageing", q.Ageing)
	checkDuration(&bad, "/default_timeout", q.DefaultTimeout)
	checkDuration(&bad, "/retention", q.Retention)
	checkDuration(&bad, "/artifact_retention", q.ArtifactRetention)
	return bad.Err()
}

func (s *Service) createQueue(ctx context.Context, req api.Queue) (api.Queue, error) {
	p, _ := api.PrincipalFrom(ctx)
	if err := checkQueue(req); err != nil {
		return api.Queue{}, err
	}
	req.CreatedAt, req.Rev = s.now().UTC(), 0
	e, err := s.queues.Create(ctx, queueKey(req.Name), bus.Meta{Actor: p.ID, Verb: "create"}, req)
	if api.CodeOf(err) == api.CodeConflict {
		err = api.Errorf(api.CodeConflict, "there is a queue %q already", req.Name)
	}
	return answerQueue(e, err)
}

func answerQueue(e bus.Entry[api.Queue], err error) (api.Queue, error) {
	q := e.State
	q.Rev = e.Rev
	return q, err
}

func (s *Service) listQueues(_ context.Context, req api.List) (api.Page[api.Queue], error) {
	page := api.Page[api.Queue]{Items: []api.Queue{}}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorQueues, req.Cursor)
	if err != nil {
		return page, err
	}
	if _, kept := s.byName.Get(queueKey(api.DefaultQueue)); !kept && before == 0 {
		page.Items = append(page.Items, api.Queue{Name: api.DefaultQueue})
	}
	entries := s.byName.List(indexTenant, api.HomeTenant, before, limit+1, nil)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = api.EncodeCursor(cursorQueues, entries[limit-1].Created)
	}
	for _, e := range entries {
		q, _ := answerQueue(e, nil)
		page.Items = append(page.Items, q)
	}
	return page, nil
}

func (s *Service) getQueue(_ context.Context, req api.NameRef) (api.Queue, error) {
	q, ok := s.queue(req.Name)
	if !ok {
		return api.Queue{}, noQueue(req.Name)
	}
	return q, nil
}

func (s *Service) updateQueue(ctx context.Context, req api.UpdateQueueRequest) (api.Queue, error) {
	if req.Queue.Name != "" && req.Queue.Name != req.Name {
		return api.Queue{}, api.Invalid("/name", "is %q in the path", req.Name)
	}
	req.Queue.Name = req.Name
	if err := checkQueue(req.Queue); err != nil {
		return api.Queue{}, err
	}
	return s.changeQueue(ctx, req.Name, req.IfMatch, "update", func(q api.Queue) api.Queue {
		next := req.Queue
		next.CreatedAt, next.Rev = q.CreatedAt, 0
		return next
	})
}

// changeQueue changes a queue; the default one is made when it is first changed.
func (s *Service) changeQueue(ctx context.Context, name string, ifMatch uint64, verb string, f func(api.Queue) api.Queue) (api.Queue, error) {
	p, _ := api.PrincipalFrom(ctx)
	key, meta := queueKey(name), bus.Meta{Actor: p.ID, Verb: verb}
	e, err := s.queues.UpdateAt(ctx, key, ifMatch, meta, func(q api.Queue) (api.Queue, error) { return f(q), nil })
	if api.CodeOf(err) == api.CodeNotFound && name == api.DefaultQueue && ifMatch == 0 {
		e, err = s.queues.Create(ctx, key, meta, f(api.Queue{Name: name, CreatedAt: s.now().UTC()}))
	}
	if api.CodeOf(err) == api.CodeNotFound {
		err = noQueue(name)
	}
	return answerQueue(e, err)
}

func (s *Service) pauseQueue(ctx context.Context, req api.NameRef) (api.Queue, error) {
	return s.changeQueue(ctx, req.Name, req.IfMatch, "pause", func(q api.Queue) api.Queue {
		q.Paused = true
		return q
	})
}

func (s *Service) resumeQueue(ctx context.Context, req api.NameRef) (api.Queue, error) {
	return s.changeQueue(ctx, req.Name, req.IfMatch, "resume", func(q api.Queue) api.Queue {
		q.Paused = false
		return q
	})
}

func (s *Service) deleteQueue(ctx context.Context, req api.NameRef) (api.None, error) {
	p, _ := api.PrincipalFrom(ctx)
	if req.Name == api.DefaultQueue {
		return api.None{}, api.Errorf(api.CodeConflict, "the default queue stays")
	}
	if _, ok := s.queue(req.Name); !ok {
		return api.None{}, noQueue(req.Name)
	}
	if n := s.shardOf(req.Name).known(req.Name); n > 0 {
		return api.None{}, api.Errorf(api.CodeConflict, "%d tasks of the queue have not ended", n)
	}
	return api.None{}, s.queues.Delete(ctx, queueKey(req.Name), req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"})
}

// queueStats counts the tasks of the caller's tenant, and of everyone for who manages the yard. It visits the tenant's tasks.
func (s *Service) queueStats(ctx context.Context, req api.NameRef) (api.QueueStats, error) {
	p, _ := api.PrincipalFrom(ctx)
	q, ok := s.queue(req.Name)
	if !ok {
		return api.QueueStats{}, noQueue(req.Name)
	}
	stats := api.QueueStats{Queue: q.Name, Paused: q.Paused, States: map[api.TaskState]int{}}
	all := p.Can(api.TenantWrite)
	s.view.All(func(e bus.Entry[api.TaskRecord]) bool {
		rec := &e.State
		if rec.Queue != q.Name || !all && e.Key.Tenant != p.Tenant {
			return true
		}
		stats.States[rec.State]++
		if rec.DeadLetter {
			stats.DeadLetters++
		}
		if rec.State == api.TaskQueued && (stats.OldestAt == nil || rec.QueuedAt.Before(*stats.OldestAt)) {
			at := rec.QueuedAt
			stats.OldestAt = &at
		}
		return true
	})
	tenant := p.Tenant
	if all {
		tenant = ""
	}
	stats.Waiting = s.shardOf(q.Name).waiting(q.Name, tenant)
	return stats, nil
}
