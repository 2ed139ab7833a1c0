package webhook

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

// Bounds of webhooks.
const (
	maxWebhooks = 100 // of a tenant
	maxEvents   = 32
	// rotation is how long an old secret signs beside the new one, unless asked otherwise.
	rotation    = 24 * time.Hour
	maxRotation = 7 * 24 * time.Hour
)

// types are the events that a webhook can ask for; noun.* is all of a noun.
var types = func() []string {
	list := []string{"*", "task.*", "schedule.*", "schedule.paused"}
	for _, s := range api.TaskStates() {
		list = append(list, "task."+string(s))
	}
	return list
}()

// Register adds the operations on webhooks to a server.
func (s *Service) Register(server *rpc.Server) {
	rpc.Handle(server, api.CreateWebhook, s.create)
	rpc.Handle(server, api.ListWebhooks, s.list)
	rpc.Handle(server, api.GetWebhook, s.get)
	rpc.Handle(server, api.UpdateWebhook, s.update)
	rpc.Handle(server, api.DeleteWebhook, s.delete)
	rpc.Handle(server, api.RotateWebhook, s.rotate)
	rpc.Handle(server, api.PingWebhook, s.ping)
	rpc.Handle(server, api.ListDeliveries, s.listDeliveries)
	rpc.Handle(server, api.Redeliver, s.redeliver)
}

func public(e bus.Entry[record]) api.Webhook {
	w := e.State.Webhook
	w.Rev = e.Rev
	return w
}

func shown(e bus.Entry[api.DeliveryRecord]) api.Delivery {
	d := e.State.Delivery
	d.Rev = e.Rev
	return d
}

// find returns a webhook of the caller's tenant on which the caller holds perm; what is missing and what is another's is not_found alike.
func (s *Service) find(ctx context.Context, perm api.Permission, name string) (bus.Entry[record], api.Principal, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return bus.Entry[record]{}, p, api.Errorf(api.CodeUnauthenticated, "no valid credential came with the request")
	}
	if api.ValidName(name) {
		if e, ok := s.byName.Get(bus.Key{Tenant: p.Tenant, ID: name}); ok && p.CanOn(perm, e.Key.Tenant, e.State.Owner) {
			return e, p, nil
		}
	}
	return bus.Entry[record]{}, p, api.Errorf(api.CodeNotFound, "there is no webhook %q", clip(name, 40))
}

func (s *Service) check(target string, events []string) error {
	if _, err := CheckURL(target, s.deps.AllowPrivate); err != nil {
		return api.Invalid("/url", "%v", err)
	}
	if len(events) > maxEvents {
		return api.Invalid("/events", "must hold at most %d types", maxEvents)
	}
	for i, t := range events {
		if !slices.Contains(types, t) {
			return api.Invalid("/events/"+strconv.Itoa(i), "is none of %s", strings.Join(types, ", "))
		}
	}
	return nil
}

func newKey(now time.Time) (string, api.WebhookSecret) {
	key := NewSecret()
	return key, api.WebhookSecret{Prefix: key[:shownPrefix], CreatedAt: now}
}

