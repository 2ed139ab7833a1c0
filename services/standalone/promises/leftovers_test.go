package promises

import (
	"net/http"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestWhatTasksLeave: a task that failed, was cancelled or took too long leaves its files, what it used and what it said, as one that succeeded does.
func TestWhatTasksLeave(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess)
	const file = "echo half > out.txt; "
	for name, tt := range map[string]struct {
		spec  api.TaskSpec
		stop  bool // it is cancelled once it has written its file
		state api.TaskState
	}{
		"a command that failed":   {api.TaskSpec{Command: file + "exit 3"}, false, api.TaskFailed},
		"a prompt that took long": {api.TaskSpec{Prompt: "run " + file + "sleep 600", Timeout: api.Duration(4 * time.Second)}, false, api.TaskFailed},
		"a prompt that failed":    {api.TaskSpec{Prompt: "crash"}, false, api.TaskFailed}, // it has no file to leave, and ends all the same
		"a cancelled command":     {api.TaskSpec{Command: file + "sleep 600"}, true, api.TaskCancelled},
		"a cancelled prompt":      {api.TaskSpec{Prompt: "run " + file + "sleep 600"}, true, api.TaskCancelled},
	} {
		t.Run(name, func(t *testing.T) {
			tt.spec.Artifacts, tt.spec.Retry = []string{"*.txt"}, &api.TaskRetry{MaxAttempts: 1}
			s, asked := new(taskStory), false
			s.follow(t, y.Client, tt.spec, func(change *api.Change[api.Task], _ *api.Event) {
				if change == nil || !tt.stop || asked || change.State.State != api.TaskRunning {
					return
				}
				asked = true
				path := "/api/v1/sessions/" + change.State.SessionID + "/files?path=out.txt"
				for deadline := time.Now().Add(storyWithin); time.Now().Before(deadline); wait(t.Context(), 20*time.Millisecond) {
					if status, body, err := y.Client.Do(t.Context(), http.MethodGet, path, nil); err == nil && status == http.StatusOK && string(body) == "half\n" {
						break
					}
				}
				y.Client.Must(t, http.MethodPost, "/api/v1/tasks/"+s.task.ID+"/cancel", map[string]string{"reason": "enough"}, nil)
			})
			if s.task.State != tt.state || s.task.Result == nil {
				t.Fatalf("the task is %s: %s", s.task.State, s.task.Reason)
			}
			files := s.artifacts(t, y.Client)
			if tt.spec.Prompt == "crash" {
				if len(files) > 0 || len(s.task.Result.Problems) > 0 {
					t.Errorf("it left %v, %v", files, s.task.Result.Problems)
				}
			} else if got := string(files["out.txt"].data); got != "half\n" || len(s.task.Result.Problems) > 0 {
				t.Errorf("it left %q, %v", got, s.task.Result.Problems)
			}
			if len(y.Client.Events(t, s.task.SessionID)) == 0 {
				t.Error("its log is gone")
			}
		})
	}
	t.Run("what two attempts used counts together", func(t *testing.T) {
		s := new(taskStory)
		s.follow(t, y.Client, api.TaskSpec{Prompt: "spend 7 3"}, nil)
		y.Client.Must(t, http.MethodPost, "/api/v1/tasks/"+s.task.ID+"/retry", nil, nil)
		var got api.Task
		for deadline := time.Now().Add(storyWithin); got.Attempt < 2 || !got.State.Final(); {
			y.Client.Must(t, http.MethodGet, "/api/v1/tasks/"+s.task.ID+"/wait?timeout=30s", nil, &got)
			if time.Now().After(deadline) {
				t.Fatalf("the task is %s", got.State)
			}
		}
		if got.Usage.InputTokens != 14 || got.Usage.OutputTokens != 6 || got.Result.Usage.InputTokens != 14 || got.Attempts[0].Usage.InputTokens != 7 || got.Attempts[1].Usage.OutputTokens != 3 {
			t.Errorf("it used %+v, its attempts %+v", got.Usage, got.Attempts)
		}
	})
}
