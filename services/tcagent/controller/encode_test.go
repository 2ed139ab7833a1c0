package controller

import (
	"bytes"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
)

// TestEncode: plans that differ in their session alone are encoded once, and every one has the bytes that it has by itself.
func TestEncode(t *testing.T) {
	able := tc.Capabilities{HTB: true, BFIFO: true, IFB: true, Peer: true, BPF: true}
	compile := func(session, rate string, can tc.Capabilities) *tc.Plan {
		t.Helper()
		policy, err := tc.Parse([]byte(`{"name":"p","link":{"download":{"ceiling":"` + rate + `"},"upload":{"ceiling":"` + rate + `"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		set, err := tc.NewSet([]tc.Policy{policy})
		if err != nil {
			t.Fatal(err)
		}
		plan, _ := set.Compile(tc.Session{ID: session, Tenant: "t"}, can, time.Unix(0, 0))
		return plan
	}
	c := &Controller{}
	kept := c.last.Load()
	for _, step := range []struct {
		session, rate string
		can           tc.Capabilities
		again         bool // what is kept serves it
	}{
		{"s1", "10Mbit", able, false},
		{"s2", "10Mbit", able, true},
		{"", "10Mbit", able, true},
		{`s"<3`, "10Mbit", able, true},
		{"s2", "20Mbit", able, false},
		{"s2", "20Mbit", tc.Capabilities{}, false},
		{`"session":"s4"`, "30Mbit", able, false},
		{"s5", "30Mbit", able, true},
		{"s1", "10Mbit", able, false},
	} {
		plan := compile(step.session, step.rate, step.can)
		if got, want := c.encode(plan), plan.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("session %q at %s: %s\nwant %s", step.session, step.rate, got, want)
		}
		if again := c.last.Load() == kept; again != step.again {
			t.Errorf("session %q at %s: encoded once is %v, not %v", step.session, step.rate, again, step.again)
		}
		kept = c.last.Load()
	}
}