func (s *Service) create(ctx context.Context, req api.CreateWebhookRequest) (api.WebhookWithSecret, error) {
	var none api.WebhookWithSecret
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return none, api.Errorf(api.CodeUnauthenticated, "no valid credential came with the request")
	}
	if !api.ValidName(req.Name) {
		return none, api.Invalid("/name", "must be 1 to 40 of a–z, 0–9 and '-', starting and ending with a letter or digit")
	}
	if err := s.check(req.URL, req.Events); err != nil {
		return none, err
	}
	if s.byName.Len(byTenant, p.Tenant) >= maxWebhooks {
		return none, api.Errorf(api.CodeExhausted, "the tenant has %d webhooks already; delete one first", maxWebhooks)
	}
	now := s.deps.Clock.Now().UTC()
	key, secret := newKey(now)
	rec := record{
		Webhook: api.Webhook{
			Name: req.Name, Tenant: p.Tenant, Owner: p.ID, URL: req.URL, Events: req.Events,
			Secrets: []api.WebhookSecret{secret}, CreatedAt: now,
		},
		All: p.Can(api.TaskRead.Any()),
	}
	if err := s.keep(&rec, key); err != nil {
		return none, err
	}
	e, err := s.webhooks.Create(ctx, bus.Key{Tenant: p.Tenant, ID: req.Name}, bus.Meta{Actor: p.ID, Verb: "create"}, rec)
	if api.CodeOf(err) == api.CodeConflict {
		return none, api.Errorf(api.CodeConflict, "there is a webhook %q already", req.Name)
	}
	if err != nil {
		return none, err
	}
	return api.WebhookWithSecret{Webhook: public(e), Secret: key}, nil
}

func (s *Service) list(ctx context.Context, req api.List) (api.Page[api.Webhook], error) {
	out := api.Page[api.Webhook]{Items: []api.Webhook{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, before, err := bounds(cursorWebhooks, req)
	if err != nil {
		return out, err
	}
	entries := s.byName.List(byTenant, p.Tenant, before, limit+1, func(e bus.Entry[record]) bool {
		return p.CanOn(api.TaskRead, e.Key.Tenant, e.State.Owner)
	})
	if len(entries) > limit {
		entries = entries[:limit]
		out.NextCursor = api.EncodeCursor(cursorWebhooks, entries[limit-1].Created)
	}
	for _, e := range entries {
		out.Items = append(out.Items, public(e))
	}
	return out, nil
}

// A cursor's kind says which list it belongs to.
const (
	cursorWebhooks   byte = 'w' // the creation revision of the page's last webhook
	cursorDeliveries byte = 'v' // and of its last delivery
)

func bounds(kind byte, l api.List) (limit int, before uint64, err error) {
	if limit, err = l.Bound(); err == nil {
		before, err = api.DecodeCursor(kind, l.Cursor)
	}
	return limit, before, err
}

func (s *Service) get(ctx context.Context, req api.NameRef) (api.Webhook, error) {
	e, _, err := s.find(ctx, api.TaskRead, req.Name)
	if err != nil {
		return api.Webhook{}, err
	}
	return public(e), nil
}

func (s *Service) update(ctx context.Context, req api.UpdateWebhookRequest) (api.Webhook, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.Name)
	if err != nil {
		return api.Webhook{}, err
	}
	e, err = s.webhooks.UpdateAt(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "update"}, func(w record) (record, error) {
		if req.URL != nil {
			w.URL = *req.URL
		}
		if req.Events != nil {
			w.Events = *req.Events
		}
		if req.Disabled != nil {
			w.Disabled = *req.Disabled
		}
		return w, s.check(w.URL, w.Events)
	})
	if err != nil {
		return api.Webhook{}, err
	}
	return public(e), nil
}

func (s *Service) delete(ctx context.Context, req api.NameRef) (api.None, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.Name)
	if err != nil {
		return api.None{}, err
	}
	return api.None{}, s.webhooks.Delete(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"})
}

// rotate puts a new secret before the old one, which signs too until its time is over. One that is older still signs no more.
func (s *Service) rotate(ctx context.Context, req api.RotateWebhookRequest) (api.WebhookWithSecret, error) {
	var none api.WebhookWithSecret
	overlap := rotation
	if req.Overlap != nil {
		overlap = req.Overlap.D()
	}
	if overlap < 0 || overlap > maxRotation {
		return none, api.Invalid("/overlap", "must be between 0s and %v", maxRotation)
	}
	e, p, err := s.find(ctx, api.TaskWrite, req.Name)
	if err != nil {
		return none, err
	}
	now := s.deps.Clock.Now().UTC()
	key, secret := newKey(now)
	e, err = s.webhooks.Update(ctx, e.Key, bus.Meta{Actor: p.ID, Verb: "rotate"}, func(w record) (record, error) {
		keys, err := s.secretsOf(w)
		if err != nil || len(keys) == 0 { // what cannot be opened signs no more; a new secret is the way out
			w.Secrets = []api.WebhookSecret{secret}
			return w, s.keep(&w, key)
		}
		until := now.Add(overlap)
		old := w.Secrets[0]
		old.ExpiresAt = &until
		w.Secrets = []api.WebhookSecret{secret, old}
		return w, s.keep(&w, key, keys[0])
	})
	if err != nil {
		return none, err
	}
	return api.WebhookWithSecret{Webhook: public(e), Secret: key}, nil
}

