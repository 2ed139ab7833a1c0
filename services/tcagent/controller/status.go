package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// status is how far a policy has come, from what is known now.
func (c *Controller) status(e bus.Entry[api.TrafficPolicy]) *api.TrafficStatus {
	k, ok := c.world.get(e.Key)
	if !ok || k.rev != e.Rev { // not taken in yet
		k.policy, k.wrong = read(e.Key.Tenant, e.State.TrafficSpec)
	}
	out := &api.TrafficStatus{}
	set := func(kind string, status bool, reason string) {
		out.Conditions = append(out.Conditions, api.TrafficCondition{Type: kind, Status: status, Reason: reason})
	}
	if k.wrong != nil {
		set("Accepted", false, k.wrong.Error())
		return out
	}
	set("Accepted", true, "")
	sessions := c.someSelected(known{policy: k.policy})
	out.Sessions = len(sessions)
	nodes, behind, waiting := map[string]bool{}, map[string]bool{}, map[string]bool{}
	degraded, conflicts := map[string]bool{}, map[string]bool{}
	var took []float64
	for _, f := range sessions {
		nodes[f.Node] = true
		intended, applied := c.planOf(f)
		if intended == nil {
			waiting[f.Node] = true
		}
		if intended == nil || applied == nil || applied.Hash != intended.Hash || applied.State != "applied" {
			behind[f.Node] = true
		} else {
			took = append(took, applied.TookMS)
		}
		rules, err := c.world.set(f.Tenant)
		if err != nil {
			set("Compiled", false, "an internal error; the log has the details")
			return out
		}
		plan, now := c.compiled(rules, f)
		for _, text := range plan.Degraded {
			degraded["node "+f.Node+": "+text] = true
		}
		for _, text := range now.Conflicts {
			conflicts[text] = true
		}
	}
	out.Nodes, out.Behind = len(nodes), sorted(behind)
	if n := len(took); n > 0 {
		slices.Sort(took)
		out.ApplyP50MS, out.ApplyP99MS = took[(n-1)*50/100], took[(n-1)*99/100]
	}
	set("Compiled", len(waiting) == 0, some("no agent has reported for ", sorted(waiting)))
	set("Programmed", len(sessions) > 0 && len(behind) == 0, some("behind: ", out.Behind))
	set("Degraded", len(degraded) > 0, some("", sorted(degraded)))
	set("Conflicted", len(conflicts) > 0, some("", sorted(conflicts)))
	var full []string
	for _, node := range sorted(nodes) {
		if most, ok := c.capacity(node); ok {
			if sum := c.guaranteed(node, c.world.set); sum > most {
				full = append(full, fmt.Sprintf("node %s guarantees %s of %s", node, sum, most))
			}
		}
	}
	set("Infeasible", len(full) > 0, some("", full))
	return out
}

func sorted(set map[string]bool) []string {
	list := make([]string, 0, len(set))
	for s := range set {
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}

// some is a list that a person reads, cut.
func some(what string, list []string) string {
	const most = 5
	switch {
	case len(list) == 0:
		return ""
	case len(list) > most:
		return what + strings.Join(list[:most], "; ") + fmt.Sprintf("; and %d more", len(list)-most)
	}
	return what + strings.Join(list, "; ")
}

// planOf is a session's plan in the ledger and what its node says of it; nil: none.
func (c *Controller) planOf(f facts) (*api.TrafficPlan, *api.TrafficPlanApplied) {
	e, ok := c.planned.Get(bus.Key{Tenant: api.TrafficNodeToken(f.Node), ID: f.ID})
	if !ok {
		return nil, nil
	}
	now, _ := c.intended(e)
	intended := &api.TrafficPlan{Rev: now.Rev, Hash: now.State.Hash}
	if node, ok := c.nodes.Get(nodeKey(f.Node)); ok {
		if a, ok := c.news.newest(node.Key.ID, f.ID, node.State); ok {
			return intended, &a
		}
	}
	return intended, nil
}

// session shows a session's plan, intended and applied.
func (c *Controller) session(ctx context.Context, req api.SessionRef) (api.TrafficSession, error) {
	p, _ := api.PrincipalFrom(ctx)
	f, err := c.sessionFor(p, req.ID)
	if err != nil {
		return api.TrafficSession{}, err
	}
	set, err := c.world.set(f.Tenant)
	if err != nil {
		return api.TrafficSession{}, err
	}
	_, e := c.compiled(set, f)
	out := api.TrafficSession{Session: f.ID, Node: f.Node}
	if out.Effective, err = shown(f.ID, e); err != nil {
		return out, err
	}
	out.Intended, out.Applied = c.planOf(f)
	out.Counters = c.counts.of(f.ID, c.deps.Now())
	c.counts.fill(&out.Effective, f.ID, c.deps.Now())
	if out.Intended == nil {
		return out, nil
	}
	own, _ := c.planned.Get(bus.Key{Tenant: api.TrafficNodeToken(f.Node), ID: f.ID})
	record, _ := c.intended(own)
	var plan tc.Plan
	if err := json.Unmarshal(record.State.Plan, &plan); err != nil {
		return out, fmt.Errorf("read plan of %s: %w", f.ID, err)
	}
	plan.Session = f.ID // a group's has none
	out.Intended.Mode, out.Intended.Degraded = string(plan.Mode), plan.Degraded
	text := plan.Commands(tc.Devices{Host: "$HOST", IFB: "$IFB", Peer: "$PEER", Namespace: "$NETNS"}).String()
	if text != "" {
		out.Intended.Commands = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	}
	return out, nil
}

// listNodes lists nodes for the operator: they are no tenant's.
func (c *Controller) listNodes(ctx context.Context, req api.List) (api.Page[api.TrafficNode], error) {
	page := api.Page[api.TrafficNode]{Items: []api.TrafficNode{}}
	p, _ := api.PrincipalFrom(ctx)
	if p.Tenant != api.HomeTenant {
		return page, api.Errorf(api.CodeDenied, "nodes are the operator's")
	}
	limit, before, err := bounds(req)
	if err != nil {
		return page, err
	}
	entries := c.nodes.List(indexTenant, api.HomeTenant, before, limit+1, nil)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = cursor(entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, c.node(e.Key.ID, e.State))
	}
	return page, nil
}

// node shows a node. The token is what the bus let it report under; its name is its own word.
func (c *Controller) node(token string, r api.TrafficNodeRecord) api.TrafficNode {
	if api.TrafficNodeToken(r.Name) != token {
		r.Name = token
	}
	n := api.TrafficNode{Name: r.Name, Agent: r.Agent, ReportedAt: r.ReportedAt, Uplink: r.Uplink, Guaranteed: c.guaranteed(r.Name, c.world.set).String()}
	var can map[string]any
	if json.Unmarshal(r.Capabilities, &can) == nil {
		for name, value := range can {
			if value == true {
				n.Capabilities = append(n.Capabilities, name)
			}
		}
		slices.Sort(n.Capabilities)
	}
	for _, e := range c.sessions.List(indexNode, token, 0, c.sessions.Len(indexNode, token), nil) {
		n.Sessions++
		intended, applied := c.planOf(e.State)
		if intended == nil || applied == nil || applied.Hash != intended.Hash || applied.State != "applied" {
			n.Behind++
		}
	}
	return n
}
