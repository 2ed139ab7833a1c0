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
		got, err := decode(api.TrafficPlanRecord{Plan: c.plan, Hash: c.hash})
		if c.want == "" && (err != nil || got.Session != "s1") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
