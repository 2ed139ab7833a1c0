package controller

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Plans that are the same but for their session are written once where they change at one time. A session's entry in PLANS may name a group
// (api.TrafficPlanRecord.Group): another entry, whose plan is the session's if it is newer than the session's own. An entry of a group is written only when all its
// sessions shall have what it says; those that shall not have left it before, in the order of the stream. So one that misses nothing never holds what is another's.

// shareLeast is how many sessions get a group together, and how many have to change at one time that groups are looked at: below that each is written.
const shareLeast = 64

// intended is what a session's node shall hold, and since which revision: its own entry says it, or its group's.
func (c *Controller) intended(own bus.Entry[api.TrafficPlanRecord]) (e bus.Entry[api.TrafficPlanRecord], shared bool) {
	if own.State.Group != "" {
		if e, ok := c.planned.Get(groupKey(own.State.Group)); ok && e.NewerThan(own.Epoch, own.Rev) {
			return e, true
		}
	}
	return own, false
}

func groupKey(group string) bus.Key { return bus.Key{Tenant: api.SharedPlans, ID: group} }

// holds reports whether s is what a session's node shall hold already.
func (c *Controller) holds(own bus.Entry[api.TrafficPlanRecord], s *shape) bool {
	e, shared := c.intended(own)
	if shared {
		return e.State.Hash == s.hash
	}
	return s.is(e.State.Plan, own.Key.ID)
}

// batch is many sessions whose plans are to be compiled.
type batch struct {
	members map[string][]member // by group; empty: of none
	apart   []bus.Key           // sessions of which no group can be told
	seen    map[bus.Key]bool
}

// member is a session and the plan that it shall have.
type member struct {
	key   bus.Key
	own   bus.Entry[api.TrafficPlanRecord] // zero: none
	shape *shape
}

// together has the ledger hold the plans of many sessions. Those that it returns are to be planned one by one.
func (c *Controller) together(ctx context.Context, q *queue, keys []bus.Key) {
	now := c.deps.Now()
	b := &batch{members: map[string][]member{}, seen: make(map[bus.Key]bool, len(keys))}
	for _, key := range keys {
		c.gather(q, b, key, now)
	}
	for group := range b.members {
		if group != "" {
			c.members(group, func(key bus.Key) { c.gather(q, b, key, now) })
		}
	}
	stay := map[string]*shape{} // what each group shall have
	into := map[string]string{} // where those go that shall have a shape, by its hash
	most := map[string]int{}
	for group, list := range b.members {
		if group == "" {
			continue
		}
		count := map[string]int{}
		var first *shape
		for _, m := range list {
			count[m.shape.hash]++
			if first == nil || count[m.shape.hash] > count[first.hash] {
				first = m.shape
			}
		}
		stay[group] = first
		if n := count[first.hash]; n > most[first.hash] {
			most[first.hash], into[first.hash] = n, group
		}
	}
	var move []bus.Key
	to, from, alone := map[bus.Key]string{}, map[bus.Key]string{}, map[string][]bus.Key{}
	for group, list := range b.members {
		for _, m := range list {
			switch s := stay[group]; {
			case s != nil && s.hash == m.shape.hash, group == "" && m.own.Rev != 0 && c.holds(m.own, m.shape):
				continue
			}
			move, from[m.key] = append(move, m.key), group
			if g, ok := into[m.shape.hash]; ok {
				to[m.key] = g
			} else {
				alone[m.shape.hash] = append(alone[m.shape.hash], m.key)
			}
		}
	}
	for _, list := range alone {
		if len(list) >= shareLeast {
			group := strings.ToLower(rand.Text())
			for _, key := range list {
				to[key] = group
			}
		}
	}
	move = append(move, b.apart...)
	var mu sync.Mutex
	failed := map[string]bool{}
	each(ctx, move, planWriters, func(key bus.Key) {
		group := to[key]
		if !c.planOr(ctx, q, key, &group) {
			mu.Lock()
			failed[from[key]] = true
			mu.Unlock()
		}
	})
	for group, list := range b.members {
		if group == "" || ctx.Err() != nil {
			continue
		}
		if err := c.settle(ctx, group, stay[group], list, to, failed[group]); err != nil {
			c.failed(ctx, err, "group", group)
			for _, m := range list {
				q.addAt(m.key, now.Add(retryAfter))
			}
		}
	}
}

