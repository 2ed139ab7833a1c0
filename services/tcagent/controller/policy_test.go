package controller_test

import (
	"errors"
	"fmt"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

func TestPolicies(t *testing.T) {
	y := newYard(t)
	admin := y.as("admin", api.RoleAdmin)

	t.Run("is created, shown, replaced and deleted, and all of it is history", func(t *testing.T) {
		first := must(rpc.Call(admin, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{
			TrafficSpec: spec(t, "name: slow\nlink: {download: {ceiling: 5Mbit}}"),
		}))(t)
		if !api.ValidID(api.KindPolicy, first.ID) || first.Link.Download.Ceiling != "5Mbit" || first.Rev == 0 {
			t.Errorf("%+v", first)
		}
		_, err := rpc.Call(admin, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{TrafficSpec: first.TrafficSpec})
		refused(t, api.CodeConflict, "", err)
		again := y.apply(admin, "name: slow\nlink: {download: {ceiling: 5Mbit}}")
		if again.Rev != first.Rev {
			t.Error("applying what is there is a change")
		}
		second := y.apply(admin, "name: slow\nlink: {download: {ceiling: 6Mbit}}")
		_, err = rpc.Call(admin, y.client, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: "slow", IfMatch: first.Rev, Policy: spec(t, "name: slow\nmode: off")})
		refused(t, api.CodeConflict, "", err)
		byID := must(rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: first.ID}))(t)
		if byID.Rev != second.Rev || byID.Link.Download.Ceiling != "6Mbit" || byID.Status == nil {
			t.Errorf("by its id: %+v", byID)
		}
		must(rpc.Call(admin, y.client, api.DeleteTrafficPolicy, api.NameRef{Name: "slow"}))(t)
		_, err = rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: "slow"})
		refused(t, api.CodeNotFound, "", err)
		history := must(rpc.Call(admin, y.client, api.TrafficPolicyHistory, api.TrafficHistoryRequest{Name: "slow"}))(t)
		var verbs []string
		for _, c := range history.Items {
			verbs = append(verbs, c.Verb+" "+c.State.Link.Download.Ceiling)
		}
		if got := fmt.Sprint(verbs); got != "[create 5Mbit update 6Mbit delete ]" {
			t.Errorf("history %s", got)
		}
		page := must(rpc.Call(admin, y.client, api.TrafficPolicyHistory, api.TrafficHistoryRequest{Name: "slow", List: api.List{Limit: 2}}))(t)
		rest := must(rpc.Call(admin, y.client, api.TrafficPolicyHistory, api.TrafficHistoryRequest{Name: "slow", List: api.List{Cursor: page.NextCursor}}))(t)
		if len(page.Items) != 2 || len(rest.Items) != 1 || rest.Items[0].Verb != "delete" {
			t.Errorf("in pages: %+v, %+v", page, rest)
		}
	})
	t.Run("says all that is wrong, with pointers", func(t *testing.T) {
		var s api.TrafficSpec
		s.Name, s.Mode, s.Priority = "Bad", "never", 5000
		s.Link.Download.Ceiling = "5Mbps"
		s.Classes = []api.TrafficClass{{Name: "a", Match: []api.TrafficMatch{{Ports: []api.TrafficWord{"0"}, DSCP: "zz"}}}}
		_, err := rpc.Call(admin, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{TrafficSpec: s})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeInvalid {
			t.Fatalf("got %v", err)
		}
		got := map[string]bool{}
		for _, f := range e.Fields {
			got[f.Pointer] = true
		}
		for _, want := range []string{"/name", "/mode", "/priority", "/link/download/ceiling", "/classes", "/classes/0/match/0/ports/0", "/classes/0/match/0/dscp"} {
			if !got[want] {
				t.Errorf("nothing about %s in %v", want, e.Fields)
			}
		}
		_, err = rpc.Call(admin, y.client, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: "x", Policy: api.TrafficSpec{Name: "x", Mode: "no"}})
		refused(t, api.CodeInvalid, "/policy/mode", err)
		_, err = rpc.Call(admin, y.client, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: "x", Policy: api.TrafficSpec{Name: "y", Mode: "off"}})
		refused(t, api.CodeInvalid, "/policy/name", err)
		_, err = rpc.Call(admin, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{TrafficSpec: api.TrafficSpec{Name: "effective", Mode: "off"}})
		refused(t, api.CodeInvalid, "/name", err)
	})
	t.Run("members read and do not write", func(t *testing.T) {
		member := y.as("member", api.RoleMember)
		y.apply(admin, "name: readable\nmode: off")
		must(rpc.Call(member, y.client, api.GetTrafficPolicy, api.NameRef{Name: "readable"}))(t)
		_, err := rpc.Call(member, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{TrafficSpec: spec(t, "name: mine\nmode: off")})
		refused(t, api.CodeDenied, "", err)
		_, err = rpc.Call(member, y.client, api.DeleteTrafficPolicy, api.NameRef{Name: "readable"})
		refused(t, api.CodeDenied, "", err)
		_, err = rpc.Call(member, y.client, api.PlanTrafficPolicy, api.PlanTrafficPolicyRequest{TrafficSpec: spec(t, "name: mine\nmode: off")})
		refused(t, api.CodeDenied, "", err)
	})
	t.Run("a tenant's admin writes for the own tenant only, and sees no other's", func(t *testing.T) {
		acme := y.as("acme/admin", api.RoleAdmin)
		p := y.apply(acme, "name: ours\nlink: {upload: {ceiling: 5Mbit}}")
		if p.AppliesTo.Tenant != "acme" {
			t.Errorf("it applies to %q", p.AppliesTo.Tenant)
		}
		_, err := rpc.Call(acme, y.client, api.CreateTrafficPolicy, api.CreateTrafficPolicyRequest{TrafficSpec: spec(t, "name: theirs\napplies_to: {tenant: default}\nmode: off")})
		refused(t, api.CodeInvalid, "/applies_to/tenant", err)
		_, err = rpc.Call(acme, y.client, api.GetTrafficPolicy, api.NameRef{Name: "readable"})
		refused(t, api.CodeNotFound, "", err)
		_, err = rpc.Call(acme, y.client, api.TrafficPolicyHistory, api.TrafficHistoryRequest{Name: "readable"})
		refused(t, api.CodeNotFound, "", err)
		_, err = rpc.Call(admin, y.client, api.GetTrafficPolicy, api.NameRef{Name: p.ID})
		refused(t, api.CodeNotFound, "", err)
		_, err = rpc.Call(acme, y.client, api.ListTrafficNodes, api.List{})
		refused(t, api.CodeDenied, "", err)
	})
	t.Run("is listed in pages, newest first", func(t *testing.T) {
		many := y.as("many/admin", api.RoleAdmin)
		for i := range 5 {
			y.apply(many, fmt.Sprintf("name: p%d\nmode: off", i))
		}
		var names []string
		for cursor := ""; ; {
			page := must(rpc.Call(many, y.client, api.ListTrafficPolicies, api.List{Limit: 2, Cursor: cursor}))(t)
			for _, p := range page.Items {
				names = append(names, p.Name)
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if got := fmt.Sprint(names); got != "[p4 p3 p2 p1 p0]" {
			t.Errorf("got %s", got)
		}
		for _, cursor := range []string{"x", "t1", "t1-", "zz12"} {
			_, err := rpc.Call(many, y.client, api.ListTrafficPolicies, api.List{Cursor: cursor})
			refused(t, api.CodeInvalid, "/cursor", err)
		}
	})
}
