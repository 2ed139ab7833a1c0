package tcagent

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
)

// someRecord is a session's own entry, of a group.
func someRecord() api.TrafficPlanRecord {
	plan := &tc.Plan{
		Format: tc.PlanFormat, Session: "s1", Mode: tc.Enforce,
		Download: &tc.Tree{Place: tc.AtHost, Rate: tc.Mbit, Leaves: []tc.Leaf{{Minor: tc.DefaultMinor, Class: "all"}}},
	}
	return api.TrafficPlanRecord{Node: "n1", Tenant: "acme", Session: "s1", Hash: plan.Hash(), Plan: plan.Bytes(), Address: "192.0.2.1", Group: "g1"}
}

func changeOf(t testing.TB, c api.Change[api.TrafficPlanRecord]) []byte {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readAlike fails unless a change is read as encoding/json reads it, or not known. It reports whether it is known.
func readAlike(t testing.TB, data []byte) bool {
	t.Helper()
	got, ok := readChange(data)
	if !ok {
		return false
	}
	var want api.Change[api.TrafficPlanRecord]
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatalf("%s is read as %+v; it is no change: %v", data, got, err)
	}
	is := api.Change[api.TrafficPlanRecord]{
		Rev: got.Rev, At: got.At, Actor: got.Actor, Verb: got.Verb, Reason: got.Reason, Deleted: got.Deleted, State: got.State.TrafficPlanRecord,
	}
	if !reflect.DeepEqual(is, want) {
		t.Fatalf("%s is read as\n%+v, it should be\n%+v", data, is, want)
	}
	plan := &tc.Plan{}
	if err := json.Unmarshal(want.State.Plan, plan); err != nil || !reflect.DeepEqual(plan, got.State.plan) {
		t.Fatalf("the plan of %s is read as %+v (%v)", data, got.State.plan, err)
	}
	return true
}

func TestReadChange(t *testing.T) {
	change := func(alter func(*api.Change[api.TrafficPlanRecord])) []byte {
		c := api.Change[api.TrafficPlanRecord]{At: time.Now().UTC(), Actor: actor, Verb: "plan", State: someRecord()}
		alter(&c)
		return changeOf(t, c)
	}
	for name, alter := range map[string]func(*api.Change[api.TrafficPlanRecord]){
		"a session's own":                func(c *api.Change[api.TrafficPlanRecord]) { c.State.Address, c.State.Group = "", "" },
		"a session's own, of a group":    func(*api.Change[api.TrafficPlanRecord]) {},
		"a session's own, at an address": func(c *api.Change[api.TrafficPlanRecord]) { c.State.Group = "" },
		"a group's": func(c *api.Change[api.TrafficPlanRecord]) {
			c.State = api.TrafficPlanRecord{Hash: c.State.Hash, Plan: c.State.Plan}
		},
	} {
		if !readAlike(t, change(alter)) {
			t.Errorf("%s is not known: this costs ten times as much", name)
		}
	}
	for name, data := range map[string][]byte{
		"an end":           change(func(c *api.Change[api.TrafficPlanRecord]) { c.Deleted = true }),
		"a fault":          change(func(c *api.Change[api.TrafficPlanRecord]) { c.State.Fault = &api.TrafficFaultRecord{By: "u1"} }),
		"an escape":        change(func(c *api.Change[api.TrafficPlanRecord]) { c.Actor = "<" }),
		"no plan":          change(func(c *api.Change[api.TrafficPlanRecord]) { c.State.Plan = nil }),
		"a newer field":    []byte(strings.Replace(string(change(func(*api.Change[api.TrafficPlanRecord]) {})), `"group"`, `"colour":"green","group"`, 1)),
		"something more":   append(change(func(*api.Change[api.TrafficPlanRecord]) {}), ' '),
		"nothing":          nil,
		"half of a change": change(func(*api.Change[api.TrafficPlanRecord]) {})[:200],
	} {
		if readAlike(t, data) {
			t.Errorf("%s is known", name)
		}
	}
}

// FuzzReadChange: whatever it is, it is read as encoding/json reads it, or not known.
func FuzzReadChange(f *testing.F) {
	f.Add(changeOf(f, api.Change[api.TrafficPlanRecord]{At: time.Unix(1, 0).UTC(), Actor: actor, Verb: "plan", State: someRecord()}))
	f.Fuzz(func(t *testing.T, data []byte) { readAlike(t, data) })
}

func BenchmarkReadChange(b *testing.B) {
	data := changeOf(b, api.Change[api.TrafficPlanRecord]{At: time.Now(), Actor: actor, Verb: "plan", State: someRecord()})
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := readChange(data); !ok {
			b.Fatal("not known")
		}
	}
}
