package controller

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// A session's fault is a part of its entry in PLANS: so it reaches the session's node and no other, in order with its plans, and has their history. The node ends it
// by itself; what is left of it in the ledger afterwards, the replica that compiles removes.

// leastFault is how short a fault may be: less is over before it has arrived.
const leastFault = time.Second

// lasting is a fault that has not ended.
func lasting(f *api.TrafficFaultRecord, now time.Time) *api.TrafficFaultRecord {
	if f == nil || !now.Before(f.Until) {
		return nil
	}
	return f
}

// faulted lists plans with a fault under their session's tenant.
func faulted(e bus.Entry[api.TrafficPlanRecord]) []string {
	if e.State.Fault == nil {
		return nil
	}
	return []string{e.State.Tenant}
}

// readFault turns what was asked for into what would be done. All that is wrong is said at once.
func readFault(spec api.TrafficFaultSpec) (f tc.Fault, err error) {
	var wrong api.Problems
	f.Direction = tc.Direction(spec.Direction)
	for _, v := range []struct {
		name, text string
		into       encoding.TextUnmarshaler
	}{{"delay", spec.Delay, &f.Delay}, {"jitter", spec.Jitter, &f.Jitter}, {"loss", spec.Loss, &f.Loss}, {"duplicate", spec.Duplicate, &f.Duplicate}, {"rate", spec.Rate, &f.Rate}} {
		if v.text == "" {
			continue
		}
		if err := v.into.UnmarshalText([]byte(v.text)); err != nil {
			wrong.Add("/"+v.name, "%s", err)
		}
	}
	if len(wrong) == 0 {
		for _, p := range f.Validate() {
			wrong.Add(p.Pointer, "%s; %s", p.Detail, p.Remedy)
		}
	}
	return f, wrong.Err()
}

// createFault puts a fault on one session's traffic.
func (c *Controller) createFault(ctx context.Context, req api.CreateTrafficFaultRequest) (api.TrafficFault, error) {
	p, _ := api.PrincipalFrom(ctx)
	f, err := c.sessionFor(p, req.Session)
	if err != nil {
		return api.TrafficFault{}, err
	}
	fault, err := readFault(req.TrafficFaultSpec)
	if err != nil {
		return api.TrafficFault{}, err
	}
	if req.For.D() < leastFault || req.For.D() > tc.MaxFaultTime {
		return api.TrafficFault{}, api.Invalid("/for", "must be from %s to %s", leastFault, tc.MaxFaultTime)
	}
	can, ok := c.capabilities(f.Node)
	if !ok {
		return api.TrafficFault{}, api.Errorf(api.CodeUnavailable, "no agent has reported for the session's node")
	}
	if err := possible(fault, can); err != nil {
		return api.TrafficFault{}, err
	}
	now := c.deps.Now().UTC()
	record := &api.TrafficFaultRecord{TrafficFaultSpec: req.TrafficFaultSpec, By: p.ID, At: now, Until: now.Add(req.For.D())}
	if err := c.putFault(ctx, p, f, "fault", record); err != nil {
		return api.TrafficFault{}, err
	}
	c.audit(ctx, api.CreateTrafficFault.Info(), f)
	return shownFault(f.ID, record, "waiting"), nil
}

// possible refuses a fault of which the node could do only a part: a test that ran with less would say that all is well.
func possible(f tc.Fault, can tc.Capabilities) error {
	_, missing := (&tc.Plan{Format: tc.PlanFormat, Mode: tc.Off}).WithFault(f, 1, can)
	if len(missing) == 0 {
		return nil
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return api.Invalid("", "the session's node cannot do all of %s: %s", data, strings.Join(missing, "; "))
}

// putFault writes a session's fault; nil: none.
func (c *Controller) putFault(ctx context.Context, p api.Principal, f facts, verb string, record *api.TrafficFaultRecord) error {
	at := bus.Key{Tenant: api.TrafficNodeToken(f.Node), ID: f.ID}
	_, err := c.plans.Update(ctx, at, bus.Meta{Actor: p.ID, Verb: verb}, func(old api.TrafficPlanRecord) (api.TrafficPlanRecord, error) {
		if record == nil && old.Fault == nil {
			return old, bus.ErrUnchanged
		}
		old.Fault = record
		if own, ok := c.planned.Get(at); ok && old.Group != "" { // no longer: others have none
			if e, shared := c.intended(own); shared {
				s, err := shapeOf(e.State.Plan)
				if err != nil {
					return old, fmt.Errorf("read plan of %s: %w", f.ID, err)
				}
				old.Plan = s.text(f.ID)
				old.Hash = tc.HashPlan(old.Plan)
			}
			old.Group = ""
		}
		return old, nil
	})
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		if record == nil {
			return nil
		}
		return api.Errorf(api.CodeUnavailable, "the session has no plan yet; try again in a moment")
	}
	return err
}

func (c *Controller) audit(ctx context.Context, op api.OpInfo, f facts) {
	p, _ := api.PrincipalFrom(ctx)
	c.log.Info("fault", "op", op.Name(), "tenant", f.Tenant, "actor", p.ID, "session", f.ID)
	if c.deps.Acted != nil {
		c.deps.Acted(ctx, op, f.ID)
	}
}

func (c *Controller) listFaults(ctx context.Context, req api.List) (api.Page[api.TrafficFault], error) {
	page := api.Page[api.TrafficFault]{Items: []api.TrafficFault{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, before, err := bounds(req)
	if err != nil {
		return page, err
	}
	now := c.deps.Now()
	entries := c.planned.List(indexFault, p.Tenant, before, limit+1, func(e bus.Entry[api.TrafficPlanRecord]) bool {
		_, err := c.sessionFor(p, e.Key.ID)
		return err == nil && lasting(e.State.Fault, now) != nil
	})
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = cursor(entries[limit-1].Created)
	}
	for _, e := range entries {
		state := "waiting"
		if node, ok := c.nodes.Get(bus.Key{Tenant: api.HomeTenant, ID: e.Key.Tenant}); ok {
			if a := node.State.Applied[e.Key.ID]; a.Rev >= e.Rev && a.Fault != "" {
				state = a.Fault
			} else if a.Rev >= e.Rev && a.Detail != "" {
				state = a.Detail
			}
		}
		page.Items = append(page.Items, shownFault(e.Key.ID, e.State.Fault, state))
	}
	return page, nil
}

func shownFault(session string, r *api.TrafficFaultRecord, state string) api.TrafficFault {
	return api.TrafficFault{Session: session, TrafficFaultSpec: r.TrafficFaultSpec, By: r.By, At: r.At, Until: r.Until, State: state}
}

// deleteFault ends a session's fault; that there is none is as good.
func (c *Controller) deleteFault(ctx context.Context, req api.TrafficFaultRef) (api.None, error) {
	p, _ := api.PrincipalFrom(ctx)
	f, err := c.sessionFor(p, req.Session)
	if err != nil {
		return api.None{}, err
	}
	if err := c.putFault(ctx, p, f, "end-fault", nil); err != nil {
		return api.None{}, err
	}
	c.audit(ctx, api.DeleteTrafficFault.Info(), f)
	return api.None{}, nil
}
