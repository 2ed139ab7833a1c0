package controller

import (
	"encoding/json"
	"fmt"
	"sync"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// world holds the policies in force, ready to be asked. It keeps one tc.Set for each tenant, made when it is first needed: the tenant's
// policies and those of all tenants.
type world struct {
	mu       sync.Mutex
	policies map[bus.Key]known
	of       map[string]map[bus.Key]tc.Policy // those in force, by the tenant to whose sessions they apply; "": to all
	sets     map[string]*tc.Set
}

// known is one policy as this version of the program reads it.
type known struct {
	rev    uint64
	policy tc.Policy
	wrong  error // it cannot be read; it has no part
	gone   bool
}

func newWorld() *world {
	return &world{policies: map[bus.Key]known{}, of: map[string]map[bus.Key]tc.Policy{}, sets: map[string]*tc.Set{}}
}

// learn takes a change in, if it is newer than what is known, and returns what the policy was and is.
func (w *world) learn(e bus.Entry[api.TrafficPolicy]) (before, now known, changed bool) {
	now = known{rev: e.Rev, gone: e.Deleted}
	if !e.Deleted {
		now.policy, now.wrong = read(e.Key.Tenant, e.State.TrafficSpec)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before, had := w.policies[e.Key]
	if had && before.rev >= e.Rev {
		return before, now, false
	}
	if !had {
		before.gone = true
	}
	w.policies[e.Key] = now
	if tenant := before.policy.AppliesTo.Tenant; !before.gone && before.wrong == nil {
		w.forget(tenant)
		if delete(w.of[tenant], e.Key); len(w.of[tenant]) == 0 {
			delete(w.of, tenant)
		}
	}
	if tenant := now.policy.AppliesTo.Tenant; !now.gone && now.wrong == nil {
		w.forget(tenant)
		if w.of[tenant] == nil {
			w.of[tenant] = map[bus.Key]tc.Policy{}
		}
		w.of[tenant][e.Key] = now.policy
	}
	return before, now, true
}

// forget drops the sets in which a policy for a tenant has a part.
func (w *world) forget(tenant string) {
	if tenant == "" {
		clear(w.sets)
		return
	}
	delete(w.sets, tenant)
}

// set returns the policies that may apply to a tenant's sessions.
func (w *world) set(tenant string) (*tc.Set, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if set := w.sets[tenant]; set != nil {
		return set, nil
	}
	set, err := w.make(tenant, bus.Key{}, nil)
	if err == nil {
		w.sets[tenant] = set
	}
	return set, err
}

// with is set as it would be with the policy at key replaced by p; nil: without it.
func (w *world) with(tenant string, key bus.Key, p *tc.Policy) (*tc.Set, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.make(tenant, key, p)
}

// make costs as much as there are policies that apply to the tenant, or to all. It needs the lock.
func (w *world) make(tenant string, replaced bus.Key, p *tc.Policy) (*tc.Set, error) {
	var policies []tc.Policy
	for _, of := range [...]string{"", tenant} {
		for key, p := range w.of[of] {
			if key != replaced {
				policies = append(policies, p)
			}
		}
	}
	if p != nil && (p.AppliesTo.Tenant == "" || p.AppliesTo.Tenant == tenant) {
		policies = append(policies, *p)
	}
	set, err := tc.NewSet(policies)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "policies of tenant %s: %w", tenant, err)
	}
	return set, nil
}

// get returns what is known of a policy.
func (w *world) get(key bus.Key) (known, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.policies[key]
	return k, ok && !k.gone
}

// read turns a document into a policy that a tenant's admins wrote. The error is tc.Problems.
func read(tenant string, spec api.TrafficSpec) (tc.Policy, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return tc.Policy{}, fmt.Errorf("read policy: %w", err)
	}
	p, err := tc.Parse(data)
	if err != nil {
		return tc.Policy{}, err
	}
	if p.AppliesTo.Tenant != "" && p.AppliesTo.Tenant != tenant {
		p.Origin = tenant // the operator's, for another tenant, which may have one of that name
	}
	return p, nil
}

// session is what libs/tc asks about one.
func (f facts) session() tc.Session {
	return tc.Session{ID: f.ID, Tenant: f.Tenant, User: f.Owner, Node: f.Node, Labels: f.Labels}
}
