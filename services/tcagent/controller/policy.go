package controller

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// maxPolicies of one tenant: each of its sessions asks them all.
const maxPolicies = 1000

// reserved names are words in the paths of the API.
var reserved = map[string]bool{"effective": true}

// accept makes of a document what would be kept for the caller, and the policy that it is. prefix is where the document stands in the request.
func accept(p api.Principal, prefix string, spec api.TrafficSpec) (api.TrafficSpec, tc.Policy, error) {
	operator := p.Can(api.TenantWrite)
	switch {
	case reserved[spec.Name]:
		return spec, tc.Policy{}, api.Invalid(prefix+"/name", "%q is a word of the API: choose another name", spec.Name)
	case operator: // may write for everyone
	case spec.AppliesTo.Tenant == "":
		spec.AppliesTo.Tenant = p.Tenant
	case spec.AppliesTo.Tenant != p.Tenant:
		return spec, tc.Policy{}, api.Invalid(prefix+"/applies_to/tenant", "must be your own, %q", p.Tenant)
	}
	policy, err := read(p.Tenant, spec)
	if err != nil {
		return spec, policy, invalid(prefix, err)
	}
	return spec, policy, nil
}

// invalid says all that is wrong as the API does. A document that came as fields has no lines.
func invalid(prefix string, err error) error {
	var problems tc.Problems
	if !errors.As(err, &problems) {
		return err
	}
	e := &api.Error{Code: api.CodeInvalid}
	var lines []string
	for _, p := range problems {
		at, detail := prefix+p.Pointer, p.Detail+"; "+p.Remedy
		e.Fields = append(e.Fields, api.FieldError{Pointer: at, Detail: detail})
		lines = append(lines, at+": "+detail)
	}
	e.Detail = strings.Join(lines, "\n")
	return e
}

// public is a kept policy as the API shows it.
func public(e bus.Entry[api.TrafficPolicy]) api.TrafficPolicy {
	out := e.State
	out.Rev = e.Rev
	return out
}

// find returns the policy of the caller's tenant of that name or id.
func (c *Controller) find(p api.Principal, name string) (bus.Entry[api.TrafficPolicy], error) {
	if tc.ValidName(name) {
		if e, ok := c.byName.Get(bus.Key{Tenant: p.Tenant, ID: name}); ok {
			return e, nil
		}
	}
	if api.ValidID(api.KindPolicy, name) {
		if found := c.byName.List(indexID, p.Tenant+"/"+name, 0, 1, nil); len(found) > 0 {
			return found[0], nil
		}
	}
	return bus.Entry[api.TrafficPolicy]{}, api.Errorf(api.CodeNotFound, "there is no traffic policy %q", name[:min(len(name), 64)])
}

func (c *Controller) create(ctx context.Context, req api.CreateTrafficPolicyRequest) (api.TrafficPolicy, error) {
	p, _ := api.PrincipalFrom(ctx)
	spec, policy, err := accept(p, "", req.TrafficSpec)
	if err != nil {
		return api.TrafficPolicy{}, err
	}
	return c.put(ctx, p, spec, policy)
}

// put creates a policy.
func (c *Controller) put(ctx context.Context, p api.Principal, spec api.TrafficSpec, policy tc.Policy) (api.TrafficPolicy, error) {
	if c.byName.Len(indexTenant, p.Tenant) >= maxPolicies {
		return api.TrafficPolicy{}, api.Errorf(api.CodeExhausted, "there are %d traffic policies, and that is the limit; delete one first", maxPolicies)
	}
	key := bus.Key{Tenant: p.Tenant, ID: spec.Name}
	if err := c.fits(key, policy); err != nil {
		return api.TrafficPolicy{}, err
	}
	e, err := c.policies.Create(ctx, key, bus.Meta{Actor: p.ID, Verb: "create"}, api.TrafficPolicy{
		ID: api.DeriveID(api.KindPolicy, p.Tenant, spec.Name), Tenant: p.Tenant, TrafficSpec: spec, CreatedAt: c.deps.Now().UTC(),
	})
	if err != nil {
		return api.TrafficPolicy{}, err
	}
	c.policyChanged(e)
	return public(e), nil
}

