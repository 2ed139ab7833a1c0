package sessions_test

import (
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
)

// TestSilentRunner: a runner that hangs in a turn held its session, and the task in it, for ever.
func TestSilentRunner(t *testing.T) {
	y := newYard(t, func(c *sessions.Config) { c.Silence = 2 * time.Second })
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	hangs := y.runnerPID(s.ID)
	m := y.send(ana, s.ID, "sleep 500ms")
	y.eventually("it works", func() bool { return y.get(ana, s.ID).Activity == api.ActivityWorking })
	if err := syscall.Kill(hangs, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	y.answer(ana, s.ID, m.ID)
	if now := y.runnerPID(s.ID); now == hangs || alive(hangs) {
		t.Errorf("runner %d, before %d", now, hangs)
	}
	y.reaches(ana, s.ID, api.StateRunning)
}
