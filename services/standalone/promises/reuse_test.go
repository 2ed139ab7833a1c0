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

// TestSessionsReused has the tasks of a queue use sessions one after another. Nothing of one task is in the next one's workspace, branch or events; no session
// serves two at once, two owners or another profile; and nothing of it depends on the scheduler having lived.
func TestSessionsReused(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess, allowPrivate, "AGENTAPI_SCHEDULER_SWEEP=300ms")
	tasks := newRepoTasks(t, y)
	// Each has a queue of its own, and so sessions that no other has.
	in := func(t *testing.T, queue string, maxTasks int) *reuse {
		r := &reuse{repoTasks: tasks, queue: queue}
		r.policy(t, http.MethodPost, "/api/v1/queues", &api.SessionReuse{Idle: api.Duration(time.Hour), MaxTasks: maxTasks})
		return r
	}
	t.Run("each begins anew", func(t *testing.T) { anew(t, in(t, "anew", 0)) })
	t.Run("after a death of the whole yard", func(t *testing.T) {
		r := in(t, "killed", 0)
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		y.Kill(t, "agentyard")
		y.Restart(t, "agentyard")
		y.Ready(t)
		if s := r.task(t, api.TaskSpec{Prompt: "run ls"}); s.task.SessionID != before {
			t.Errorf("it ran in %s", s.task.SessionID)
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		r := in(t, "bounded", 2)
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		if s := r.task(t, api.TaskSpec{Prompt: "run ls"}); s.task.SessionID != before {
			t.Errorf("it ran in %s", s.task.SessionID)
		}
		r.ends(t, before)
	})
	t.Run("not by two at once", func(t *testing.T) {
		r := in(t, "two", 0)
		r.task(t, api.TaskSpec{Prompt: "run ls"})
		var made api.CreateTasksResponse
		spec := r.spec(api.TaskSpec{Prompt: "run echo mine >> mine; sleep 0.3; cat mine"})
		y.Client.Must(t, http.MethodPost, "/api/v1/tasks/batch", api.CreateTasksRequest{Tasks: []api.TaskSpec{spec, spec, spec}}, &made)
		type span struct{ begin, end time.Time }
		spans := map[string][]span{}
		for _, task := range made.Items {
			got := r.wait(t, task.ID)
			if got.State != api.TaskSucceeded || !strings.HasPrefix(got.Result.Summary, "mine\nexit 0") || got.Attempt != 1 {
				t.Errorf("%s after %d attempts: %+v", got.State, got.Attempt, got.Result)
			}
			spans[got.SessionID] = append(spans[got.SessionID], span{*got.StartedAt, *got.EndedAt})
		}
		for id, list := range spans {
			slices.SortFunc(list, func(a, b span) int { return a.begin.Compare(b.begin) })
			for i := 1; i < len(list); i++ {
				if list[i].begin.Before(list[i-1].end) {
					t.Errorf("%s served two at once: %v", id, list)
				}
			}
		}
	})
	t.Run("not by another owner, nor with another environment", func(t *testing.T) {
		r := in(t, "owners", 0)
		var user api.User
		y.Client.Must(t, http.MethodPost, "/api/v1/users", api.CreateUserRequest{Name: "ben", MaxSessions: 1}, &user)
		var key api.CreateKeyResponse
		y.Client.Must(t, http.MethodPost, "/api/v1/keys", api.CreateKeyRequest{Name: "ben", User: user.ID}, &key)
		ben := *r
		ben.repoTasks = &repoTasks{y: &yardtest.Yard{}, origin: r.origin}
		client := *y.Client
		client.Key = key.Secret
		ben.y.Client = &client
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		own := ben.task(t, api.TaskSpec{Prompt: "run ls"}).task
		if own.SessionID == before || own.SessionShared {
			t.Errorf("another owner's task ran in %s", own.SessionID)
		}
		// Ben may have one session: the one that waits makes room.
		other := ben.task(t, api.TaskSpec{Prompt: "run ls", Env: map[string]string{"OTHER": "1"}}).task
		if other.SessionID == own.SessionID || other.SessionShared || other.Attempt != 1 {
			t.Errorf("with another environment it ran in %s, attempt %d", other.SessionID, other.Attempt)
		}
		ben.ends(t, own.SessionID)
	})
	t.Run("not after a failure", func(t *testing.T) {
		r := in(t, "failures", 0)
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		bad := r.task(t, api.TaskSpec{Prompt: "crash", Retry: &api.TaskRetry{MaxAttempts: 1}}).task
		if bad.State != api.TaskFailed || bad.SessionID != before || !bad.SessionShared {
			t.Errorf("the task is %s in %s", bad.State, bad.SessionID)
		}
		r.ends(t, before)
		if next := r.task(t, api.TaskSpec{Prompt: "run ls"}).task; next.SessionID == before {
			t.Error("the next task ran in the session of one that failed")
		}
	})
	t.Run("not when the secret has changed", func(t *testing.T) {
		r := in(t, "secrets", 0)
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		y.Client.Must(t, http.MethodPut, "/api/v1/secrets/repository-token?scope=tenant", map[string]any{"value": forgeToken}, nil)
		next := r.task(t, api.TaskSpec{Prompt: "run ls"}).task
		if next.State != api.TaskSucceeded || next.SessionID == before || next.Attempt != 1 {
			t.Errorf("it is %s after %d attempts in %s", next.State, next.Attempt, next.SessionID)
		}
		r.ends(t, before)
	})
	t.Run("not when the task wants its own", func(t *testing.T) {
		r := in(t, "owning", 0)
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		own := r.task(t, api.TaskSpec{Prompt: "run ls", Session: &api.TaskSession{Own: true}}).task
		if own.SessionID == before || own.SessionShared {
			t.Errorf("it ran in %s", own.SessionID)
		}
		r.ends(t, own.SessionID)
	})
	t.Run("not when reuse is turned off", func(t *testing.T) {
		r := in(t, "off", 0)
		before := r.task(t, api.TaskSpec{Prompt: "run ls"}).task.SessionID
		r.policy(t, http.MethodPut, "/api/v1/queues/off", nil)
		r.ends(t, before)
	})
}

