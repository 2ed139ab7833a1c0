package controller_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/tc"
)

func TestPlans(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	acme := y.as("acme/admin", api.RoleAdmin)
	first := y.session("acme", "n1.example.com", map[string]string{"team": "blue"})
	second := y.session("acme", "n2", nil)
	other := y.session("other", "n1.example.com", nil)

	t.Run("a node without an agent has no plans, and its first report brings them", func(t *testing.T) {
		y.report("n1.example.com", "", able, nil)
		y.planned("the first plan", "n1.example.com", first, isOff)
		if _, ok := y.plans.Get(bus.Key{Tenant: "n2", ID: second}); ok {
			t.Error("a node of which nothing is known has a plan")
		}
		y.report("n2", "", able, nil)
		y.planned("the second plan", "n2", second, isOff)
	})
	t.Run("a policy is compiled for the sessions that it selects, and for no others", func(t *testing.T) {
		before := y.planned("another tenant's plan", "n1.example.com", other, isOff)
		y.apply(acme, "name: tenant\nlink: {download: {ceiling: 50Mbit}}")
		y.planned("first", "n1.example.com", first, downloads(50*tc.Mbit))
		rev := y.planned("second", "n2", second, downloads(50*tc.Mbit))
		y.apply(acme, "name: team\napplies_to: {sessions: {match_labels: {team: blue}}}\nlink: {download: {ceiling: 20Mbit}}")
		y.planned("first", "n1.example.com", first, downloads(20*tc.Mbit))
		// Whatever the planner had to do before is done when a later change is.
		y.apply(admin, "name: everyone\nlink: {download: {ceiling: 90Mbit}}")
		y.planned("another tenant's", "n1.example.com", other, downloads(90*tc.Mbit))
		if now := y.planned("second", "n2", second, downloads(50*tc.Mbit)); now != rev {
			t.Error("a plan was written again though nothing changed in it")
		}
		if history := must(bus.ReadLedger[api.TrafficPlanRecord](y.agent, api.NounPlans).History(t.Context(), bus.Key{Tenant: api.TrafficNodeToken("n1.example.com"), ID: other}, before, 10))(t); len(history) != 1 {
			t.Errorf("another tenant's plan was written %d times, want once", len(history))
		}
	})
	t.Run("effective says whose value it is", func(t *testing.T) {
		alice := y.as("acme/alice", api.RoleMember)
		e := must(rpc.Call(alice, y.client, api.EffectiveTraffic, api.EffectiveTrafficRequest{Session: first}))(t)
		if e.Mode != "enforce" || *e.Download.Ceiling != (api.TrafficValue{Value: "20Mbit", From: "team"}) {
			t.Errorf("%+v", e)
		}
		var names []string
		for _, p := range e.Policies {
			names = append(names, p.Tier+" "+p.Name)
		}
		if got := fmt.Sprint(names); got != "[session team tenant tenant platform everyone]" {
			t.Errorf("policies %s", got)
		}
		for _, who := range []string{"acme/bob", "other/alice"} {
			_, err := rpc.Call(y.as(who, api.RoleMember), y.client, api.EffectiveTraffic, api.EffectiveTrafficRequest{Session: first})
			refused(t, api.CodeNotFound, "", err)
		}
	})
	t.Run("the operator's policy for a tenant is beside the tenant's of that name", func(t *testing.T) {
		y.apply(admin, "name: tenant\napplies_to: {tenant: acme}\nlink: {download: {ceiling: 10Mbit}}")
		y.planned("first", "n1.example.com", first, downloads(10*tc.Mbit))
		e := must(rpc.Call(acme, y.client, api.EffectiveTraffic, api.EffectiveTrafficRequest{Session: first}))(t)
		if e.Download.Ceiling.From != "default/tenant" {
			t.Errorf("it is %s's", e.Download.Ceiling.From)
		}
		must(rpc.Call(acme, y.client, api.DeleteTrafficPolicy, api.NameRef{Name: "tenant"}))(t)
		y.planned("second, still", "n2", second, downloads(10*tc.Mbit))
		must(rpc.Call(admin, y.client, api.DeleteTrafficPolicy, api.NameRef{Name: "tenant"}))(t)
		y.planned("second", "n2", second, downloads(90*tc.Mbit))
	})
	t.Run("follows labels, nodes and the end of a session", func(t *testing.T) {
		y.change("acme", first, func(r *api.SessionRecord) { r.Labels = nil })
		y.planned("without its label", "n1.example.com", first, downloads(90*tc.Mbit))
		y.change("acme", first, func(r *api.SessionRecord) { r.Node = "n2" })
		y.planned("on its other node", "n2", first, downloads(90*tc.Mbit))
		gone := func(node string) func() bool {
			return func() bool {
				_, ok := y.plans.Get(bus.Key{Tenant: api.TrafficNodeToken(node), ID: first})
				return !ok
			}
		}
		y.eventually("its plan is gone from the node that it left", gone("n1.example.com"))
		y.change("acme", first, func(r *api.SessionRecord) { r.State = api.StateTerminated })
		y.eventually("its plan is gone", gone("n2"))
	})
	t.Run("a node that can do less gets another plan", func(t *testing.T) {
		less := able
		less.FQCodel, less.SFQ = false, false
		y.report("n2", "", less, nil)
		y.planned("second with bfifo", "n2", second, func(p tc.Plan) bool {
			return p.Download != nil && p.Download.Leaves[0].Queue.Kind == tc.BFIFO
		})
	})
	t.Run("a schedule changes plans when it is time", func(t *testing.T) {
		y.apply(acme, "name: night\nlink: {download: {ceiling: 5Mbit}}\nschedule: {timezone: UTC, windows: [{from: '22:00', to: '06:00'}]}")
		y.planned("by day", "n2", second, downloads(90*tc.Mbit))
		y.clock.set(time.Date(2026, 6, 1, 22, 0, 0, 0, time.UTC))
		y.planned("at night", "n2", second, downloads(5*tc.Mbit))
		y.clock.set(time.Date(2026, 6, 2, 6, 0, 0, 0, time.UTC))
		y.planned("in the morning", "n2", second, downloads(90*tc.Mbit))
	})
}

