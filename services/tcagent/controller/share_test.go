package controller_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/tc"
)

// crowd is many sessions, of which each tenth is on another node.
type crowd struct {
	*yard
	sessions []string
	revs     map[string]uint64 // of their entries, when they were looked at last
}

func (c *crowd) node(i int) string { return fmt.Sprintf("n%d", i%10) }

func (c *crowd) own(i int) bus.Entry[api.TrafficPlanRecord] {
	e, _ := c.plans.Get(bus.Key{Tenant: c.node(i), ID: c.sessions[i]})
	return e
}

// holds is what session i's node holds: its own entry or its group's, whichever is newer.
func (c *crowd) holds(i int) (e bus.Entry[api.TrafficPlanRecord], plan tc.Plan) {
	c.t.Helper()
	e = c.own(i)
	if e.State.Group != "" {
		if g, ok := c.plans.Get(bus.Key{Tenant: api.SharedPlans, ID: e.State.Group}); ok && g.Rev > e.Rev {
			e = g
		}
	}
	if len(e.State.Plan) == 0 {
		return e, plan
	}
	if tc.HashPlan(e.State.Plan) != e.State.Hash {
		c.t.Fatalf("the hash of %s is not its plan's", e.Key.ID)
	}
	if err := json.Unmarshal(e.State.Plan, &plan); err != nil {
		c.t.Fatal(err)
	}
	return e, plan
}

// become waits until every session has the plan that it shall have.
func (c *crowd) become(what string, want func(i int) tc.BitsPerSecond) {
	c.t.Helper()
	c.eventually(what, func() bool {
		for i := range c.sessions {
			_, plan := c.holds(i)
			if rate := want(i); rate == 0 && plan.Mode != tc.Off || rate != 0 && (plan.Download == nil || plan.Download.Rate != rate) {
				return false
			}
		}
		return true
	})
}

// written is how many of the sessions have been written since this was asked last.
func (c *crowd) written() (n int) {
	for i, id := range c.sessions {
		if rev := c.own(i).Rev; rev != c.revs[id] {
			c.revs[id] = rev
			n++
		}
	}
	return n
}

func all(r tc.BitsPerSecond) func(int) tc.BitsPerSecond {
	return func(int) tc.BitsPerSecond { return r }
}

