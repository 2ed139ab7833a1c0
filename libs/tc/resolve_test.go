package tc_test

import (
	"slices"
	"strings"
	"testing"

	"agentyard.dev/libs/tc"
)

// built is a policy of the Builder that must be valid.
func built(t testing.TB, b *tc.Builder) tc.Policy {
	t.Helper()
	p, err := b.Policy()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func resolved(t testing.TB, s tc.Session, policies ...tc.Policy) tc.Effective {
	t.Helper()
	set, err := tc.NewSet(policies)
	if err != nil {
		t.Fatal(err)
	}
	return set.Resolve(s, noon)
}

func TestResolve(t *testing.T) {
	platform := built(t, tc.NewPolicy("platform").Download(100*tc.Mbit).Upload(100*tc.Mbit).Class(tc.Class{Name: "all", Default: true}))
	tenant := built(t, tc.NewPolicy("tenant").Tenant("acme").Download(50*tc.Mbit).Class(tc.Class{Name: "rest", Default: true}))
	user := built(t, tc.NewPolicy("user").Users("alice").Download(70*tc.Mbit).Limits(tc.Limits{Upload: tc.DirectionLimits{Connections: 9}}))
	labelled := built(t, tc.NewPolicy("session").Label("team", "blue").Upload(20*tc.Mbit).Limits(tc.Limits{Upload: tc.DirectionLimits{Connections: 10}}))

	t.Run("the smallest ceiling wins, and says whose it is", func(t *testing.T) {
		e := resolved(t, ofAcme, user, platform, labelled, tenant)
		if *e.Download.Ceiling != (tc.Value[tc.BitsPerSecond]{Value: 50 * tc.Mbit, From: "tenant"}) {
			t.Errorf("download %+v", e.Download.Ceiling)
		}
		if *e.Upload.Ceiling != (tc.Value[tc.BitsPerSecond]{Value: 20 * tc.Mbit, From: "session"}) {
			t.Errorf("upload %+v", e.Upload.Ceiling)
		}
		if *e.Upload.Connections != (tc.Value[uint32]{Value: 9, From: "user"}) {
			t.Errorf("connections %+v", e.Upload.Connections)
		}
	})
	t.Run("classes are the most specific policy's that has some", func(t *testing.T) {
		if e := resolved(t, ofAcme, platform, user, tenant); e.ClassesFrom != "tenant" {
			t.Errorf("classes of %s", e.ClassesFrom)
		}
		other := ofAcme
		other.Tenant = "elsewhere"
		if e := resolved(t, other, platform, user, tenant); e.ClassesFrom != "platform" {
			t.Errorf("classes of %s", e.ClassesFrom)
		}
	})
	t.Run("policies are listed from the most to the least specific", func(t *testing.T) {
		var names []string
		for _, p := range resolved(t, ofAcme, platform, tenant, labelled, user).Policies {
			names = append(names, p.Name+" "+p.Tier.String())
		}
		want := []string{"session session", "user user", "tenant tenant", "platform platform"}
		if !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
	})
	t.Run("in one tier priority decides, then the name", func(t *testing.T) {
		class := func(name string) tc.Class { return tc.Class{Name: name, Default: true} }
		a := built(t, tc.NewPolicy("a").Download(tc.Mbit).Class(class("a")))
		b := built(t, tc.NewPolicy("b").Download(tc.Mbit).Class(class("b")))
		c := built(t, tc.NewPolicy("c").Priority(1).Download(tc.Mbit).Class(class("c")))
		if e := resolved(t, ofAcme, b, a); e.ClassesFrom != "a" || e.Download.Ceiling.From != "a" {
			t.Errorf("%+v", e)
		}
		if e := resolved(t, ofAcme, b, a, c); e.ClassesFrom != "c" || e.Download.Ceiling.From != "c" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("all of a selector must meet", func(t *testing.T) {
		for _, b := range []*tc.Builder{
			tc.NewPolicy("p").Tenant("other"), tc.NewPolicy("p").Users("bob", "carol"), tc.NewPolicy("p").Nodes("n2"),
			tc.NewPolicy("p").Label("team", "red"), tc.NewPolicy("p").Label("team", "blue").Label("absent", ""),
			tc.NewPolicy("p").Tenant("acme").Users("bob"),
		} {
			p := built(t, b.Download(tc.Mbit))
			if e := resolved(t, ofAcme, p); e.Mode != tc.Off || len(e.Policies) > 0 {
				t.Errorf("%+v selects the session", p.AppliesTo)
			}
		}
		p := built(t, tc.NewPolicy("p").Tenant("acme").Users("bob", "alice").Nodes("n1").Label("team", "blue").Label("tier", "gold").Download(tc.Mbit))
		if e := resolved(t, ofAcme, p); e.Mode != tc.Enforce {
			t.Errorf("%+v does not select the session", p.AppliesTo)
		}
	})
}

func TestModes(t *testing.T) {
	enforced := built(t, tc.NewPolicy("enforced").Download(100*tc.Mbit))
	reporting := built(t, tc.NewPolicy("reporting").Mode(tc.Report).Download(10*tc.Mbit).Class(tc.Class{Name: "rest", Default: true}))
	off := built(t, tc.NewPolicy("off").Mode(tc.Off).Download(tc.Mbit))

	t.Run("what only reports limits nothing beside what is enforced", func(t *testing.T) {
		e := resolved(t, ofAcme, enforced, reporting)
		if e.Mode != tc.Enforce || e.Download.Ceiling.Value != 100*tc.Mbit || e.ClassesFrom != "" {
			t.Errorf("%+v", e)
		}
		if i := slices.IndexFunc(e.Policies, func(p tc.AppliedPolicy) bool { return p.Name == "reporting" }); e.Policies[i].Idle == "" {
			t.Error("it is not said that it has no part")
		}
	})
	t.Run("alone it counts, at a rate that limits nothing", func(t *testing.T) {
		plan, _, err := tc.Compile([]tc.Policy{reporting, off}, ofAcme, able, noon)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Mode != tc.Report || plan.Download == nil || plan.Download.Rate != tc.Unlimited {
			t.Errorf("%s", plan.Bytes())
		}
	})
	t.Run("off is nothing", func(t *testing.T) {
		plan, _, err := tc.Compile([]tc.Policy{off}, ofAcme, able, noon)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Mode != tc.Off || plan.Download != nil || plan.Upload != nil || plan.Commands(devices).String() != "" {
			t.Errorf("%s", plan.Bytes())
		}
	})
}

func TestAnnotations(t *testing.T) {
	tenant := built(t, tc.NewPolicy("tenant").Tenant("acme").Download(50*tc.Mbit).Upload(50*tc.Mbit))
	annotated := func(ingress, egress string) tc.Session {
		s := ofAcme
		s.Annotations = map[string]string{tc.IngressAnnotation: ingress, tc.EgressAnnotation: egress, "other": "5M"}
		return s
	}
	e := resolved(t, annotated("10M", "1G"), tenant)
	if e.Download.Ceiling.Value != 10*tc.Mbit || e.Download.Ceiling.From != "kubernetes.io annotations" || e.Upload.Ceiling.From != "tenant" {
		t.Errorf("%+v %+v", e.Download.Ceiling, e.Upload.Ceiling)
	}
	if last := e.Policies[len(e.Policies)-1]; last.Tier != tc.TierAnnotation {
		t.Errorf("the annotations are not the lowest tier: %+v", e.Policies)
	}
	for text, want := range map[string]tc.BitsPerSecond{
		"10M": 10 * tc.Mbit, "1Gi": 1 << 30, "64k": 64_000, "1e6": tc.Mbit, "1E6": tc.Mbit, "2.5M": 2_500_000, "1000000": tc.Mbit, "512Ki": 512 << 10,
		"": 0, "10Mbit": 0, "-1M": 0, "1": 0, "1e99": 0, "1e999999999": 0, "10 M": 0, "M": 0, "1P": 0, "0x10M": 0, "1m": 0,
	} {
		e := resolved(t, annotated(text, "10M"))
		switch {
		case want == 0 && (e.Download.Ceiling != nil || len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], tc.IngressAnnotation)):
			t.Errorf("%q: %+v, %q", text, e.Download.Ceiling, e.Warnings)
		case want != 0 && (e.Download.Ceiling == nil || e.Download.Ceiling.Value != want):
			t.Errorf("%q: %+v %v", text, e.Download.Ceiling, e.Warnings)
		}
	}
}

func TestSetRefuses(t *testing.T) {
	p := built(t, tc.NewPolicy("p").Download(tc.Mbit))
	if _, err := tc.NewSet([]tc.Policy{p, p}); err == nil || !strings.Contains(err.Error(), "/1/name") {
		t.Errorf("two of one name: %v", err)
	}
	bad := p
	bad.Name = "q"
	bad.Mode = "perhaps"
	if _, err := tc.NewSet([]tc.Policy{p, bad}); err == nil || !strings.Contains(err.Error(), "/1/mode") {
		t.Errorf("an invalid one: %v", err)
	}
}
