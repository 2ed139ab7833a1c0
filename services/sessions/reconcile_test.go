package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
)

func sessionsConn(y *yard) *bus.Conn { return bustest.Connect(y.t, y.srv, y.ring, "sessions") }

// fill writes n ended sessions of others.
func fill(t testing.TB, l *bus.Ledger[api.SessionRecord], n int) {
	t.Helper()
	now := time.Now().UTC()
	var wg sync.WaitGroup
	free := make(chan struct{}, 64)
	for i := range n {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			id := api.NewID(api.KindSession)
			_, err := l.Create(context.Background(), bus.Key{Tenant: api.HomeTenant, ID: id}, bus.Meta{Actor: "test", Verb: "create"}, api.SessionRecord{
				Session: api.Session{ID: id, Tenant: api.HomeTenant, Owner: userID(fmt.Sprint("u", i%100)), State: api.StateTerminated, CreatedAt: now, EndedAt: &now},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestRunnerDeath(t *testing.T) {
	y := newYard(t, func(c *sessions.Config) { c.MaxRestarts = 2 })
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	first := y.runnerPID(s.ID)
	// In the middle of a turn: the message is driven again by the next runner.
	m := y.send(ana, s.ID, "sleep 300ms")
	y.eventually("it works", func() bool { return y.get(ana, s.ID).Activity == api.ActivityWorking })
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	y.answer(ana, s.ID, m.ID)
	if now := y.runnerPID(s.ID); now == first || alive(first) {
		t.Errorf("runner %d, before %d", now, first)
	}
	y.reaches(ana, s.ID, api.StateRunning)
	for range 2 { // and again, until it is too much
		pid := y.runnerPID(s.ID)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		y.eventually("the death is noticed", func() bool {
			now := y.get(ana, s.ID)
			return now.State == api.StateFailed || now.State == api.StateRunning && y.runnerPID(s.ID) != pid
		})
	}
	got := y.get(ana, s.ID)
	if got.State != api.StateFailed || !strings.Contains(got.Reason, "died 3 times in a row") || !strings.Contains(got.Reason, "killed") {
		t.Errorf("%s: %q", got.State, got.Reason)
	}
	if _, err := os.Stat(filepath.Join(y.dir, "sessions", s.ID, "workspace")); err != nil {
		t.Errorf("a failed session lost its workspace: %v", err)
	}
	if _, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: s.ID}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(y.dir, "sessions", s.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("deleted, yet its workspace is there: %v", err)
	}
}

func TestServiceRestart(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	kept := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	dies := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	ended := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	orphan := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	pids := map[string]int{}
	for _, s := range []api.Session{kept, dies, ended, orphan} {
		pids[s.ID] = y.runnerPID(s.ID)
	}
	message := y.send(ana, kept.ID, "sleep 500ms")
	y.stop()
	// While the service is away: one runner dies, one session is deleted, one is forgotten.
	_ = syscall.Kill(pids[dies.ID], syscall.SIGKILL)
	ledger, err := bus.OpenLedger[api.SessionRecord](t.Context(), sessionsConn(y), bus.LedgerConfig{Noun: "sessions"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ledger.Update(t.Context(), bus.Key{Tenant: ended.Tenant, ID: ended.ID}, bus.Meta{Actor: "test", Verb: "delete"}, func(r api.SessionRecord) (api.SessionRecord, error) {
		r.State = api.StateStopping
		return r, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Purge(t.Context(), bus.Key{Tenant: orphan.Tenant, ID: orphan.ID}); err != nil {
		t.Fatal(err)
	}
	if !alive(pids[kept.ID]) {
		t.Fatal("the runner did not survive the service")
	}
	y.start()
	y.answer(ana, kept.ID, message.ID)
	if now := y.runnerPID(kept.ID); now != pids[kept.ID] {
		t.Errorf("the survivor was replaced: %d, before %d", now, pids[kept.ID])
	}
	y.reaches(ana, ended.ID, api.StateTerminated)
	y.eventually("the dead runner is replaced", func() bool {
		return y.get(ana, dies.ID).State == api.StateRunning && y.runnerPID(dies.ID) != pids[dies.ID]
	})
	y.eventually("the orphan is removed", func() bool {
		_, err := os.Stat(filepath.Join(y.dir, "sessions", orphan.ID))
		return !alive(pids[orphan.ID]) && errors.Is(err, os.ErrNotExist)
	})
	m := y.send(ana, dies.ID, "echo back")
	y.answer(ana, dies.ID, m.ID)
}

func TestTimeouts(t *testing.T) {
	t.Run("an idle session is paused, a working one never", func(t *testing.T) {
		y := newYard(t, nil)
		ana := y.as("ana")
		idle := y.create(ana, api.CreateSessionRequest{IdleTimeout: api.Duration(time.Second), Wait: "running"})
		busy := y.create(ana, api.CreateSessionRequest{IdleTimeout: api.Duration(time.Second), Prompt: "sleep 1h", Wait: "running"})
		got := y.reaches(ana, idle.ID, api.StatePaused)
		if !strings.Contains(got.Reason, "idle for 1s") {
			t.Errorf("reason %q", got.Reason)
		}
		if now := y.get(ana, busy.ID); now.State != api.StateRunning {
			t.Errorf("the working one is %s", now.State)
		}
		m := y.send(ana, idle.ID, "echo again")
		y.answer(ana, idle.ID, m.ID)
	})
	t.Run("ttl", func(t *testing.T) {
		y := newYard(t, func(c *sessions.Config) { c.Retention = 300 * time.Millisecond })
		ana := y.as("ana")
		s := y.create(ana, api.CreateSessionRequest{TTL: api.Duration(2 * time.Second), Wait: "running"})
		dir := filepath.Join(y.dir, "sessions", s.ID)
		y.eventually("it has ended and its retention too", func() bool {
			_, err := rpc.Call(ana, y.client, api.GetSession, api.SessionRef{ID: s.ID})
			return api.CodeOf(err) == api.CodeNotFound
		})
		if age := time.Since(s.CreatedAt); age < 2*time.Second {
			t.Errorf("gone after %s", age)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the workspace is there: %v", err)
		}
		evs, _, err := y.log.Read(t.Context(), s.Tenant, s.ID, "", 0, 10)
		if err != nil || len(evs) > 0 {
			t.Errorf("the log still has %d events, %v", len(evs), err)
		}
	})
	t.Run("a session that does not start in time has failed", func(t *testing.T) {
		y := newYard(t, func(c *sessions.Config) { c.StartTimeout = time.Second })
		ana := y.as("ana")
		// An agent that never says a word.
		s := y.create(ana, api.CreateSessionRequest{Agent: &api.Agent{Kind: "custom", Command: []string{"/bin/sleep", "1000"}}, Wait: "running"})
		if s.State != api.StateFailed || !strings.Contains(s.Reason, "did not run within 1s") {
			t.Errorf("%s: %q", s.State, s.Reason)
		}
		pid := y.runnerPID(s.ID)
		y.eventually("its runner has ended", func() bool { return !alive(pid) })
	})
}

func TestSupersededRunner(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	client := rpc.NewClient(bustest.ConnectSession(t, y.srv, y.ring, s.Tenant, s.ID), rpc.ClientConfig{})
	for _, incarnation := range []int{0, 2, 99} {
		got, err := rpc.CallAsSession(t.Context(), client, s.Tenant, s.ID, api.RunnerReport, api.RunnerReportRequest{
			Incarnation: incarnation, State: api.StateFailed, Reason: "forged", Usage: api.Usage{InputTokens: 1 << 40},
		})
		if err != nil || !got.Stop {
			t.Errorf("incarnation %d: %+v, %v", incarnation, got, err)
		}
	}
	if now := y.get(ana, s.ID); now.State != api.StateRunning || now.Usage.InputTokens != 0 {
		t.Errorf("%+v", now)
	}
	other := api.NewID(api.KindSession)
	unknown := rpc.NewClient(bustest.ConnectSession(t, y.srv, y.ring, s.Tenant, other), rpc.ClientConfig{})
	if got, err := rpc.CallAsSession(t.Context(), unknown, s.Tenant, other, api.RunnerReport, api.RunnerReportRequest{Incarnation: 1, State: api.StateRunning}); err != nil || !got.Stop {
		t.Errorf("a runner without a session: %+v, %v", got, err)
	}
}

func TestBoundedWrites(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	begin := time.Now()
	var last api.Accepted
	for i := range 100 {
		last = y.send(ana, s.ID, fmt.Sprint("spend 1 ", i))
	}
	y.answer(ana, s.ID, last.ID)
	y.eventually("all is counted", func() bool { return y.get(ana, s.ID).Usage.InputTokens == 100 })
	took := time.Since(begin)
	page, err := rpc.Call(ana, y.client, api.SessionHistory, api.HistoryRequest{ID: s.ID, List: api.List{Limit: 500}})
	if bound := 6 + int(took/(250*time.Millisecond)); err != nil || len(page.Items) > bound {
		t.Errorf("%d ledger writes in %s, want at most %d (%v)", len(page.Items), took, bound, err)
	}
}
