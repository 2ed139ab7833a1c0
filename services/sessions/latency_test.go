package sessions_test

import (
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
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