// TestShared: a policy's change that many sessions have in common is written once, and none ever holds what is for others.
func TestShared(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	c := &crowd{yard: y, revs: map[string]uint64{}}
	for i := range 100 {
		labels := map[string]string{}
		if i%5 == 0 {
			labels["team"] = "blue"
		}
		c.sessions = append(c.sessions, y.session("default", c.node(i), labels))
	}
	able := able
	able.Faults, able.Netem = true, true
	for i := range 10 {
		y.reportAs(c.node(i), "", able, nil, i != 9) // one agent is of the release before
	}
	c.become("off", all(0))
	old := func(i int) bool { return i%10 == 9 }

	y.apply(admin, "name: p\nlink: {download: {ceiling: 10Mbit}}")
	c.become("the first change", all(10*tc.Mbit))
	c.written()
	group := c.own(0).State.Group
	for i := range c.sessions {
		if g := c.own(i).State.Group; g == "" != old(i) || g != "" && g != group {
			t.Fatalf("session %d is in group %q, another in %q", i, g, group)
		}
	}
	t.Run("one write for all whose agents follow it", func(t *testing.T) {
		y.apply(admin, "name: p\nlink: {download: {ceiling: 20Mbit}}")
		c.become("the second change", all(20*tc.Mbit))
		if n := c.written(); n != 10 {
			t.Errorf("%d sessions were written, not the 10 of the older agent", n)
		}
	})
	t.Run("one that goes its own way leaves", func(t *testing.T) {
		y.change("default", c.sessions[1], func(r *api.SessionRecord) { r.Labels = map[string]string{"team": "red"} })
		y.apply(admin, "name: red\napplies_to: {sessions: {match_labels: {team: red}}}\nlink: {download: {ceiling: 5Mbit}}")
		want := func(i int) tc.BitsPerSecond {
			if i == 1 {
				return 5 * tc.Mbit
			}
			return 20 * tc.Mbit
		}
		c.become("one has another", want)
		if n := c.written(); n != 1 || c.own(1).State.Group != "" {
			t.Errorf("%d were written; it is in group %q", n, c.own(1).State.Group)
		}
	})
	t.Run("those that shall not have what the others get leave before it is written", func(t *testing.T) {
		must(rpc.Call(admin, y.client, api.DeleteTrafficPolicy, api.NameRef{Name: "red"}))(t)
		c.become("all alike", all(20*tc.Mbit))
		y.apply(admin, "name: blue\napplies_to: {sessions: {match_labels: {team: blue}}}\nlink: {download: {ceiling: 15Mbit}}")
		blue := func(rest tc.BitsPerSecond) func(int) tc.BitsPerSecond {
			return func(i int) tc.BitsPerSecond {
				if i%5 == 0 {
					return 15 * tc.Mbit
				}
				return rest
			}
		}
		c.become("a fifth has another", blue(20*tc.Mbit)) // fewer than groups are looked at for: each is written
		y.apply(admin, "name: p\nlink: {download: {ceiling: 30Mbit}}")
		c.become("the others change", blue(30*tc.Mbit))
		c.written()
		// Now one policy ends for a half, and changes for the other.
		y.apply(admin, "name: p\napplies_to: {nodes: [n1, n2, n3, n4, n6]}\nlink: {download: {ceiling: 40Mbit}}")
		c.become("a half has none", func(i int) tc.BitsPerSecond {
			switch {
			case i%5 == 0:
				return 15 * tc.Mbit
			case i%10 == 7 || i%10 == 8 || old(i):
				return 0
			}
			return 40 * tc.Mbit
		})
		body, _ := c.holds(1 + 10)
		if body.Key.Tenant != api.SharedPlans {
			t.Fatal("what stays does not share a plan")
		}
		for i := range c.sessions {
			if e := c.own(i); (i%10 == 7 || i%10 == 8) && (e.Rev > body.Rev || e.State.Group == body.Key.ID) {
				t.Errorf("session %d left at %d, after the group's change at %d", i, e.Rev, body.Rev)
			}
		}
		must(rpc.Call(admin, y.client, api.DeleteTrafficPolicy, api.NameRef{Name: "blue"}))(t)
		y.apply(admin, "name: p\nlink: {download: {ceiling: 50Mbit}}")
		c.become("all alike again", all(50*tc.Mbit))
		c.written()
	})
	t.Run("a fault is the session's own, with what its group had", func(t *testing.T) {
		y.apply(admin, "name: p\nlink: {download: {ceiling: 55Mbit}}")
		c.become("shared", all(55*tc.Mbit))
		must(rpc.Call(admin, y.client, api.CreateTrafficFault, api.CreateTrafficFaultRequest{
			Session: c.sessions[2], For: api.Duration(time.Minute), TrafficFaultSpec: api.TrafficFaultSpec{Rate: "1Mbit"},
		}))(t)
		y.eventually("the fault is there", func() bool { return c.own(2).State.Fault != nil })
		if e, plan := c.holds(2); e.Key.ID != c.sessions[2] || plan.Session != c.sessions[2] || plan.Download.Rate != 55*tc.Mbit || e.State.Group != "" {
			t.Errorf("it holds %+v in group %q", plan, e.State.Group)
		}
	})
	t.Run("what agents announce counts until they report", func(t *testing.T) {
		for i := range 10 {
			says := api.TrafficCounters{Node: c.node(i), At: time.Now(), Applied: map[string]api.TrafficPlanApplied{}}
			for j := i; j < len(c.sessions); j += 10 {
				e, _ := c.holds(j)
				says.Applied[c.sessions[j]] = api.TrafficPlanApplied{Rev: e.Rev, Hash: e.State.Hash, State: "applied", At: time.Now()}
			}
			data, err := json.Marshal(says)
			if err == nil {
				err = y.agent.Publish(api.LiveCountersPrefix+c.node(i), data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		programmed := func() bool {
			p := must(rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: "p"}))(t)
			for _, condition := range p.Status.Conditions {
				if condition.Type == "Programmed" {
					return condition.Status
				}
			}
			return false
		}
		y.eventually("it is programmed", programmed)
		y.reportAs(c.node(3), "", able, map[string]api.TrafficPlanApplied{c.sessions[3]: {State: "failed", At: time.Now().Add(time.Second)}}, true)
		y.eventually("it is not, as a later report says", func() bool { return !programmed() })
	})
	t.Run("who compiles next finds the groups", func(t *testing.T) {
		c.written()
		before, _ := c.holds(4)
		y.stop()
		y.start()
		y.apply(admin, "name: p\nlink: {download: {ceiling: 60Mbit}}")
		c.become("its change", all(60*tc.Mbit))
		if n := c.written(); n != 11 { // of the older agent, and the one with a fault
			t.Errorf("%d sessions were written, not 11", n)
		}
		history := must(bus.ReadLedger[api.TrafficPlanRecord](y.agent, api.NounPlans).History(t.Context(), before.Key, before.Rev, 10))(t)
		if len(history) != 1 {
			t.Errorf("the group was written %d times, not once", len(history))
		}
	})
	t.Run("an agent that follows no groups any more has its sessions' own", func(t *testing.T) {
		y.reportAs(c.node(3), "", able, nil, false)
		y.eventually("they are written", func() bool {
			for i := 3; i < len(c.sessions); i += 10 {
				if c.own(i).State.Group != "" {
					return false
				}
			}
			return true
		})
		c.become("as before", all(60*tc.Mbit))
	})
}
