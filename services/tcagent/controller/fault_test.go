package controller_test

import (
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

func TestFaults(t *testing.T) {
	y := newYard(t)
	admin, member := y.as("ada", api.RoleAdmin), y.as("alice", api.RoleMember)
	can := able
	can.Faults, can.Netem = true, true
	y.report("n1", "", can, nil)
	weak := can
	weak.Netem, weak.Relay = false, false
	y.report("n2", "", weak, nil)
	id := y.session(api.HomeTenant, "n1", nil)
	y.planned("a plan", "n1", id, isOff)
	at := bus.Key{Tenant: "n1", ID: id}
	spec := api.TrafficFaultSpec{Direction: "download", Delay: "100ms", Jitter: "20ms", Loss: "1%", Rate: "1Mbit"}
	record := func() *api.TrafficFaultRecord {
		e, _ := y.plans.Get(at)
		return e.State.Fault
	}

	t.Run("refuses who may not, and says all that is wrong", func(t *testing.T) {
		req := api.CreateTrafficFaultRequest{Session: id, For: api.Duration(time.Minute), TrafficFaultSpec: spec}
		_, err := rpc.Call(member, y.client, api.CreateTrafficFault, req)
		refused(t, api.CodeDenied, "", err)
		_, err = rpc.Call(y.as("other/eve", api.RoleAdmin), y.client, api.CreateTrafficFault, req)
		refused(t, api.CodeNotFound, "", err)
		req.TrafficFaultSpec = api.TrafficFaultSpec{Delay: "100", Loss: "1", Duplicate: "200%", Rate: "1Mbps"}
		_, err = rpc.Call(admin, y.client, api.CreateTrafficFault, req)
		refused(t, api.CodeInvalid, "/delay", err)
		if n := strings.Count(err.Error(), "/"); n < 4 {
			t.Errorf("four things are wrong: %v", err)
		}
		req.TrafficFaultSpec, req.For = spec, api.Duration(time.Hour+time.Second)
		_, err = rpc.Call(admin, y.client, api.CreateTrafficFault, req)
		refused(t, api.CodeInvalid, "/for", err)
		second := y.session(api.HomeTenant, "n2", nil)
		y.planned("a plan", "n2", second, isOff)
		req.Session, req.For = second, api.Duration(time.Minute)
		_, err = rpc.Call(admin, y.client, api.CreateTrafficFault, req)
		refused(t, api.CodeInvalid, "", err)
		if err == nil || !strings.Contains(err.Error(), "netem") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("travels with the session's plan, and stays when that changes", func(t *testing.T) {
		made := must(rpc.Call(admin, y.client, api.CreateTrafficFault, api.CreateTrafficFaultRequest{Session: id, For: api.Duration(10 * time.Minute), TrafficFaultSpec: spec}))(t)
		if made.By != userID(api.HomeTenant, "ada") || !made.Until.Equal(y.clock.now().Add(10*time.Minute)) || made.State != "waiting" {
			t.Errorf("got %+v", made)
		}
		y.eventually("the plan has it", func() bool { f := record(); return f != nil && f.TrafficFaultSpec == spec })
		y.apply(admin, "name: base\nlink: {download: {ceiling: 10Mbit}}")
		rev := y.planned("another plan", "n1", id, downloads(10_000_000))
		if f := record(); f == nil || f.TrafficFaultSpec != spec {
			t.Errorf("the new plan has %+v", f)
		}
		y.report("n1", "", can, map[string]api.TrafficPlanApplied{id: {Rev: rev, State: "applied", Fault: "in force"}})
		y.eventually("it is listed as in force", func() bool {
			page := must(rpc.Call(member, y.client, api.ListTrafficFaults, api.List{}))(t)
			return len(page.Items) == 1 && page.Items[0].Session == id && page.Items[0].State == "in force" && page.Items[0].Loss == "1%"
		})
		if page := must(rpc.Call(y.as("other/eve", api.RoleAdmin), y.client, api.ListTrafficFaults, api.List{}))(t); len(page.Items) != 0 {
			t.Errorf("another tenant sees %+v", page.Items)
		}
	})
	t.Run("is gone from the plan when it has ended", func(t *testing.T) {
		y.clock.set(y.clock.now().Add(10 * time.Minute))
		if page := must(rpc.Call(admin, y.client, api.ListTrafficFaults, api.List{}))(t); len(page.Items) != 0 {
			t.Errorf("listed is %+v", page.Items)
		}
		y.eventually("the plan has none", func() bool { return record() == nil })
	})
	t.Run("ends when it is told to", func(t *testing.T) {
		must(rpc.Call(admin, y.client, api.CreateTrafficFault, api.CreateTrafficFaultRequest{Session: id, For: api.Duration(time.Minute), TrafficFaultSpec: spec}))(t)
		y.eventually("the plan has it", func() bool { return record() != nil })
		_, err := rpc.Call(member, y.client, api.DeleteTrafficFault, api.TrafficFaultRef{Session: id})
		refused(t, api.CodeDenied, "", err)
		for range 2 {
			must(rpc.Call(admin, y.client, api.DeleteTrafficFault, api.TrafficFaultRef{Session: id}))(t)
		}
		y.eventually("the plan has none", func() bool { return record() == nil })
		y.planned("the plan is as it was", "n1", id, downloads(10_000_000))
	})
	t.Run("of a session without a plan there is none to end", func(t *testing.T) {
		unplanned := y.session(api.HomeTenant, "n3", nil) // whose agent has not reported
		y.eventually("it is ended", func() bool {
			_, err := rpc.Call(admin, y.client, api.DeleteTrafficFault, api.TrafficFaultRef{Session: unplanned})
			return err == nil
		})
		_, err := rpc.Call(admin, y.client, api.CreateTrafficFault, api.CreateTrafficFaultRequest{Session: unplanned, For: api.Duration(time.Minute), TrafficFaultSpec: spec})
		refused(t, api.CodeUnavailable, "", err)
	})
}
