package tcagent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
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

// TestDiskFull: a plan that could not be kept is kept when the disk takes it. It was not, until the next change: an agent that started without the bus a day later went back to the plan before.
func TestDiskFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plans")
	s := New(Config{Node: "n1", Data: dir}, Deps{})
	tell := func(rev uint64) {
		t.Helper()
		plan := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}
		e := bus.Entry[received]{Key: bus.Key{Tenant: s.token, ID: "s1"}, Change: api.Change[received]{Rev: rev}}
		e.State.TrafficPlanRecord = api.TrafficPlanRecord{Session: "s1", Plan: plan.Bytes(), Hash: plan.Hash()}
		if err := s.accept(e); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(want uint64) {
		t.Helper()
		found, err := s.store.load(s.log)
		if err != nil || len(found) != 1 || found[0].Rev != want {
			t.Errorf("%+v are kept (%v), it should be revision %d", found, err, want)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tell(1)
	kept(1)
	aside := dir + ".aside"
	if err := os.Rename(dir, aside); err != nil { // whoever the tests run as, nothing can be written there now
		t.Fatal(err)
	}
	tell(2)
	s.lookAll() // an audit, in vain
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	kept(1)
	s.lookAll()
	kept(2)
}
