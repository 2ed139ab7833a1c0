package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

const (
	maxEffects  = 100 // sessions that a preview shows one by one
	maxWarnings = 50
)

// sameSpec says whether two documents are the same.
func sameSpec(a, b api.TrafficSpec) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// sessionFor returns a session of the caller's. What does not exist and what is another's is not_found alike.
func (c *Controller) sessionFor(p api.Principal, id string) (facts, error) {
	if api.ValidID(api.KindSession, id) {
		e, ok := c.sessions.Get(bus.Key{Tenant: p.Tenant, ID: id})
		if ok && p.CanOn(api.SessionRead, e.State.Tenant, e.State.Owner) {
			return e.State, nil
		}
	}
	return facts{}, api.Errorf(api.CodeNotFound, "there is no session %q", id[:min(len(id), 40)])
}

func (c *Controller) effective(ctx context.Context, req api.EffectiveTrafficRequest) (api.TrafficEffective, error) {
	p, _ := api.PrincipalFrom(ctx)
	f, err := c.sessionFor(p, req.Session)
	if err != nil {
		return api.TrafficEffective{}, err
	}
	set, err := c.world.set(f.Tenant)
	if err != nil {
		return api.TrafficEffective{}, err
	}
	_, e := c.compiled(set, f)
	out, err := shown(f.ID, e)
	c.counts.fill(&out, f.ID, c.deps.Now())
	return out, err
}

// assumed is a node that can do everything: what is asked of a node of which nothing is known.
var assumed = tc.Capabilities{
	HTB: true, FQCodel: true, IFB: true, Peer: true, U32: true, BPF: true, NetdevIngress: true, NetdevEgress: true, ConnLimit: true, TicksPerSecond: 1000,
}

// compiled is a session's plan now. Without a report of its node's agent it is the plan of a node that can do everything.
func (c *Controller) compiled(set *tc.Set, f facts) (*tc.Plan, tc.Effective) {
	can, ok := c.capabilities(f.Node)
	if !ok {
		can = assumed
	}
	return set.Compile(f.session(), can, c.deps.Now())
}

// shown is what holds as the API shows it. The JSON of both is one vocabulary.
func shown(session string, e tc.Effective) (out api.TrafficEffective, err error) {
	data, err := json.Marshal(e)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	out.Session = session
	return out, err
}

// preview says what applying or deleting a policy would change.
func (c *Controller) preview(ctx context.Context, req api.PlanTrafficPolicyRequest) (api.TrafficPreview, error) {
	p, _ := api.PrincipalFrom(ctx)
	key := bus.Key{Tenant: p.Tenant, ID: req.Name}
	var out api.TrafficPreview
	var after *tc.Policy
	old, exists := c.byName.Get(key)
	if req.Delete {
		if !exists {
			return out, api.Errorf(api.CodeNotFound, "there is no traffic policy %q", req.Name[:min(len(req.Name), 64)])
		}
		out.Verb, out.Policy = "delete", public(old)
	} else {
		spec, policy, err := accept(p, "", req.TrafficSpec)
		if err != nil {
			return out, err
		}
		out.Verb = "create"
		out.Policy = api.TrafficPolicy{ID: api.DeriveID(api.KindPolicy, p.Tenant, spec.Name), Tenant: p.Tenant, CreatedAt: c.deps.Now().UTC()}
		if exists {
			out.Verb, out.Policy = "update", public(old)
		}
		out.Policy.TrafficSpec, after = spec, &policy
	}
	err := c.compare(key, after, &out)
	return out, err
}

