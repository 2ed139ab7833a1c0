package sessions_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

func TestPause(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	ana, admin := y.as("ana"), y.as("boss", api.RoleAdmin)

	t.Run("messages to a paused session are each accepted once and find it running", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, s.ID, api.StatePaused)
		var wg sync.WaitGroup
		var mu sync.Mutex
		sent := map[string]bool{}
		for i := range 8 {
			wg.Go(func() {
				req := api.SendMessageRequest{ID: s.ID, Content: fmt.Sprint("echo ", i), IdempotencyKey: fmt.Sprint("k", i/2)}
				req.Content = fmt.Sprint("echo ", i/2) // each twice
				a, err := rpc.Call(ana, y.client, api.SendMessage, req)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				sent[a.ID] = true
			})
		}
		wg.Wait()
		if len(sent) != 4 {
			t.Errorf("%d messages, want 4", len(sent))
		}
		for id := range sent {
			y.answer(ana, s.ID, id)
		}
		page, err := rpc.Call(ana, y.client, api.ListMessages, api.ListMessagesRequest{ID: s.ID})
		if err != nil || len(page.Items) != 8 {
			t.Errorf("%d messages and answers, want 8 (%v)", len(page.Items), err)
		}
	})
	t.Run("a message to a session that is being put aside brings it back", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
		for i := range 5 {
			if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
				t.Fatal(err)
			}
			m := y.send(ana, s.ID, fmt.Sprint("echo ", i))
			y.answer(ana, s.ID, m.ID)
		}
	})
	t.Run("what was written while the clock paused it brings it back", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{IdleTimeout: api.Duration(time.Second), Wait: "running"})
		y.reaches(ana, s.ID, api.StatePaused)
		log, err := bus.OpenLog(t.Context(), sessionsConn(y), bus.LogConfig{})
		if err != nil {
			t.Fatal(err)
		}
		// As by a replica that still saw it running.
		id := api.NewID(api.KindMessage)
		if _, _, err := log.AppendUser(t.Context(), s.Tenant, s.ID, id, api.Event{
			Type: api.EventUserMessage, At: time.Now().UTC(), Actor: s.Owner, MessageID: id, Content: "echo late",
		}); err != nil {
			t.Fatal(err)
		}
		y.answer(ana, s.ID, id)
	})
	t.Run("what a person paused in the middle of a turn stays so", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Prompt: "sleep 1h", Wait: "running"})
		y.eventually("it works", func() bool { return y.get(ana, s.ID).Activity == api.ActivityWorking })
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		paused := y.reaches(ana, s.ID, api.StatePaused)
		other := y.create(ana, api.CreateSessionRequest{Wait: "running"}) // while the clock looks at both many times
		m := y.send(ana, other.ID, "sleep 500ms")
		y.answer(ana, other.ID, m.ID)
		if now := y.get(ana, s.ID); now.State != api.StatePaused || now.Rev != paused.Rev {
			t.Errorf("it is %s", now.State)
		}
	})
	t.Run("a profile may stop idle sessions instead", func(t *testing.T) {
		_, err := rpc.Call(admin, y.client, api.CreateProfile, api.Profile{
			Name: "brief", Agent: api.Agent{Kind: "demo"}, IdleTimeout: api.Duration(time.Second), IdleAction: api.IdleStop,
		})
		if err != nil {
			t.Fatal(err)
		}
		s := y.create(ana, api.CreateSessionRequest{Profile: "brief", Wait: "running"})
		if got := y.reaches(ana, s.ID, api.StateTerminated); !strings.Contains(got.Reason, "idle for 1s") {
			t.Errorf("reason %q", got.Reason)
		}
		_, err = rpc.Call(admin, y.client, api.CreateProfile, api.Profile{Name: "odd", Agent: api.Agent{Kind: "demo"}, IdleAction: "explode"})
		wantCode(t, err, api.CodeInvalid, "/idle_action")
	})
}
