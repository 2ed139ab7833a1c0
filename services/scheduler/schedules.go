package scheduler

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/seal"
	"agentyard.dev/services/scheduler/schedule"
	"agentyard.dev/services/scheduler/webhook"
)

// indexSchedule lists the tasks of a schedule, tenant/schedule.
const indexSchedule = "schedule"

// openSchedules makes the parts that make tasks at planned times and that tell others of them.
func (s *Service) openSchedules(ctx context.Context) error {
	clock := ownClock{now: s.now}
	keys, err := s.sealKeys()
	if err != nil {
		return err
	}
	s.schedules = schedule.New(schedule.Deps{
		Bus: s.deps.Bus, Tasks: scheduled{s}, Replicas: s.cfg.Replicas, Holder: s.id, Clock: clock, Logger: s.log,
		Allowed: func(ctx context.Context, owner schedule.Owner) error {
			_, err := s.acting.as(ctx, owner.Tenant, owner.ID, "schedule")
			return err
		},
	})
	s.webhooks = webhook.New(webhook.Deps{
		Bus: s.deps.Bus, Replicas: s.cfg.Replicas, Holder: s.id, AllowPrivate: s.cfg.WebhookAllowPrivate, Clock: clock, Keys: keys, Logger: s.log,
	})
	if err := s.schedules.Open(ctx); err != nil {
		return err
	}
	return s.webhooks.Open(ctx)
}

// sealKeys returns the keys of the configured file and the yard's own; nil when there is neither.
func (s *Service) sealKeys() (*seal.Keys, error) {
	var keys [][]byte
	if path := s.cfg.SecretKeysFile; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("-scheduler.secret-keys-file: %w", err)
		}
		if keys, err = seal.ParseKeys(text); err != nil {
			return nil, fmt.Errorf("-scheduler.secret-keys-file: %s: %w", path, err)
		}
	}
	if s.deps.SealKey != nil {
		keys = append(keys, s.deps.SealKey) // what was sealed before there was a file still opens
	}
	if len(keys) == 0 {
		s.log.Warn("the signing secrets of webhooks are not sealed on the bus; name a file with -scheduler.secret-keys-file")
		return nil, nil //nolint:nilnil // as before there was sealing
	}
	return seal.NewKeys(keys...)
}

// tellSchedules tells those who wait for it that a task has changed.
func (s *Service) tellSchedules(old *bus.Entry[api.TaskRecord], now bus.Entry[api.TaskRecord]) {
	if now.Deleted || old != nil && old.State.State == now.State.State {
		return
	}
	s.webhooks.Changed()
	if now.State.Schedule != "" && now.State.State.Final() {
		s.schedules.TaskEnded(now.Key.Tenant, now.State.Schedule)
	}
}

// checkNotify adds what is wrong with whom a task tells of its end.
func (s *Service) checkNotify(bad *api.Problems, at string, spec *api.TaskSpec, p api.Principal) {
	if len(spec.Notify) > maxNotify {
		bad.Add(at+"/notify", "has %d entries; at most %d are allowed", len(spec.Notify), maxNotify)
		return
	}
	for i, n := range spec.Notify {
		at := at + "/notify/" + strconv.Itoa(i)
		if !s.webhooks.Exists(p.Tenant, n.Webhook) {
			bad.Add(at+"/webhook", "there is no webhook %q", clip(n.Webhook, 40))
		}
		for j, state := range n.On {
			if !slices.Contains(api.TaskStates(), state) {
				bad.Add(at+"/on/"+strconv.Itoa(j), "there is no state %q", clip(string(state), 40))
			}
		}
	}
}

// scheduled makes and looks at the tasks of schedules.
type scheduled struct{ s *Service }

// principal is a schedule's owner as one who makes a task.
func principal(o schedule.Owner) api.Principal {
	return api.Principal{ID: o.ID, Tenant: o.Tenant, Roles: []api.Role{api.RoleMember}}
}

// Check implements schedule.Tasks.
func (t scheduled) Check(_ context.Context, owner schedule.Owner, spec api.TaskSpec) error {
	var bad api.Problems
	t.s.checkSpec(&bad, "", &spec, principal(owner))
	return bad.Err()
}

// Make implements schedule.Tasks.
func (t scheduled) Make(ctx context.Context, m schedule.Make) (api.Task, error) {
	s := t.s
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if e, ok := s.view.Get(keyIn(m.Owner.Tenant, m.ID)); ok {
		return s.public(e), nil
	}
	// The id is the idempotency key: what was made under it is the same task, whatever the schedule says by now.
	p, req := principal(m.Owner), request{key: m.ID, one: true, schedule: m.Schedule}
	recs := []api.TaskRecord{{Task: api.Task{ID: m.ID}}}
	order, err := s.prepare(ctx, p, []api.TaskSpec{m.Spec}, recs, req)
	if err != nil {
		return api.Task{}, err
	}
	if s.view.Len(indexLive, p.Tenant) >= s.cfg.MaxWaiting {
		return api.Task{}, api.Errorf(api.CodeExhausted, "the organisation has %d tasks that have not ended; that is its limit", s.cfg.MaxWaiting)
	}
	tasks, err := s.write(ctx, p, recs, order, req)
	if err != nil {
		return api.Task{}, err
	}
	return tasks[0], nil
}

// Recent implements schedule.Tasks.
func (t scheduled) Recent(tenant, id string, limit int) []api.Task {
	entries := t.s.view.List(indexSchedule, ownerValue(tenant, id), 0, limit, nil)
	tasks := make([]api.Task, 0, len(entries))
	for _, e := range entries {
		tasks = append(tasks, shown(e))
	}
	return tasks
}

// Cancel implements schedule.Tasks.
func (t scheduled) Cancel(ctx context.Context, tenant, id, reason string) error {
	_, err := t.s.change(ctx, keyIn(tenant, id), bus.Meta{Actor: actor, Verb: "cancel", Reason: reason}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		switch {
		case rec.State.Final() || rec.CancelRequested:
			return bus.ErrUnchanged
		case rec.State.Active():
			rec.CancelRequested, rec.Reason = true, reason
		default:
			t.s.end(rec, api.TaskCancelled, reason)
		}
		return nil
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	return err
}

// ownClock shows the service's time.
type ownClock struct {
	schedule.SystemClock
	now func() time.Time
}

// Now implements schedule.Clock.
func (c ownClock) Now() time.Time { return c.now() }
