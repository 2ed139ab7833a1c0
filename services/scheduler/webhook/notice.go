package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/scheduler/schedule"
)

// position is how far a ledger was read: every change up to Rev has its deliveries.
type position struct {
	Rev uint64 `json:"rev"`
}

const (
	// look is how often changes are looked for when nobody tells of one.
	look = time.Second
	// page is how many changes are read at once.
	page = 500
	// maxBody bounds a notice; the end of what a task left is cut off where it is larger.
	maxBody    = 64 << 10
	maxSummary = 8 << 10
	// maxPending bounds what waits for one webhook. Above it an event is recorded as failed.
	maxPending = 5_000
	// maxRemembered bounds the tasks whose last state is remembered.
	maxRemembered = 50_000
)

// change is one entry of a ledger, its state unread.
type change = bus.Entry[json.RawMessage]

// follow turns changes into deliveries until ctx ends.
func (s *Service) follow(ctx context.Context) {
	tasks := &reader{s: s, noun: "tasks", notice: taskNotices(bus.ReadLedger[taskHead](s.deps.Bus, "tasks"))}
	schedules := &reader{s: s, noun: "schedules", notice: scheduleNotice}
	for ctx.Err() == nil {
		for _, r := range []*reader{tasks, schedules} {
			if err := r.read(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "notices wait; they are tried again", "ledger", r.noun, "code", api.CodeOf(err), "err", err)
			}
		}
		timer, stop := s.deps.Clock.After(look)
		select {
		case <-timer:
		case <-s.news:
		case <-ctx.Done():
		}
		stop()
	}
}

// reader follows one ledger.
type reader struct {
	s      *Service
	noun   string
	ledger *bus.Ledger[json.RawMessage]
	// notice returns what a change says to the webhooks of its tenant: an empty type is nothing. named are the webhooks that it names itself.
	notice func(ctx context.Context, c change) (n api.Notice, owner string, named []string, err error)

	key  bus.Key
	at   bus.Entry[position]
	have bool

	may map[bus.Key]bool // readsAll of owners, asked once for a page
}

