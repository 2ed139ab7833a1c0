package controller

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
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

// batch is many sessions whose plans are to be compiled, by the policies of one moment: those that change meanwhile bring their sessions back.
type batch struct {
	now     time.Time
	sets    map[string]*tc.Set  // by tenant
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

// together has the ledger hold the plans of many sessions.
func (c *Controller) together(ctx context.Context, q *queue, keys []bus.Key) {
	b := &batch{now: c.deps.Now(), sets: map[string]*tc.Set{}, members: map[string][]member{}, seen: make(map[bus.Key]bool, len(keys))}
	for _, key := range keys {
		c.gather(q, b, key)
	}
	for group := range b.members {
		if group != "" {
			c.members(group, func(key bus.Key) { c.gather(q, b, key) })
		}
	}
	stay, moves := b.arrange(c.holds)
	to := make(map[bus.Key]string, len(moves))
	for _, m := range moves {
		to[m.key] = m.to
	}
	var mu sync.Mutex
	failed := map[string]bool{}
	each(ctx, moves, func(m move) {
		if !c.planOr(ctx, q, m.key, &m.to) {
			mu.Lock()
			failed[m.from] = true
			mu.Unlock()
		}
	})
	for group, s := range stay {
		if ctx.Err() != nil {
			return
		}
		if err := c.settle(ctx, group, s, b.members[group], to, failed[group]); err != nil {
			c.failed(ctx, err, "group", group)
			for _, m := range b.members[group] {
				q.addAt(m.key, b.now.Add(retryAfter))
			}
		}
	}
}

// move is a session whose own entry is to be written, as one of the group to; empty: of none.
type move struct {
	key      bus.Key
	from, to string
}

// arrange says what each group shall have, which is what most of its sessions shall, and who is to be written for that: who shall have something else goes to the largest group
// that shall have it, to a new one with enough others, or has a plan of its own.
func (b *batch) arrange(holds func(bus.Entry[api.TrafficPlanRecord], *shape) bool) (stay map[string]*shape, moves []move) {
	stay = map[string]*shape{}
	into, most := map[string]string{}, map[string]int{} // by a shape's hash: the largest group that shall have it, and how many of it shall
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
	alone := map[string][]move{} // by what they shall have
	for group, list := range b.members {
		for _, m := range list {
			if s := stay[group]; s != nil && s.hash == m.shape.hash || group == "" && m.own.Rev != 0 && holds(m.own, m.shape) {
				continue
			}
			if to, ok := into[m.shape.hash]; ok {
				moves = append(moves, move{m.key, group, to})
			} else {
				alone[m.shape.hash] = append(alone[m.shape.hash], move{key: m.key, from: group})
			}
		}
	}
	for _, list := range alone {
		if len(list) >= shareLeast {
			group := strings.ToLower(rand.Text())
			for i := range list {
				list[i].to = group
			}
		}
		moves = append(moves, list...)
	}
	for _, key := range b.apart {
		moves = append(moves, move{key: key})
	}
	return stay, moves
}

// gather compiles the plan of a session that a group may hold.
func (c *Controller) gather(q *queue, b *batch, key bus.Key) {
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
		if m.shape, ok = c.wanted(b, e.State, key.Tenant); ok {
			q.addAt(key, m.shape.until)
		}
	}
	if !ok {
		b.apart = append(b.apart, key)
		return
	}
	group := m.own.State.Group
	if b.members[group] == nil && group != "" {
		b.members[group] = make([]member, 0, c.planned.Len(indexGroup, group))
	}
	b.members[group] = append(b.members[group], m)
}

// wanted is the plan of a session of an agent that follows groups.
func (c *Controller) wanted(b *batch, f facts, tenant string) (*shape, bool) {
	node, ok := c.nodes.Get(nodeKey(f.Node))
	if !ok || !node.State.Shares {
		return nil, false
	}
	can, ok := c.decoded(node.State.Capabilities)
	if !ok {
		return nil, false
	}
	set := b.sets[tenant]
	if set == nil {
		var err error
		if set, err = c.world.set(tenant); err != nil {
			return nil, false
		}
		b.sets[tenant] = set
	}
	s, err := c.shaped(set, f.session(), node.State.Capabilities, can, b.now)
	return s, err == nil
}

// members calls f for each session of a group.
func (c *Controller) members(group string, f func(bus.Key)) {
	keys := make([]bus.Key, 0, c.planned.Len(indexGroup, group))
	c.planned.List(indexGroup, group, 0, 1, func(e bus.Entry[api.TrafficPlanRecord]) (keep bool) {
		keys = append(keys, sessionOf(e))
		return false
	})
	for _, key := range keys {
		f(key)
	}
}

// settle writes what a group shall have, when all that shall have something else have left it.
func (c *Controller) settle(ctx context.Context, group string, s *shape, list []member, to map[bus.Key]string, failed bool) error {
	there, stays := false, make(map[bus.Key]bool, len(list))
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
