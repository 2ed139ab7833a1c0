package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

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
	c.sessions.All(func(e bus.Entry[facts]) bool {
		if !e.State.State.Final() {
			q.Add(e.Key)
		}
		return true
	})
	c.planned.All(func(e bus.Entry[api.TrafficPlanRecord]) bool { // of sessions that ended meanwhile
		q.Add(sessionOf(e))
		return true
	})
	var workers sync.WaitGroup
	defer workers.Wait()
	workers.Go(func() {
		q.Run(ctx, planWriters, func(ctx context.Context, key bus.Key) {
			if err := c.plan(ctx, q, key); err != nil && ctx.Err() == nil {
				c.metrics.failed.Inc()
				c.log.Warn("write plan", "tenant", key.Tenant, "session", key.ID, "code", api.CodeOf(err), "err", err)
				q.addAt(key, c.deps.Now().Add(retryAfter))
			}
		})
	})
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			q.due(c.deps.Now())
		case <-ctx.Done():
			return
		}
	}
}

// dirty has a session's plan compiled, by the replica that does.
func (c *Controller) dirty(key bus.Key) {
	if q := c.term.Load(); q != nil {
		q.Add(key)
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
	c.selected(func(key bus.Key, f facts) { c.dirty(key) }, before, now)
}

// selected calls f for every live session to which one of the policies applies.
func (c *Controller) selected(f func(bus.Key, facts), policies ...known) {
	visit := func(e bus.Entry[facts]) {
		for _, k := range policies {
			if !k.gone && k.wrong == nil && k.policy.AppliesTo.Selects(e.State.session()) {
				f(e.Key, e.State)
				return
			}
		}
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
		for _, e := range c.sessions.List(indexTenant, tenant, 0, c.sessions.Len(indexTenant, tenant), nil) {
			visit(e)
		}
		return
	}
	var all []bus.Entry[facts]
	c.sessions.All(func(e bus.Entry[facts]) bool {
		if !e.State.State.Final() {
			all = append(all, e)
		}
		return true
	})
	for _, e := range all {
		visit(e)
	}
}

// nodeChanged has a node's sessions planned when it can do other things than before.
func (c *Controller) nodeChanged(old *bus.Entry[api.TrafficNodeRecord], now bus.Entry[api.TrafficNodeRecord]) {
	if c.deps.Reported != nil && !now.Deleted {
		c.deps.Reported(now.Key.ID, now.State)
	}
	if old != nil && bytes.Equal(old.State.Capabilities, now.State.Capabilities) || c.term.Load() == nil {
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
	if last := c.can.Load(); last != nil && bytes.Equal(last.raw, e.State.Capabilities) {
		return last.can, true
	}
	if json.Unmarshal(e.State.Capabilities, &can) != nil {
		return tc.Capabilities{}, false
	}
	c.can.Store(&able{e.State.Capabilities, can})
	return can, true
}

// plan makes the ledger hold the plan of one session, and only that. A plan that is there already is not written.
func (c *Controller) plan(ctx context.Context, q *queue, key bus.Key) error {
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
	can, ok := c.capabilities(e.State.Node)
	if !ok {
		return nil // its agent's first report comes back here
	}
	set, err := c.world.set(key.Tenant)
	if err != nil {
		return err
	}
	plan, effective := set.Compile(e.State.session(), can, c.deps.Now())
	c.metrics.compiled.Inc()
	q.addAt(key, effective.Until)
	text := c.encode(plan)
	record := api.TrafficPlanRecord{
		Node: e.State.Node, Tenant: key.Tenant, Session: key.ID, Hash: tc.HashPlan(text), Plan: text, Address: e.State.address(),
	}
	at := bus.Key{Tenant: node, ID: key.ID}
	old, known := c.planned.Get(at)
	record.Fault = lasting(old.State.Fault, c.deps.Now())
	if record.Fault != nil && (effective.Until.IsZero() || record.Fault.Until.Before(effective.Until)) {
		q.addAt(key, record.Fault.Until)
	}
	same := func(old api.TrafficPlanRecord) bool {
		return old.Hash == record.Hash && old.Address == record.Address && (old.Fault == nil || lasting(old.Fault, c.deps.Now()) != nil)
	}
	dated := old.Epoch != 0 // by this release; agents pass over what is not, once they have heard what is
	if known && dated && same(old.State) {
		return nil
	}
	c.metrics.written.Inc()
	meta := bus.Meta{Actor: actor, Verb: "plan"}
	write := func(old api.TrafficPlanRecord) (api.TrafficPlanRecord, error) {
		if dated && same(old) {
			return old, bus.ErrUnchanged
		}
		next := record
		next.Fault = lasting(old.Fault, c.deps.Now()) // somebody may have put it there meanwhile
		return next, nil
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
