package controller

import (
	"fmt"
	"slices"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// capacity is what guarantees may take of a node's uplink; ok is false while it is unknown.
func (c *Controller) capacity(node string) (most tc.BitsPerSecond, ok bool) {
	e, ok := c.nodes.Get(nodeKey(node))
	if !ok || e.State.Uplink == "" {
		return 0, false
	}
	uplink, err := tc.ParseRate(e.State.Uplink)
	return uplink / 100 * tc.BitsPerSecond(100-c.cfg.Reserve), err == nil
}

// guaranteed is what a node's sessions are guaranteed together, in the direction in which it is more, with the sets that setOf gives.
func (c *Controller) guaranteed(node string, setOf func(tenant string) (*tc.Set, error)) tc.BitsPerSecond {
	token := api.TrafficNodeToken(node)
	var down, up tc.BitsPerSecond
	for _, e := range c.sessions.List(indexNode, token, 0, c.sessions.Len(indexNode, token), nil) {
		set, err := setOf(e.Key.Tenant)
		if err != nil {
			continue // an internal error that compiling reports
		}
		now := set.Resolve(e.State.session(), c.deps.Now())
		down += now.Guaranteed(tc.Download)
		up += now.Guaranteed(tc.Upload)
	}
	return max(down, up)
}

// overfull says of which nodes the guarantees would be more than their uplinks hold, and more than now, if the policy at key became after.
func (c *Controller) overfull(key bus.Key, after *tc.Policy, policies []known) []string {
	if after == nil {
		return nil
	}
	uplinks := false
	c.nodes.All(func(e bus.Entry[api.TrafficNodeRecord]) bool { uplinks = e.State.Uplink != ""; return !uplinks })
	if !uplinks { // mostly: then nothing has to be added up
		return nil
	}
	nodes := map[string]bool{}
	c.selected(func(_ bus.Key, f facts) { nodes[f.Node] = true }, policies...)
	sets := map[string]*tc.Set{}
	with := func(tenant string) (*tc.Set, error) {
		if sets[tenant] == nil {
			set, err := c.world.with(tenant, key, after)
			if err != nil {
				return nil, err
			}
			sets[tenant] = set
		}
		return sets[tenant], nil
	}
	var found []string
	for node := range nodes {
		most, ok := c.capacity(node)
		if !ok {
			continue
		}
		if sum := c.guaranteed(node, with); sum > most && sum > c.guaranteed(node, c.world.set) {
			found = append(found, fmt.Sprintf("node %s: guarantees would add up to %s, and %d %% of its uplink is %s", node, sum, 100-c.cfg.Reserve, most))
		}
	}
	slices.Sort(found)
	return found
}

// fits refuses a policy that guarantees more than a node has. What other changes make of it later is in its status.
func (c *Controller) fits(key bus.Key, after tc.Policy) error {
	policies := []known{{policy: after}}
	if k, ok := c.world.get(key); ok {
		policies = append(policies, k)
	}
	if found := c.overfull(key, &after, policies); len(found) > 0 {
		return api.Invalid("/classes", "%s; lower the guarantees, or select fewer sessions", strings.Join(found, "; "))
	}
	return nil
}