// gather compiles the plan of a session that a group may hold.
func (c *Controller) gather(q *queue, b *batch, key bus.Key, now time.Time) {
	if b.seen[key] {
		return
	}
	b.seen[key] = true
	m := member{key: key}
	e, ok := c.sessions.Get(key)
	if ok = ok && !e.State.State.Final(); ok {
		at := bus.Key{Tenant: api.TrafficNodeToken(e.State.Node), ID: key.ID}
		var known bool
		m.own, known = c.planned.Get(at)
		there := c.planned.Len(indexSession, key.Tenant+"/"+key.ID)
		ok = known && there == 1 && m.own.Epoch != 0 && m.own.State.Address == e.State.address() && m.own.State.Fault == nil || there == 0
	}
	if ok {
		if m.shape, ok = c.wanted(e.State, key.Tenant, now); ok {
			q.addAt(key, m.shape.until)
		}
	}
	if !ok {
		b.apart = append(b.apart, key)
		return
	}
	b.members[m.own.State.Group] = append(b.members[m.own.State.Group], m)
}

// wanted is the plan of a session of an agent that follows groups.
func (c *Controller) wanted(f facts, tenant string, now time.Time) (*shape, bool) {
	node, ok := c.nodes.Get(nodeKey(f.Node))
	if !ok || !node.State.Shares {
		return nil, false
	}
	can, ok := c.capabilities(f.Node)
	if !ok {
		return nil, false
	}
	set, err := c.world.set(tenant)
	if err != nil {
		return nil, false
	}
	s, err := c.shaped(set, f.session(), node.State.Capabilities, can, now)
	return s, err == nil
}

// members calls f for each session of a group.
func (c *Controller) members(group string, f func(bus.Key)) {
	for _, e := range c.planned.List(indexGroup, group, 0, c.planned.Len(indexGroup, group), nil) {
		f(sessionOf(e))
	}
}

// settle writes what a group shall have, when all that shall have something else have left it.
func (c *Controller) settle(ctx context.Context, group string, s *shape, list []member, to map[bus.Key]string, failed bool) error {
	there, stays := false, map[bus.Key]bool{}
	for _, m := range list {
		if m.shape.hash == s.hash {
			stays[m.key] = true
			there = there || !c.holds(m.own, s)
		}
	}
	if !there {
		return nil // there is nothing to write
	}
	c.members(group, func(key bus.Key) { failed = failed || !stays[key] && to[key] != group })
	if failed {
		return api.Errorf(api.CodeUnavailable, "not all sessions that shall leave it have")
	}
	record := api.TrafficPlanRecord{Hash: s.hash, Plan: s.text("")}
	meta := bus.Meta{Actor: actor, Verb: "plan"}
	c.metrics.written.Inc()
	_, err := c.plans.Update(ctx, groupKey(group), meta, func(api.TrafficPlanRecord) (api.TrafficPlanRecord, error) { return record, nil })
	if api.CodeOf(err) == api.CodeNotFound && err != nil {
		_, err = c.plans.Create(ctx, groupKey(group), meta, record)
	}
	return err
}

// tidy removes what groups had in which nobody is any more.
func (c *Controller) tidy(ctx context.Context) {
	for _, e := range c.planned.List(indexGroup, "", 0, c.planned.Len(indexGroup, ""), nil) {
		if c.planned.Len(indexGroup, e.Key.ID) == 0 {
			if err := c.plans.Purge(ctx, e.Key); err != nil {
				c.failed(ctx, err, "group", e.Key.ID)
			}
		}
	}
}

// grouped lists sessions' entries under their group, and those of groups under nothing.
func grouped(e bus.Entry[api.TrafficPlanRecord]) []string {
	if e.Key.Tenant == api.SharedPlans {
		return []string{""}
	}
	if e.State.Group == "" {
		return nil
	}
	return []string{e.State.Group}
}