// anew has three tasks in one session, the third at another ref.
func anew(t *testing.T, r *reuse) {
	// It leaves a file, a hook, an ignored file and a process that goes on writing wherever it may.
	first := r.task(t, api.TaskSpec{ResultBranch: "again/one", Prompt: `run echo secret-of-one > one.md; echo ignored > .gitignore; echo x > ignored; ` +
		`printf '#!/bin/sh\ntouch hooked' > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout; ` +
		`(while sleep 0.02; do touch "$PWD/leak"; done) </dev/null >/dev/null 2>&1 & echo done`})
	second := r.task(t, api.TaskSpec{ResultBranch: "again/two", Prompt: "run sleep 0.2; ls -A; git status --porcelain --ignored; echo two > two.md"})
	if second.task.SessionID != first.task.SessionID || first.task.SessionShared || !second.task.SessionShared || second.task.Attempts[0].Session != first.task.SessionID {
		t.Errorf("the first ran in %s, the second in %+v", first.task.SessionID, second.task.Attempts)
	}
	r.changed(t, second, "two.md")
	if !strings.Contains(second.said, ".git\nREADME.md\n") || strings.Contains(second.said, "one.md") || strings.Contains(second.said, "leak") {
		t.Errorf("the second met %q", second.said)
	}
	for _, s := range []*taskStory{first, second} {
		for _, ev := range s.events {
			if ev.Type == api.EventUserMessage && ev.MessageID != s.task.Message || ev.ReplyTo != "" && ev.ReplyTo != s.task.Message {
				t.Errorf("the events of %s tell of another task: %+v", s.task.ID, ev)
			}
		}
	}
	r.origin.show(t, "branch", "side", "again/two")
	if s := r.taskAt(t, "side", api.TaskSpec{Prompt: "run cat two.md"}); s.task.SessionID != first.task.SessionID || !strings.Contains(s.said, "two\n") {
		t.Errorf("at another ref it ran in %s and said %q", s.task.SessionID, s.said)
	}
}

// reuse are tasks of a queue whose sessions are used again.
type reuse struct {
	*repoTasks
	queue string
}

func (r *reuse) policy(t *testing.T, method, path string, policy *api.SessionReuse) {
	t.Helper()
	r.y.Client.Must(t, method, path, api.Queue{Name: r.queue, Concurrency: 2, Reuse: policy}, nil)
}

func (r *reuse) spec(spec api.TaskSpec) api.TaskSpec {
	spec.Queue, spec.Profile, spec.Repository = r.queue, "coder", &api.Repository{URL: r.origin.URL}
	return spec
}

// task runs a task on the repository's main branch to its end, whichever it is, and to where all know that its session is at rest. A task that comes before may be
// given another: that the turn is over is in the session's log first, and a yard that dies then learns of it with the runner's next sign of life.
func (r *reuse) task(t *testing.T, spec api.TaskSpec) *taskStory {
	t.Helper()
	return r.taskAt(t, "", spec)
}

func (r *reuse) taskAt(t *testing.T, ref string, spec api.TaskSpec) *taskStory {
	t.Helper()
	spec = r.spec(spec)
	spec.Repository.Ref = ref
	s := new(taskStory)
	s.follow(t, r.y.Client, spec, nil)
	if spec.Retry == nil && s.task.State != api.TaskSucceeded {
		t.Fatalf("the task is %s: %s", s.task.State, s.task.Reason)
	}
	r.session(t, s.task.SessionID, "to be at rest", func(now api.Session) bool { return ending(now) || now.Activity == api.ActivityIdle })
	return s
}

func (r *reuse) wait(t *testing.T, id string) (task api.Task) {
	t.Helper()
	for deadline := time.Now().Add(storyWithin); ; {
		r.y.Client.Must(t, http.MethodGet, "/api/v1/tasks/"+id+"/wait?timeout=30s", nil, &task)
		if task.State.Final() || time.Now().After(deadline) {
			return task
		}
	}
}

// ends waits for a session's end.
func (r *reuse) ends(t *testing.T, id string) {
	t.Helper()
	r.session(t, id, "to end", ending)
}

func ending(s api.Session) bool { return s.State.Final() || s.State == api.StateStopping }

// session waits until a session is as it should be.
func (r *reuse) session(t *testing.T, id, want string, is func(api.Session) bool) {
	t.Helper()
	for deadline := time.Now().Add(storyWithin); ; wait(t.Context(), 20*time.Millisecond) {
		var s api.Session
		if r.y.Client.Must(t, http.MethodGet, "/api/v1/sessions/"+id, nil, &s); is(s) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the session %s is %s, %s, and was %s", id, s.State, s.Activity, want)
		}
	}
}
