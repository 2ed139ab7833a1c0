//go:build cluster

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestReuse: the tasks of a queue run in one pod, one after another. Of what one has left the next finds the home, and nothing else.
func TestReuse(t *testing.T) {
	boss := admin(t)
	queue := api.Queue{Name: "again", Concurrency: 1, Reuse: &api.SessionReuse{}}
	boss.Must(t, http.MethodPost, "/api/v1/queues", queue, nil)
	first := task(t, boss, queue.Name, `run echo x > left; echo x > /tmp/left; echo of the home > $HOME/cache; `+
		`(busybox setsid busybox sh -c 'while busybox sleep 0.05; do echo x > "$PWD/leak"; done' </dev/null >/dev/null 2>&1 &); `+
		`busybox sleep 0.3; busybox ls; busybox ps -o args`)
	if !strings.Contains(first.Result.Summary, "leak\n") || !strings.Contains(first.Result.Summary, "while busybox") {
		t.Fatalf("what it leaves is not there: %q", first.Result.Summary)
	}
	before := podOf(t, first.SessionID)
	eventually(t, "its session is at rest", func() bool { return get(t, boss, first.SessionID).Activity == api.ActivityIdle })

	second := task(t, boss, queue.Name, `run busybox sleep 0.3; busybox ls -A . /tmp $HOME; busybox cat $HOME/cache; busybox ps -o args`)
	if second.SessionID != first.SessionID || !second.SessionShared || second.Attempt != 1 {
		t.Fatalf("the first was in %s, the second in %s, attempt %d", first.SessionID, second.SessionID, second.Attempt)
	}
	if p := podOf(t, second.SessionID); p.UID != before.UID {
		t.Errorf("the second had another pod, %s", p.Name)
	}
	if !strings.Contains(second.Result.Summary, "of the home") {
		t.Errorf("the second has not what is in the home: %q", second.Result.Summary)
	}
	for _, old := range []string{"left", "leak", "while busybox"} {
		if strings.Contains(second.Result.Summary, old) {
			t.Errorf("the second finds %q: %q", old, second.Result.Summary)
		}
	}
	queue.Reuse = nil
	boss.Must(t, http.MethodPut, "/api/v1/queues/"+queue.Name, queue, nil)
	eventually(t, "without the policy nothing waits", func() bool {
		return get(t, boss, first.SessionID).State == api.StateTerminated && len(podsOf(t, sessionSpace, "agentyard.dev/session="+first.SessionID)) == 0
	})
	boss.Must(t, http.MethodDelete, "/api/v1/queues/"+queue.Name, nil, nil)
}

// task has a task run to its success.
func task(t *testing.T, c *yardtest.Client, queue, prompt string) (done api.Task) {
	t.Helper()
	c.Must(t, http.MethodPost, "/api/v1/tasks", api.TaskSpec{Queue: queue, Profile: profile, Prompt: prompt}, &done)
	eventually(t, "the task ends", func() bool {
		c.Must(t, http.MethodGet, "/api/v1/tasks/"+done.ID+"/wait?timeout=30s", nil, &done)
		return done.State.Final()
	})
	if done.State != api.TaskSucceeded || done.Result == nil {
		t.Fatalf("the task is %s: %s", done.State, done.Reason)
	}
	return done
}
