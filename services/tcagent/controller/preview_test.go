package controller_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/tc"
)

func TestPreview(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	y.report("n1", "1Gbit", able, nil)
	id := y.session("default", "n1", nil)
	y.planned("a plan", "n1", id, isOff)
	preview := func(text string, gone bool) api.TrafficPreview {
		t.Helper()
		return must(rpc.Call(admin, y.client, api.PlanTrafficPolicy, api.PlanTrafficPolicyRequest{TrafficSpec: spec(t, text), Delete: gone}))(t)
	}
	const policy = "name: p\nlink: {download: {ceiling: 5Mbit}}\nclasses: [{name: all, guarantee: 2Mbit, default: true}]"

	p := preview(policy, false)
	if p.Verb != "create" || p.Sessions != 1 || fmt.Sprint(p.Nodes) != "[n1]" || len(p.Effects) != 1 {
		t.Fatalf("%+v", p)
	}
	changes := map[string]string{}
	for _, c := range p.Effects[0].Changes {
		changes[c.Field] = c.Before + " → " + c.After
	}
	if changes["mode"] != "off → enforce" || changes["download.ceiling"] != " → 5Mbit by p" || !strings.Contains(changes["classes.all"], "2Mbit") {
		t.Errorf("%v", changes)
	}
	if _, err := rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: "p"}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a preview wrote the policy: %v", err)
	}

	y.apply(admin, policy)
	if p := preview(policy, false); p.Verb != "update" || p.Sessions != 0 || len(p.Effects) != 0 {
		t.Errorf("the same again: %+v", p)
	}
	// A smaller ceiling of another policy is less than what is guaranteed.
	p = preview("name: q\napplies_to: {users: ["+userID("default", "alice")+"]}\nlink: {download: {ceiling: 1Mbit}}", false)
	if len(p.Effects) != 1 || len(p.Warnings) == 0 || !strings.Contains(strings.Join(p.Warnings, "\n"), "1Mbit") {
		t.Errorf("%+v", p)
	}
	p = preview(policy, true)
	if p.Verb != "delete" || p.Sessions != 1 {
		t.Errorf("%+v", p)
	}
	_, err := rpc.Call(admin, y.client, api.PlanTrafficPolicy, api.PlanTrafficPolicyRequest{TrafficSpec: api.TrafficSpec{Name: "absent"}, Delete: true})
	refused(t, api.CodeNotFound, "", err)
	p = preview("name: nobody\napplies_to: {nodes: [n9]}\nlink: {download: {ceiling: 1Mbit}}", false)
	if len(p.Warnings) != 1 || p.Sessions != 0 {
		t.Errorf("%+v", p)
	}
}

func TestCapacity(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	y.report("n1", "100Mbit", able, nil)
	for range 2 {
		y.planned("a plan", "n1", y.session("default", "n1", nil), isOff)
	}
	policy := func(rate string) string {
		return "name: p\nlink: {download: {ceiling: 90Mbit}}\nclasses: [{name: all, guarantee: " + rate + ", default: true}]"
	}
	s := spec(t, policy("41Mbit")) // twice is more than 80 of 100
	_, err := rpc.Call(admin, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{TrafficSpec: s})
	refused(t, api.CodeInvalid, "/classes", err)
	if p := must(rpc.Call(admin, y.client, api.PlanTrafficPolicy, api.PlanTrafficPolicyRequest{TrafficSpec: s}))(t); !strings.Contains(strings.Join(p.Warnings, "\n"), "82Mbit") {
		t.Errorf("the preview does not warn: %+v", p.Warnings)
	}
	y.apply(admin, policy("40Mbit"))
	condition := func() api.TrafficCondition {
		p := must(rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: "p"}))(t)
		for _, c := range p.Status.Conditions {
			if c.Type == "Infeasible" {
				return c
			}
		}
		t.Fatalf("%+v", p.Status)
		return api.TrafficCondition{}
	}
	if c := condition(); c.Status {
		t.Errorf("%+v", c)
	}
	y.session("default", "n1", nil)
	y.eventually("a third session is more than the node has", func() bool { return condition().Status })
	// What lessens the trouble is taken.
	y.apply(admin, policy("30Mbit"))
	nodes := must(rpc.Call(admin, y.client, api.ListTrafficNodes, api.List{}))(t)
	if len(nodes.Items) != 1 || nodes.Items[0].Guaranteed != "90Mbit" || nodes.Items[0].Sessions != 3 || nodes.Items[0].Uplink != "100Mbit" || len(nodes.Items[0].Capabilities) < 8 {
		t.Errorf("%+v", nodes)
	}
}

