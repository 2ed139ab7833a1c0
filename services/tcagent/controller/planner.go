package controller

import (
	"bytes"
	"context"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

const (
	// planWriters is how many plans are written at once: the bus answers many writers faster than one.
	planWriters = 128
	// lookEvery is how late a schedule's change may be seen.
	lookEvery = 250 * time.Millisecond
	// retryAfter is how long a plan that could not be written waits.
	retryAfter = time.Second
)

// compile plans every session, and again whenever something that its plan depends on changes, until ctx ends.
func (c *Controller) compile(ctx context.Context) {
	q := newQueue()
	c.term.Store(q) // from here on each change is queued; those before are in the views
	defer c.term.Store(nil)
	var all []bus.Key
	c.sessions.All(func(e bus.Entry[facts]) bool {
		if !e.State.State.Final() {
			all = append(all, e.Key)
		}
		return true
	})
	c.planned.All(func(e bus.Entry[api.TrafficPlanRecord]) bool { // of sessions that ended meanwhile
		if e.Key.Tenant != api.SharedPlans {
			all = append(all, sessionOf(e))
		}
		return true
	})
	q.add(all...)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		keys := q.take(c.deps.Now())
		switch {
		case len(keys) >= shareLeast:
			c.together(ctx, q, keys)
			c.tidy(ctx)
		case len(keys) > 0:
			each(ctx, keys, func(key bus.Key) { c.planOr(ctx, q, key, nil) })
		default:
			select {
			case <-q.wake:
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}
}

// planOr plans one session, again a while later if that fails, and reports whether it did not.
func (c *Controller) planOr(ctx context.Context, q *queue, key bus.Key, group *string) bool {
	err := c.plan(ctx, q, key, group)
	if err != nil {
		c.failed(ctx, err, "session", key.ID, "tenant", key.Tenant)
		q.addAt(key, c.deps.Now().Add(retryAfter))
	}
	return err == nil
}

func (c *Controller) failed(ctx context.Context, err error, what ...any) {
	if ctx.Err() == nil {
		c.metrics.failed.Inc()
		c.log.Warn("write plan", append(what, "code", api.CodeOf(err), "err", err)...)
	}
}

// dirty has sessions' plans compiled, by the replica that does.
func (c *Controller) dirty(keys ...bus.Key) {
	if q := c.term.Load(); q != nil {
		q.add(keys...)
	}
}

// policyChanged takes a change in, and has the sessions planned to which the policy applied or applies.
func (c *Controller) policyChanged(e bus.Entry[api.TrafficPolicy]) {
	before, now, changed := c.world.learn(e)
	if !changed {
		return
	}
	if now.wrong != nil {
		c.log.Warn("a policy cannot be read", "tenant", e.Key.Tenant, "policy", e.Key.ID, "err", now.wrong)
	}
	if c.term.Load() == nil {
		return
	}
	var keys []bus.Key
	c.selected(func(key bus.Key, f facts) { keys = append(keys, key) }, before, now)
	c.dirty(keys...)
}

// selected calls f for every live session to which one of the policies applies. f must not ask the view of sessions anything.
func (c *Controller) selected(f func(bus.Key, facts), policies ...known) {
	visit := func(e bus.Entry[facts]) (keep bool) {
		for _, k := range policies {
			if !k.gone && k.wrong == nil && k.policy.AppliesTo.Selects(e.State.session()) {
				f(e.Key, e.State)
				break
			}
		}
		return false
	}
	tenant, one := "", true // all of one tenant's, mostly
	for _, k := range policies {
		if k.gone || k.wrong != nil {
			continue
		}
		one = one && k.policy.AppliesTo.Tenant != "" && (tenant == "" || tenant == k.policy.AppliesTo.Tenant)
		tenant = k.policy.AppliesTo.Tenant
	}
	if one && tenant != "" {
		c.sessions.List(indexTenant, tenant, 0, 1, visit)
		return
	}
	c.sessions.All(func(e bus.Entry[facts]) bool {
		if !e.State.State.Final() {
			visit(e)
		}
		return true
	})
}

// nodeChanged has a node's sessions planned when it can do other things than before.
func (c *Controller) nodeChanged(old *bus.Entry[api.TrafficNodeRecord], now bus.Entry[api.TrafficNodeRecord]) {
	c.news.reported(now.Key.ID, now.State, c.deps.Now())
	if c.deps.Reported != nil && !now.Deleted {
		c.deps.Reported(now.Key.ID, now.State)
	}
	if old != nil && bytes.Equal(old.State.Capabilities, now.State.Capabilities) && old.State.Shares == now.State.Shares || c.term.Load() == nil {
		return
	}
	for _, e := range c.sessions.List(indexNode, now.Key.ID, 0, c.sessions.Len(indexNode, now.Key.ID), nil) {
		c.dirty(e.Key)
	}
}

// nodeKey is a node's entry in NODES.
func nodeKey(node string) bus.Key {
	return bus.Key{Tenant: api.HomeTenant, ID: api.TrafficNodeToken(node)}
}

// capabilities are those of a node; ok is false when no agent has reported them.
func (c *Controller) capabilities(node string) (can tc.Capabilities, ok bool) {
	e, ok := c.nodes.Get(nodeKey(node))
	if !ok {
		return can, false
	}
	return c.decoded(e.State.Capabilities)
}

// decoded are capabilities as a node reported them; ok is false when they cannot be read.
func (c *Controller) decoded(raw []byte) (can tc.Capabilities, ok bool) {
	if last := c.can.Load(); last != nil && bytes.Equal(last.raw, raw) {
		return last.can, true
	}
	if json.Unmarshal(raw, &can) != nil {
		return tc.Capabilities{}, false
	}
	c.can.Store(&able{raw, can})
	return can, true
}

// plan makes the ledger hold the plan of one session, and only that. A plan that is there already is not written. group, if not nil, is the group in which the session
// shall be; nil: it stays in its group while its plan stays.
func (c *Controller) plan(ctx context.Context, q *queue, key bus.Key, group *string) error {
	e, ok := c.sessions.Get(key)
	want := ok && !e.State.State.Final()
	there := c.planned.List(indexSession, key.Tenant+"/"+key.ID, 0, planHistory, nil)
	node := api.TrafficNodeToken(e.State.Node)
	for _, old := range there {
		if want && old.Key.Tenant == node {
			continue
		}
		if err := c.plans.Delete(ctx, old.Key, 0, bus.Meta{Actor: actor, Verb: "remove"}); err != nil {
			return err
		}
		c.metrics.written.Inc()
	}
	if !want {
		q.addAt(key, time.Time{})
		return nil
	}
	reported, ok := c.nodes.Get(nodeKey(e.State.Node))
	if !ok {
		return nil // its agent's first report comes back here
	}
	can, ok := c.decoded(reported.State.Capabilities)
	if !ok {
		return nil // a newer agent's, perhaps
	}
	set, err := c.world.set(key.Tenant)
	if err != nil {
		return err
	}
	now := c.deps.Now()
	s, err := c.shaped(set, e.State.session(), reported.State.Capabilities, can, now)
	if err != nil {
		return err
	}
	q.addAt(key, s.until)
	at := bus.Key{Tenant: node, ID: key.ID}
	old, known := c.planned.Get(at)
	fault := lasting(old.State.Fault, now)
	if fault != nil && (s.until.IsZero() || fault.Until.Before(s.until)) {
		q.addAt(key, fault.Until)
	}
	dated := old.Epoch != 0 // by this release; agents pass over what is not, once they have heard what is
	holds := known && dated && c.holds(old, s)
	next := ""
	switch {
	case !reported.State.Shares || fault != nil:
	case group != nil:
		next = *group
	case holds:
		next = old.State.Group
	}
	asIs := func(r api.TrafficPlanRecord) bool {
		return r.Address == e.State.address() && r.Group == next && (r.Fault == nil || lasting(r.Fault, now) != nil)
	}
	if holds && asIs(old.State) {
		return nil
	}
	text := s.text(key.ID)
	record := api.TrafficPlanRecord{
		Node: e.State.Node, Tenant: key.Tenant, Session: key.ID, Hash: tc.HashPlan(text), Plan: text, Address: e.State.address(), Group: next,
	}
	c.metrics.written.Inc()
	meta := bus.Meta{Actor: actor, Verb: "plan"}
	write := func(old api.TrafficPlanRecord) (api.TrafficPlanRecord, error) {
		if dated && next == "" && old.Hash == record.Hash && asIs(old) {
			return old, bus.ErrUnchanged
		}
		changed := record
		if changed.Fault = lasting(old.Fault, now); changed.Fault != nil { // somebody may have put it there meanwhile
			changed.Group = ""
		}
		return changed, nil
	}
	if known {
		_, err = c.plans.Update(ctx, at, meta, write)
		if api.CodeOf(err) != api.CodeNotFound {
			return err
		}
	}
	if _, err = c.plans.Create(ctx, at, meta, record); api.CodeOf(err) == api.CodeConflict {
		_, err = c.plans.Update(ctx, at, meta, write)
	}
	return err
}