func (s *Service) ping(ctx context.Context, req api.NameRef) (api.Delivery, error) {
	e, _, err := s.find(ctx, api.TaskWrite, req.Name)
	if err != nil {
		return api.Delivery{}, err
	}
	n := api.Notice{Type: "ping", ID: api.NewID('e'), At: s.deps.Clock.Now().UTC(), Tenant: e.Key.Tenant}
	body, err := encode(n)
	if err != nil {
		return api.Delivery{}, err
	}
	d, err := s.enqueue(ctx, e, n, body)
	if err != nil {
		return api.Delivery{}, err
	}
	return shown(d), nil
}

func (s *Service) listDeliveries(ctx context.Context, req api.ListDeliveriesRequest) (api.Page[api.Delivery], error) {
	out := api.Page[api.Delivery]{Items: []api.Delivery{}}
	e, _, err := s.find(ctx, api.TaskRead, req.Name)
	if err != nil {
		return out, err
	}
	limit, before, err := bounds(cursorDeliveries, req.List)
	if err != nil {
		return out, err
	}
	var keep func(bus.Entry[api.DeliveryRecord]) bool
	switch req.State {
	case "":
	case api.DeliveryPending, api.DeliveryDelivered, api.DeliveryFailed:
		keep = func(d bus.Entry[api.DeliveryRecord]) bool { return d.State.State == req.State }
	default:
		return out, api.Invalid("/state", "must be pending, delivered or failed")
	}
	entries := s.view.List(byWebhook, webhookValue(e.Key.Tenant, e.Key.ID), before, limit+1, keep)
	if len(entries) > limit {
		entries = entries[:limit]
		out.NextCursor = api.EncodeCursor(cursorDeliveries, entries[limit-1].Created)
	}
	for _, d := range entries {
		out.Items = append(out.Items, shown(d))
	}
	return out, nil
}

// redeliver gives a failed delivery all its attempts again.
func (s *Service) redeliver(ctx context.Context, req api.RedeliverRequest) (api.Delivery, error) {
	e, p, err := s.find(ctx, api.TaskWrite, req.Name)
	if err != nil {
		return api.Delivery{}, err
	}
	key := bus.Key{Tenant: e.Key.Tenant, ID: req.ID}
	d, ok := s.view.Get(key)
	if !api.ValidID(api.KindDelivery, req.ID) || !ok || d.State.Webhook != e.Key.ID {
		return api.Delivery{}, api.Errorf(api.CodeNotFound, "there is no delivery %q", clip(req.ID, 40))
	}
	d, err = s.deliveries.Update(ctx, key, bus.Meta{Actor: p.ID, Verb: "retry"}, func(rec api.DeliveryRecord) (api.DeliveryRecord, error) {
		if rec.State != api.DeliveryFailed || rec.Body == nil {
			return rec, api.Errorf(api.CodeConflict, "the delivery is %s; only one that failed, and whose content was kept, can be sent again", rec.State)
		}
		now := s.deps.Clock.Now().UTC()
		rec.State, rec.Attempts, rec.NextAt, rec.EndedAt, rec.Problem = api.DeliveryPending, 0, &now, nil, ""
		return rec, nil
	})
	if err != nil {
		return api.Delivery{}, err
	}
	return shown(d), nil
}
