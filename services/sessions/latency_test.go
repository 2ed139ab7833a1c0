package sessions_test

import (
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// TestLatency guards create → running with the demo agent: the goal is a median of 50 ms on a quiet machine; the bound leaves
// room for a busy one.
func TestLatency(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	var took []time.Duration
	for range 20 {
		begin := time.Now()
		y.create(ana, api.CreateSessionRequest{Wait: "running"})
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("create → running: p50 %s, max %s", took[len(took)/2], took[len(took)-1])
	if p50 := took[len(took)/2]; p50 > 500*time.Millisecond {
		t.Errorf("p50 %s", p50)
	}
}

// TestResumeLatency guards message to a paused session → it runs: the goal is 2 s, most of which is a runtime's own. That the request is held
// meanwhile shows in that nothing else is waited for.
func TestResumeLatency(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	var took []time.Duration
	for range 10 {
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, s.ID, api.StatePaused)
		begin := time.Now()
		y.send(ana, s.ID, "echo back")
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("message to a paused session → running: p50 %s, max %s", took[len(took)/2], took[len(took)-1])
	if p50 := took[len(took)/2]; p50 > 2*time.Second {
		t.Errorf("p50 %s", p50)
	}
	if now := y.get(ana, s.ID); now.State != api.StateRunning {
		t.Errorf("answered, yet it is %s", now.State)
	}
}
