package tcagent

import (
	"bytes"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
)

// TestDecode: a plan is what its hash says, whatever a newer controller has put into it; of a newer format it is refused.
func TestDecode(t *testing.T) {
	plan := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}
	newer := bytes.Replace(plan.Bytes(), []byte("{"), []byte(`{"colour":"<green>",`), 1)
	for name, c := range map[string]struct {
		plan []byte
		hash string
		want string
	}{
		"its own":      {plan.Bytes(), plan.Hash(), ""},
		"newer fields": {newer, tc.HashPlan(newer), ""},
		"altered":      {newer, plan.Hash(), "hash"},
		"newer format": {[]byte(`{"format":99}`), "", "update the agent"},
		"nonsense":     {[]byte(`{`), "", "read plan"},
	} {
		got, err := decode(received{TrafficPlanRecord: api.TrafficPlanRecord{Plan: c.plan, Hash: c.hash}})
		if c.want == "" && (err != nil || got.Session != "s1") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEndOfAPlan: a plan is on disk until what it did is taken away. An agent that died in between left the session's tree in the kernel for ever, since nobody knew of it any more.
func TestEndOfAPlan(t *testing.T) {
	s := New(Config{Node: "n1", Data: t.TempDir()}, Deps{})
	plan := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}
	n := &session{accepted: accepted{Record: api.TrafficPlanRecord{Session: "s1", Plan: plan.Bytes(), Hash: plan.Hash()}}, plan: plan}
	s.sessions["s1"] = n
	if err := s.store.put(n.accepted); err != nil {
		t.Fatal(err)
	}
	kept := func() int {
		t.Helper()
		found, err := s.store.load(s.log)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	s.mu.Lock()
	s.end("s1", n)
	s.mu.Unlock()
	if kept() != 1 {
		t.Error("the plan is forgotten before anything is taken away")
	}
	s.settle(t.Context(), "s1")
	if kept() != 0 || len(s.sessions) != 0 {
		t.Error("the plan is kept after all is taken away")
	}
}
