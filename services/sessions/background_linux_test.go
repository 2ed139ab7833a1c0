package sessions_test

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

// TestBackground: an agent that is idle but has left a process running is not put aside until that has ended.
func TestBackground(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{IdleTimeout: api.Duration(time.Second), Wait: "running"})
	m := y.send(ana, s.ID, "run (while ! [ -e stop ]; do sleep 0.1; done) >/dev/null 2>&1 </dev/null &")
	y.answer(ana, s.ID, m.ID)
	y.eventually("it is idle, with something running", func() bool {
		now := y.get(ana, s.ID)
		return now.Activity == api.ActivityIdle && now.Background > 0
	})
	// Another session of the same idle timeout, which has nothing, shows that the time has passed, and passed again.
	for range 2 {
		other := y.create(ana, api.CreateSessionRequest{IdleTimeout: api.Duration(time.Second), Wait: "running"})
		y.reaches(ana, other.ID, api.StatePaused)
	}
	if now := y.get(ana, s.ID); now.State != api.StateRunning || now.Background == 0 {
		t.Fatalf("it is %s (%s), with %d processes", now.State, now.Reason, now.Background)
	}
	m = y.send(ana, s.ID, "run touch stop")
	y.answer(ana, s.ID, m.ID)
	y.reaches(ana, s.ID, api.StatePaused)
}
