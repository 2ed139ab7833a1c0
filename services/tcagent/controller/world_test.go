package controller

import (
	"fmt"
	"path"
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// TestWorld: a tenant's set has its own policies and everyone's, whatever they applied to before, and is made from those alone.
func TestWorld(t *testing.T) {
	w := newWorld()
	rev := uint64(0)
	learn := func(name, appliesTo string, deleted bool) {
		t.Helper()
		rev++
		e := bus.Entry[api.TrafficPolicy]{Key: bus.Key{Tenant: api.HomeTenant, ID: name}}
		e.Rev, e.Deleted = rev, deleted
		e.State.TrafficSpec = api.TrafficSpec{Name: name, AppliesTo: api.TrafficAppliesTo{Tenant: appliesTo}}
		e.State.Priority = int(rev)
		e.State.Link.Upload.Ceiling = "50Mbit"
		if _, now, changed := w.learn(e); !changed || now.wrong != nil {
			t.Fatalf("%s: changed %t, %v", name, changed, now.wrong)
		}
	}
	wants := func(tenant string, want ...string) {
		t.Helper()
		set, err := w.set(tenant)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range set.Resolve(tc.Session{ID: "s", Tenant: tenant}, time.Time{}).Policies {
			got = append(got, path.Base(p.Name))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", tenant, got, want)
		}
	}
	for i := range 50 {
		learn(fmt.Sprintf("other-%d", i), "other", false)
	}
	learn("mine", "acme", false)
	learn("moves", "other", false)
	wants("acme", "mine")
	learn("all", "", false)
	wants("acme", "all", "mine")
	learn("moves", "acme", false)
	wants("acme", "all", "mine", "moves")
	if n := len(w.of["acme"]) + len(w.of[""]); n != 3 {
		t.Errorf("a set of three is made from %d policies", n)
	}
	learn("mine", "acme", true)
	learn("all", "", true)
	wants("acme", "moves")
	learn("moves", "acme", true)
	wants("acme")
	if len(w.of) != 1 || len(w.of["other"]) != 50 {
		t.Errorf("policies of %d tenants are in force, want 1", len(w.of))
	}
}