// apply creates or replaces a policy.
func (c *Controller) apply(ctx context.Context, req api.ApplyTrafficPolicyRequest) (api.TrafficPolicy, error) {
	p, _ := api.PrincipalFrom(ctx)
	if req.Policy.Name == "" {
		req.Policy.Name = req.Name
	}
	if req.Policy.Name != req.Name {
		return api.TrafficPolicy{}, api.Invalid("/policy/name", "a policy cannot be renamed")
	}
	spec, policy, err := accept(p, "/policy", req.Policy)
	if err != nil {
		return api.TrafficPolicy{}, err
	}
	key := bus.Key{Tenant: p.Tenant, ID: req.Name}
	if err := c.fits(key, policy); err != nil {
		return api.TrafficPolicy{}, err
	}
	e, err := c.policies.UpdateAt(ctx, key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "update"}, func(old api.TrafficPolicy) (api.TrafficPolicy, error) {
		if sameSpec(old.TrafficSpec, spec) {
			return old, bus.ErrUnchanged
		}
		old.TrafficSpec = spec
		return old, nil
	})
	if api.CodeOf(err) == api.CodeNotFound && req.IfMatch == 0 {
		return c.put(ctx, p, spec, policy)
	}
	if err != nil {
		return api.TrafficPolicy{}, err
	}
	c.policyChanged(e)
	return public(e), nil
}

func (c *Controller) delete(ctx context.Context, req api.NameRef) (api.None, error) {
	p, _ := api.PrincipalFrom(ctx)
	e, err := c.find(p, req.Name)
	if err != nil {
		return api.None{}, err
	}
	return api.None{}, c.policies.Delete(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"})
}

func (c *Controller) get(ctx context.Context, req api.NameRef) (api.TrafficPolicy, error) {
	p, _ := api.PrincipalFrom(ctx)
	e, err := c.find(p, req.Name)
	if err != nil {
		return api.TrafficPolicy{}, err
	}
	out := public(e)
	out.Status = c.status(e)
	return out, nil
}

func (c *Controller) list(ctx context.Context, req api.List) (api.Page[api.TrafficPolicy], error) {
	page := api.Page[api.TrafficPolicy]{Items: []api.TrafficPolicy{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, before, err := bounds(req)
	if err != nil {
		return page, err
	}
	entries := c.byName.List(indexTenant, p.Tenant, before, limit+1, nil)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = cursor(entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, public(e))
	}
	return page, nil
}

// history goes on after the policy's end: who deleted it is a part of it.
func (c *Controller) history(ctx context.Context, req api.TrafficHistoryRequest) (api.Page[api.Change[api.TrafficPolicy]], error) {
	page := api.Page[api.Change[api.TrafficPolicy]]{Items: []api.Change[api.TrafficPolicy]{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, after, err := bounds(req.List)
	if err != nil {
		return page, err
	}
	key := bus.Key{Tenant: p.Tenant, ID: req.Name}
	if e, err := c.find(p, req.Name); err == nil {
		key = e.Key
	} else if !tc.ValidName(req.Name) {
		return page, err
	}
	changes, err := c.policies.History(ctx, key, after, limit+1)
	if err != nil {
		return page, err
	}
	if len(changes) == 0 && after == 0 {
		_, err := c.find(p, req.Name)
		return page, err
	}
	if len(changes) > limit {
		changes = changes[:limit]
		page.NextCursor = cursor(changes[limit-1].Rev)
	}
	for _, change := range changes {
		change.State.Rev = change.Rev
		page.Items = append(page.Items, change)
	}
	return page, nil
}

// bounds returns a list's limit and the position of its cursor.
func bounds(req api.List) (limit int, position uint64, err error) {
	if limit, err = req.Bound(); err != nil {
		return 0, 0, err
	}
	if req.Cursor != "" {
		text, ok := strings.CutPrefix(req.Cursor, cursorPrefix)
		if position, err = strconv.ParseUint(text, 36, 64); err != nil || !ok {
			return 0, 0, api.Invalid("/cursor", "is not a cursor that this list gave out")
		}
	}
	return limit, position, nil
}

// cursorPrefix begins each cursor, so that its form can change.
const cursorPrefix = "t1"

func cursor(position uint64) string { return cursorPrefix + strconv.FormatUint(position, 36) }
