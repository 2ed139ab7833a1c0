package promises

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestTaskAsks holds tasks by questions of their agents.
func TestTaskAsks(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess)
	answer := func(t *testing.T, s *taskStory, option string) {
		t.Helper()
		var question string
		for _, ev := range y.Client.Events(t, s.task.SessionID) { // its own stream may be behind
			if ev.Type == api.EventApprovalRequest {
				question = ev.ApprovalID
			}
		}
		y.Client.Must(t, http.MethodPost, "/api/v1/sessions/"+s.task.SessionID+"/approvals/"+question, map[string]any{"option": option}, nil)
	}
	expect := func(t *testing.T, s *taskStory, states string) {
		t.Helper()
		if got := strings.Join(s.states, " "); got != states {
			t.Errorf("it was %s: %s; want %s", got, s.task.Reason, states)
		}
	}

	t.Run("an answer continues it", func(t *testing.T) {
		s := new(taskStory)
		s.follow(t, y.Client, api.TaskSpec{Prompt: "ask Shall I go on?"}, func(change *api.Change[api.Task], _ *api.Event) {
			if change == nil || change.State.State != api.TaskWaiting {
				return
			}
			var now api.Task
			if y.Client.Must(t, http.MethodGet, "/api/v1/tasks/"+s.task.ID, nil, &now); now.State != api.TaskWaiting || !strings.Contains(now.Reason, "Shall I go on?") {
				t.Errorf("the task is %s: %s", now.State, now.Reason)
			}
			answer(t, s, "yes")
		})
		expect(t, s, "queued assigned running waiting_for_input running succeeded")
		if got := s.task.Result.Summary; !strings.HasPrefix(got, "yes") || s.task.Attempt != 1 {
			t.Errorf("the agent said %q in attempt %d", got, s.task.Attempt)
		}
	})
	t.Run("the question outlives the yard's death", func(t *testing.T) {
		s := new(taskStory)
		s.follow(t, y.Client, api.TaskSpec{Prompt: "ask Are you there?"}, func(change *api.Change[api.Task], _ *api.Event) {
			if change == nil || change.State.State != api.TaskWaiting {
				return
			}
			y.Kill(t, "agentyard")
			y.Restart(t, "agentyard")
			y.Ready(t)
			answer(t, s, "no")
		})
		if n := len(s.states); n == 6 && s.states[4] == string(api.TaskRunning) { // else it was over before another dispatcher took the task up
			s.states = slices.Delete(s.states, 4, 5)
		}
		expect(t, s, "queued assigned running waiting_for_input succeeded")
		if got := s.task.Result.Summary; !strings.HasPrefix(got, "no") || s.task.Attempt != 1 {
			t.Errorf("the agent said %q in attempt %d", got, s.task.Attempt)
		}
	})
	t.Run("its deadline keeps running", func(t *testing.T) {
		for within := 3 * time.Second; ; within *= 2 { // a busy machine may take longer to ask
			at := time.Now().Add(within)
			s := new(taskStory)
			s.follow(t, y.Client, api.TaskSpec{Prompt: "ask Is there time?", Deadline: &at}, nil)
			if !slices.Contains(s.states, string(api.TaskWaiting)) && within < time.Minute {
				continue
			}
			expect(t, s, "queued assigned running waiting_for_input expired")
			if ended := s.task.EndedAt; ended == nil || ended.Before(at) {
				t.Errorf("it ended at %s, before its deadline %s", ended, at)
			}
			sessionEnds(t, y, s.task.SessionID)
			return
		}
	})
}

// sessionEnds waits until a session has ended.
func sessionEnds(t *testing.T, y *yardtest.Yard, id string) {
	t.Helper()
	var s api.Session
	for deadline := time.Now().Add(storyWithin); !s.State.Final(); wait(t.Context(), 50*time.Millisecond) {
		if y.Client.Must(t, http.MethodGet, "/api/v1/sessions/"+id, nil, &s); time.Now().After(deadline) {
			t.Fatalf("session %s is %s", id, s.State)
		}
	}
}