func TestStatus(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	conditions := func() string {
		p := must(rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: "p"}))(t)
		var on []string
		for _, c := range p.Status.Conditions {
			if c.Status {
				on = append(on, c.Type)
			}
		}
		return fmt.Sprint(on, p.Status.Sessions, p.Status.Nodes, p.Status.Behind)
	}
	is := func(want string) {
		t.Helper()
		var got string
		y.eventually(want, func() bool { got = conditions(); return got == want })
	}
	id := y.session("default", "n1", nil)
	y.apply(admin, "name: p\nlink: {download: {ceiling: 5Mbit}}\nlimits: {upload: {connections: 9}}")
	is("[Accepted] 1 1 [n1]")
	y.report("n1", "", able, nil)
	is("[Accepted Compiled] 1 1 [n1]")
	y.planned("a plan", "n1", id, downloads(5*tc.Mbit))
	s := must(rpc.Call(admin, y.client, api.GetTrafficSession, api.SessionRef{ID: id}))(t)
	if s.Intended == nil || s.Intended.Mode != "enforce" || s.Applied != nil || !strings.Contains(strings.Join(s.Intended.Commands, "\n"), "qdisc add dev $HOST root handle 1: htb") {
		t.Errorf("%+v", s)
	}
	y.report("n1", "", able, map[string]api.TrafficPlanApplied{id: {Rev: s.Intended.Rev, Hash: s.Intended.Hash, State: "applied", At: y.clock.now(), TookMS: 1.5}})
	is("[Accepted Compiled Programmed] 1 1 []")
	if p := must(rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: "p"}))(t); p.Status.ApplyP50MS != 1.5 || p.Status.ApplyP99MS != 1.5 {
		t.Errorf("applying took %+v", p.Status)
	}
	y.apply(admin, "name: p\nlink: {download: {ceiling: 6Mbit}}\nlimits: {upload: {connections: 9}}")
	is("[Accepted Compiled] 1 1 [n1]")
	less := able
	less.ConnLimit = false
	y.report("n1", "", less, nil)
	is("[Accepted Compiled Degraded] 1 1 [n1]")
	// What is guaranteed is more than another policy leaves.
	y.apply(admin, "name: p\nlink: {download: {ceiling: 6Mbit}}\nclasses: [{name: all, guarantee: 2Mbit, default: true}]")
	is("[Accepted Compiled] 1 1 [n1]")
	y.apply(admin, "name: q\napplies_to: {users: ["+userID("default", "alice")+"]}\nlink: {download: {ceiling: 1Mbit}}")
	is("[Accepted Compiled Conflicted] 1 1 [n1]")
}

// TestAddress has a session's address follow its endpoint: by it a node agent finds the session's network.
func TestAddress(t *testing.T) {
	y := newYard(t)
	y.report("n1", "", able, nil)
	id := y.session("default", "n1", nil)
	for _, tt := range []struct{ endpoint, address string }{
		{"http://10.1.2.3:9000", "10.1.2.3"}, {"http://[2001:db8::7]:9000", "2001:db8::7"}, {"http://127.0.0.1:9000", ""},
		{"http://10.1.2.4:9000", "10.1.2.4"}, {"unix:/run/s", ""}, {"http://10.1.2.5", "10.1.2.5"}, {"http://name:9000", ""},
	} {
		y.change("default", id, func(r *api.SessionRecord) { r.Endpoint = tt.endpoint })
		y.eventually("the plan of "+tt.endpoint+" has the address "+tt.address, func() bool {
			e, ok := y.plans.Get(bus.Key{Tenant: "n1", ID: id})
			return ok && e.State.Address == tt.address
		})
	}
}

func TestCounters(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)
	id := y.session("default", "n1", nil)
	at := y.clock.now()
	y.report("n1", "", able, nil)
	y.planned("the session has a plan", "n1", id, isOff)
	publish := func(node string, at time.Time, session string, bytes uint64) {
		t.Helper()
		data, err := json.Marshal(api.TrafficCounters{Node: "n1", At: at, Sessions: []api.TrafficSessionCounters{
			{Session: session, Download: []api.TrafficClassCounters{{Class: "model", Bytes: bytes, Packets: 7, Drops: 2}}},
		}})
		if err == nil {
			err = y.agent.Publish(api.LiveCountersPrefix+node, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	counters := func() *api.TrafficCounts {
		return must(rpc.Call(admin, y.client, api.GetTrafficSession, api.SessionRef{ID: id}))(t).Counters
	}
	y.eventually("the sessions are known", func() bool {
		_, err := rpc.Call(admin, y.client, api.GetTrafficSession, api.SessionRef{ID: id})
		return err == nil
	})
	if c := counters(); c != nil {
		t.Errorf("counters of a silent node: %+v", c)
	}
	y.eventually("the node is heard", func() bool { // the controller's own view may be behind, and passes over what it does not know
		publish("n1", at.Add(-time.Second), id, 1)
		return counters() != nil
	})
	publish("n1", at, id, 1_000_000)
	publish("n2", at.Add(time.Second), id, 9_000_000) // whose session it is not, whatever it calls itself
	publish("n1", at, "another", 5)
	publish("n1", at.Add(time.Second), id, 2_250_000)
	publish("n1", at.Add(500*time.Millisecond), id, 1) // overtaken
	y.eventually("the rate of the last second", func() bool {
		c := counters()
		return c != nil && len(c.Download) == 1 && c.Download[0].Bytes == 2_250_000 && c.Download[0].Rate == "10.0Mbit" && c.Download[0].Drops == 2
	})
	y.clock.set(at.Add(10 * time.Second))
	if c := counters(); c == nil || c.Download[0].Rate != "0bit" {
		t.Errorf("of an idle session: %+v", c)
	}
	y.clock.set(at.Add(time.Minute))
	if c := counters(); c != nil {
		t.Errorf("of a node that is gone: %+v", c)
	}
}