// compare fills in what changes for sessions and nodes when the policy at key becomes after; nil: it goes.
func (c *Controller) compare(key bus.Key, after *tc.Policy, out *api.TrafficPreview) error {
	var policies []known
	if k, ok := c.world.get(key); ok {
		policies = append(policies, k)
	}
	if after != nil {
		policies = append(policies, known{policy: *after})
	}
	sets := map[string][2]*tc.Set{}
	nodes := map[string]bool{}
	warnings := map[string]bool{}
	for _, f := range c.someSelected(policies...) {
		pair, ok := sets[f.Tenant]
		if !ok {
			was, err := c.world.set(f.Tenant)
			if err == nil {
				pair[0] = was
				pair[1], err = c.world.with(f.Tenant, key, after)
			}
			if err != nil {
				return err
			}
			sets[f.Tenant] = pair
		}
		_, before := c.compiled(pair[0], f)
		plan, now := c.compiled(pair[1], f)
		for _, text := range slices.Concat(now.Conflicts, now.Warnings) {
			warnings[text] = true
		}
		for _, text := range plan.Degraded {
			warnings["node "+f.Node+": "+text] = true
		}
		changes := changed(before, now)
		if len(changes) == 0 {
			continue
		}
		out.Sessions++
		nodes[f.Node] = true
		if len(out.Effects) < maxEffects {
			out.Effects = append(out.Effects, api.TrafficEffect{Session: f.ID, Node: f.Node, Changes: changes})
		}
	}
	for node := range nodes {
		out.Nodes = append(out.Nodes, node)
	}
	slices.Sort(out.Nodes)
	for _, s := range c.overfull(key, after, policies) {
		warnings[s] = true
	}
	if after != nil && len(c.someSelected(known{policy: *after})) == 0 {
		warnings["no session that is alive is selected"] = true
	}
	for text := range warnings {
		out.Warnings = append(out.Warnings, text)
	}
	slices.Sort(out.Warnings)
	if len(out.Warnings) > maxWarnings {
		out.Warnings = append(out.Warnings[:maxWarnings], fmt.Sprintf("and %d more", len(out.Warnings)-maxWarnings))
	}
	return nil
}

// someSelected returns the live sessions to which one of the policies applies.
func (c *Controller) someSelected(policies ...known) (found []facts) {
	c.selected(func(_ bus.Key, f facts) { found = append(found, f) }, policies...)
	return found
}

// changed compares what holds before and after, value by value.
func changed(before, after tc.Effective) []api.TrafficChange {
	was, is := values(before), values(after)
	names := map[string]bool{}
	for name := range was {
		names[name] = true
	}
	for name := range is {
		names[name] = true
	}
	var changes []api.TrafficChange
	for name := range names {
		if was[name] != is[name] {
			changes = append(changes, api.TrafficChange{Field: name, Before: was[name], After: is[name]})
		}
	}
	slices.SortFunc(changes, func(a, b api.TrafficChange) int { return strings.Compare(a.Field, b.Field) })
	return changes
}

// values flattens what holds.
func values(e tc.Effective) map[string]string {
	v := map[string]string{"mode": string(e.Mode)}
	for _, d := range [...]tc.Direction{tc.Download, tc.Upload} {
		of, at := e.Direction(d), string(d)+"."
		if of.Ceiling != nil {
			v[at+"ceiling"] = of.Ceiling.Value.String() + " by " + of.Ceiling.From
		}
		if of.Burst != nil {
			v[at+"burst"] = of.Burst.Value.String() + " by " + of.Burst.From
		}
		for name, n := range map[string]*tc.Value[uint32]{
			"packets_per_second": of.PacketsPerSecond, "connections": of.Connections, "connections_per_second": of.ConnectionsPerSecond,
		} {
			if n != nil {
				v[at+name] = strconv.FormatUint(uint64(n.Value), 10) + " by " + n.From
			}
		}
	}
	if e.ClassesFrom != "" {
		v["classes"] = "by " + e.ClassesFrom
	}
	for i, c := range e.Classes {
		text, err := json.Marshal(c)
		if err == nil {
			v["classes."+c.Name] = strconv.Itoa(i+1) + ": " + string(text)
		}
	}
	if !e.Until.IsZero() {
		v["until"] = e.Until.Format(time.RFC3339)
	}
	return v
}