// read goes through what has changed since the last time.
func (r *reader) read(ctx context.Context) error {
	if !r.s.anyWebhook() {
		return nil // nobody to tell; a webhook hears of what comes after it
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	for more := true; more && ctx.Err() == nil; {
		rev := r.at.State.Rev
		r.may = map[bus.Key]bool{}
		var changes []change
		var err error
		if more, err = r.ledger.Changes(ctx, rev, page, func(c change) error {
			changes = append(changes, c)
			return nil
		}); err != nil {
			return err
		}
		for _, c := range changes {
			if err := r.deliver(ctx, c); err != nil {
				return err
			}
			rev = c.Rev
		}
		if rev == r.at.State.Rev {
			return nil
		}
		next, err := r.s.noticed.UpdateAt(ctx, r.key, r.at.Rev, bus.Meta{Actor: actor, Verb: "read"}, func(position) (position, error) {
			return position{Rev: rev}, nil
		})
		if err != nil {
			r.have = false
			return err
		}
		r.at = next
	}
	return nil
}

// open reads the position, or begins one.
func (r *reader) open(ctx context.Context) error {
	if r.have {
		return nil
	}
	r.ledger = bus.ReadLedger[json.RawMessage](r.s.deps.Bus, r.noun)
	r.key = bus.Key{Tenant: "yard", ID: r.noun}
	e, err := r.s.noticed.Get(ctx, r.key)
	if api.CodeOf(err) == api.CodeNotFound {
		e, err = r.s.noticed.Create(ctx, r.key, bus.Meta{Actor: actor, Verb: "begin"}, position{})
	}
	r.at, r.have = e, err == nil
	return err
}

func (s *Service) anyWebhook() (any bool) {
	s.byName.All(func(bus.Entry[record]) bool {
		any = true
		return false
	})
	return any
}

// deliver writes the deliveries of one change. It may be called again for the same.
func (r *reader) deliver(ctx context.Context, c change) error {
	hooks := r.s.byName.List(byTenant, c.Key.Tenant, 0, maxWebhooks, func(e bus.Entry[record]) bool {
		return !e.State.Disabled && !e.State.CreatedAt.After(c.At)
	})
	if len(hooks) == 0 || c.Deleted {
		return nil
	}
	n, owner, named, err := r.notice(ctx, c)
	if err != nil || n.Type == "" {
		return err
	}
	n.ID, n.At, n.Tenant = api.DeriveID('e', r.noun, c.Key.ID, strconv.FormatUint(c.Rev, 10)), c.At, c.Key.Tenant
	var body json.RawMessage
	for _, h := range hooks {
		subscribed := asksFor(h.State.Events, n.Type) && h.State.Owner == owner
		if !subscribed && h.State.All && asksFor(h.State.Events, n.Type) {
			if subscribed, err = r.readsAll(ctx, h); err != nil {
				return err
			}
		}
		if !subscribed && !slices.Contains(named, h.Key.ID) {
			continue
		}
		if body == nil {
			if body, err = encode(n); err != nil {
				return err
			}
		}
		if _, err := r.s.enqueue(ctx, h, n, body); err != nil {
			return err
		}
	}
	return nil
}

// readsAll reports whether a webhook's owner, who could read all tasks of the tenant when it was made, still may.
func (r *reader) readsAll(ctx context.Context, h bus.Entry[record]) (bool, error) {
	key := bus.Key{Tenant: h.Key.Tenant, ID: h.State.Owner}
	if may, ok := r.may[key]; ok {
		return may, nil
	}
	who, err := trust.UserNow(ctx, r.s.deps.Bus, key.Tenant, key.ID)
	if err != nil && api.CodeOf(err) != api.CodeDenied {
		return false, fmt.Errorf("read the owner of a webhook: %w", err)
	}
	may := err == nil && who.Can(api.TaskRead.Any())
	r.may[key] = may
	return may, nil
}

// asksFor reports whether a list of types, such as task.failed or task.*, holds one.
func asksFor(types []string, one string) bool {
	noun, _, _ := strings.Cut(one, ".")
	return slices.ContainsFunc(types, func(t string) bool { return t == one || t == noun+".*" || t == "*" })
}

// enqueue writes a delivery, once for one event and webhook.
func (s *Service) enqueue(ctx context.Context, h bus.Entry[record], n api.Notice, body json.RawMessage) (bus.Entry[api.DeliveryRecord], error) {
	now := s.deps.Clock.Now().UTC()
	d := api.DeliveryRecord{Body: body, Delivery: api.Delivery{
		ID:     api.DeriveID(api.KindDelivery, h.Key.Tenant, h.Key.ID, strconv.FormatUint(h.Created, 10), n.ID),
		Tenant: h.Key.Tenant, Webhook: h.Key.ID, EventID: n.ID, EventType: n.Type,
		State: api.DeliveryPending, CreatedAt: now, NextAt: &now,
	}}
	if s.view.Len(pending, webhookValue(h.Key.Tenant, h.Key.ID)) >= maxPending {
		d.State, d.Problem, d.Body, d.NextAt, d.EndedAt = api.DeliveryFailed, "too much waits for this webhook already", nil, nil, &now
	}
	key := bus.Key{Tenant: d.Tenant, ID: d.ID}
	e, err := s.deliveries.Create(ctx, key, bus.Meta{Actor: actor, Verb: "create"}, d)
	if api.CodeOf(err) == api.CodeConflict {
		return s.deliveries.Get(ctx, key)
	}
	return e, err
}

// encode returns a notice as it is sent, within its bound.
func encode(n api.Notice) (json.RawMessage, error) {
	body, err := json.Marshal(n)
	if err == nil && len(body) > maxBody && n.Task != nil {
		small := *n.Task
		small.Attempts, small.Labels, small.DependsOn = nil, nil, nil
		if small.Result != nil {
			small.Result = &api.TaskResult{Status: small.Result.Status, ExitCode: small.Result.ExitCode, Branch: small.Result.Branch, Commit: small.Result.Commit,
				Summary: clip(small.Result.Summary, maxSummary), Artifacts: []api.TaskArtifact{}, Usage: small.Result.Usage}
		}
		n.Task = &small
		body, err = json.Marshal(n)
	}
	return body, err
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// taskHead is what tells whether a task's change is news.
type taskHead struct {
	State api.TaskState `json:"state"`
}

// taskNotices returns the notices of tasks: one for each change of state. The state before is remembered, or read again.
func taskNotices(history *bus.Ledger[taskHead]) func(context.Context, change) (api.Notice, string, []string, error) {
	last := map[bus.Key]api.TaskState{}
	return func(ctx context.Context, c change) (api.Notice, string, []string, error) {
		var t api.Task
		if err := json.Unmarshal(c.State, &t); err != nil {
			return api.Notice{}, "", nil, nil //nolint:nilerr // of another release; it must not stop the others
		}
		before, known := last[c.Key]
		if !known && c.Created != c.Rev {
			var err error
			if before, err = stateBefore(ctx, history, c.Key, c.Rev); err != nil {
				return api.Notice{}, "", nil, err
			}
		}
		if len(last) >= maxRemembered {
			clear(last)
		}
		if last[c.Key] = t.State; t.State.Final() {
			delete(last, c.Key)
		}
		if t.State == before {
			return api.Notice{}, "", nil, nil
		}
		var named []string
		for _, n := range t.Notify {
			if slices.Contains(n.On, t.State) || len(n.On) == 0 && t.State.Final() {
				named = append(named, n.Webhook)
			}
		}
		t.Prompt, t.Command, t.Env, t.Rev = "", "", nil, c.Rev
		return api.Notice{Type: "task." + string(t.State), Task: &t}, t.Owner, named, nil
	}
}

func stateBefore(ctx context.Context, history *bus.Ledger[taskHead], key bus.Key, rev uint64) (state api.TaskState, err error) {
	const most = 1000 // more than a ledger keeps of one task
	changes, err := history.History(ctx, key, 0, most)
	for _, c := range changes {
		if c.Rev < rev {
			state = c.State.State
		}
	}
	return state, err
}

// scheduleNotice tells that a schedule paused itself.
func scheduleNotice(_ context.Context, c change) (api.Notice, string, []string, error) {
	if c.Verb != schedule.VerbAutoPause {
		return api.Notice{}, "", nil, nil
	}
	var st api.Schedule
	if err := json.Unmarshal(c.State, &st); err != nil {
		return api.Notice{}, "", nil, nil //nolint:nilerr // of another release; it must not stop the others
	}
	var named []string
	for _, n := range st.Task.Notify {
		named = append(named, n.Webhook)
	}
	st.Task.Prompt, st.Task.Command, st.Task.Env, st.Rev = "", "", nil, c.Rev
	return api.Notice{Type: "schedule.paused", Schedule: &st}, st.Owner, named, nil
}