// TestReplicas has two: the plans are written once, and go on when the one that wrote them stops.
func TestReplicas(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	y.start()
	id := y.session("default", "n1", nil)
	y.report("n1", "", able, nil)
	y.apply(admin, "name: p\nlink: {download: {ceiling: 5Mbit}}")
	y.planned("a plan", "n1", id, downloads(5*tc.Mbit))
	y.stop()
	y.apply(admin, "name: p\nlink: {download: {ceiling: 6Mbit}}")
	y.planned("the next plan", "n1", id, downloads(6*tc.Mbit))
	history := must(bus.ReadLedger[api.TrafficPlanRecord](y.agent, api.NounPlans).History(t.Context(), bus.Key{Tenant: "n1", ID: id}, 0, 10))(t)
	var hashes []string
	for _, c := range history {
		hashes = append(hashes, c.State.Hash)
	}
	if len(slices.Compact(slices.Clone(hashes))) != len(hashes) {
		t.Errorf("one plan was written twice in a row: %v", hashes)
	}
}

// TestStart is about what changed while no controller was there.
func TestStart(t *testing.T) {
	y := newYard(t)
	y.report("n1", "", able, nil)
	ends, stays := y.session("default", "n1", nil), y.session("default", "n1", nil)
	y.apply(y.as("admin", api.RoleAdmin), "name: p\nlink: {download: {ceiling: 5Mbit}}")
	for _, id := range []string{ends, stays} {
		y.planned("a plan", "n1", id, downloads(5*tc.Mbit))
	}
	rev := y.planned("a plan", "n1", stays, downloads(5*tc.Mbit))
	y.stop()
	y.change("default", ends, func(r *api.SessionRecord) { r.State = api.StateFailed })
	comes := y.session("default", "n1", nil)
	y.start()
	y.planned("the plan of a session that came", "n1", comes, downloads(5*tc.Mbit))
	y.eventually("the plan of one that ended is gone", func() bool {
		_, ok := y.plans.Get(bus.Key{Tenant: "n1", ID: ends})
		return !ok
	})
	if again := y.planned("a plan", "n1", stays, downloads(5*tc.Mbit)); again != rev {
		t.Error("a start writes plans that are there")
	}
}
