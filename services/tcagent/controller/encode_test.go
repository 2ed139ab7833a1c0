package controller

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
)

// TestShape: plans that differ in their session alone are compiled once, and every one has the bytes that it has by itself.
func TestShape(t *testing.T) {
	able := tc.Capabilities{HTB: true, BFIFO: true, IFB: true, Peer: true, BPF: true}
	set := func(text string) *tc.Set {
		t.Helper()
		policy, err := tc.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		s, err := tc.NewSet([]tc.Policy{policy})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	blue := set(`{"name":"p","applies_to":{"sessions":{"match_labels":{"team":"blue"}}},"link":{"download":{"ceiling":"10Mbit"},"upload":{"ceiling":"10Mbit"}}}`)
	night := set(`{"name":"p","link":{"download":{"ceiling":"5Mbit"}},"schedule":{"timezone":"UTC","windows":[{"from":"22:00","to":"06:00"}]}}`)
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	is := map[string]string{"team": "blue"}
	c := &Controller{metrics: newMetrics(nil)}
	kept := c.last.Load()
	for _, step := range []struct {
		set     *tc.Set
		session string
		labels  map[string]string
		can     tc.Capabilities
		at      time.Time
		again   bool // what is kept serves it
	}{
		{blue, "s1", is, able, noon, false},
		{blue, "s2", is, able, noon, true},
		{blue, "s2", is, able, noon.Add(time.Hour), true},
		{blue, "s3", nil, able, noon, false},
		{blue, `s"<3`, nil, able, noon, true},
		{blue, `"session":"s4"`, nil, tc.Capabilities{}, noon, false},
		{night, "s1", is, able, noon, false},
		{night, "s2", nil, able, noon.Add(9 * time.Hour), true},
		{night, "s2", nil, able, noon.Add(10 * time.Hour), false},
		{night, "s2", nil, able, noon, false},
		{blue, "s1", is, able, noon, false},
	} {
		session := tc.Session{ID: step.session, Tenant: "t", Labels: step.labels}
		raw, err := json.Marshal(step.can)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.shaped(step.set, session, raw, step.can, step.at)
		if err != nil {
			t.Fatal(err)
		}
		plan, effective := step.set.Compile(session, step.can, step.at)
		if got, want := s.text(step.session), plan.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("session %q: %s\nwant %s", step.session, got, want)
		}
		shared, err := shapeOf(s.text(""))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := shared.text(step.session), plan.Bytes(); !bytes.Equal(got, want) || shared.hash != s.hash {
			t.Errorf("session %q, of what is shared: %s\nwant %s", step.session, got, want)
		}
		if !s.until.Equal(effective.Until) {
			t.Errorf("until %v, not %v", s.until, effective.Until)
		}
		if again := s == kept; again != step.again {
			t.Errorf("session %q at %v: compiled once is %v, not %v", step.session, step.at, again, step.again)
		}
		kept = s
	}
	for _, other := range []string{"s2", "s11", ""} {
		if kept.is(kept.text(other), "s1") || !kept.is(kept.text(other), other) {
			t.Errorf("the plan of %q is not told from that of s1", other)
		}
	}
}
