package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

func instantly(context.Context, api.Task) api.TaskResult { return api.TaskResult{Summary: "done"} }

func TestOperations(t *testing.T) {
	y := newYard(t)
	y.start(Config{}, instantly)
	ada, ben, eve := y.person("acme", api.RoleMember), y.person("acme", api.RoleMember), y.person("beta", api.RoleAdmin)
	boss, viewer := y.person(api.HomeTenant, api.RoleAdmin), y.person("acme", api.RoleViewer)
	must(boss, api.CreateQueue, api.Queue{Name: "slow", Paused: true})

	t.Run("a task runs and keeps its result and its history", func(t *testing.T) {
		task := ada.create(api.TaskSpec{Prompt: "x", Title: "one", Env: map[string]string{"TOKEN": "secret"}})
		got := must(ada, api.WaitTask, api.WaitTaskRequest{ID: task.ID})
		if got.State != api.TaskSucceeded || got.Result == nil || got.Result.Summary != "done" || got.Attempt != 1 || got.Attempts[0].Outcome != "succeeded" || got.Env != nil {
			t.Errorf("%+v", got)
		}
		verbs := []string{}
		for _, c := range must(ada, api.TaskHistory, api.HistoryRequest{ID: task.ID}).Items {
			verbs = append(verbs, c.Verb)
			if c.State.Env != nil {
				t.Error("the history shows the environment")
			}
		}
		if want := []string{"create", "assign", "succeed"}; !slices.Equal(verbs, want) {
			t.Errorf("%v, want %v", verbs, want)
		}
	})
	t.Run("says all that is wrong", func(t *testing.T) {
		bad := 11
		past := time.Now().Add(-time.Hour)
		_, err := ask(ada, api.CreateTask, api.CreateTaskRequest{TaskSpec: api.TaskSpec{
			Prompt: "x", Command: "y", Priority: &bad, Deadline: &past, Queue: "none", DependsOn: []string{"tnone"}, Artifacts: []string{"../x"}, ResultBranch: "a..b",
			Agent: &api.Agent{Kind: "acp"},
		}})
		wantCode(t, err, api.CodeInvalid)
		for _, field := range []string{"/prompt", "/priority", "/deadline", "/queue", "/depends_on/0", "/artifacts/0", "/result_branch", "/agent/command"} {
			if !strings.Contains(err.Error(), field+":") {
				t.Errorf("%v does not blame %s", err, field)
			}
		}
	})
	t.Run("a repeated request meets its first answer", func(t *testing.T) {
		req := api.CreateTaskRequest{TaskSpec: api.TaskSpec{Prompt: "x", Queue: "slow"}, IdempotencyKey: "k"}
		first, again := must(ada, api.CreateTask, req), must(ada, api.CreateTask, req)
		if first.ID != again.ID {
			t.Errorf("%s and %s", first.ID, again.ID)
		}
		if other := must(ben, api.CreateTask, req); other.ID == first.ID {
			t.Error("another's key is the same")
		}
		must(ada, api.CancelTask, api.CancelTaskRequest{ID: first.ID})
		if again = must(ada, api.CreateTask, req); again.State != first.State || again.Rev != first.Rev {
			t.Errorf("the first answer was %+v; after the task was cancelled it is %+v", first, again)
		}
		req.Prompt = "y"
		_, err := ask(ada, api.CreateTask, req)
		wantCode(t, err, api.CodeConflict)
	})
	t.Run("nobody sees another's", func(t *testing.T) {
		task := ada.create(api.TaskSpec{Prompt: "x", Queue: "slow"})
		for _, p := range []person{ben, eve} {
			_, err := ask(p, api.GetTask, api.TaskRef{ID: task.ID})
			wantCode(t, err, api.CodeNotFound)
			_, err = ask(p, api.CancelTask, api.CancelTaskRequest{ID: task.ID})
			wantCode(t, err, api.CodeNotFound)
			for _, got := range must(p, api.ListTasks, api.ListTasksRequest{}).Items {
				if got.ID == task.ID {
					t.Error("it is in another's list")
				}
			}
		}
		must(viewer, api.GetTask, api.TaskRef{ID: task.ID})
		_, err := ask(viewer, api.CancelTask, api.CancelTaskRequest{ID: task.ID})
		wantCode(t, err, api.CodeDenied)
		if n := must(eve, api.GetQueueStats, api.NameRef{Name: "slow"}); len(n.States) != 0 || len(n.Waiting) != 0 {
			t.Errorf("another tenant counts %v", n)
		}
		_, err = ask(eve, api.PauseQueue, api.NameRef{Name: "slow"})
		wantCode(t, err, api.CodeDenied)
	})
	t.Run("says why a task waits, and where", func(t *testing.T) {
		first, second := ben.create(api.TaskSpec{Prompt: "x", Queue: "slow"}), ben.create(api.TaskSpec{Prompt: "x", Queue: "slow"})
		y.until("the tasks have their places", func() bool {
			a, b := must(ben, api.GetTask, api.TaskRef{ID: first.ID}), must(ben, api.GetTask, api.TaskRef{ID: second.ID})
			return a.WaitReason == api.WaitPaused && a.Position > 0 && b.Position > a.Position
		})
		later := time.Now().Add(time.Hour)
		if c := ben.create(api.TaskSpec{Prompt: "x", NotBefore: &later}); must(ben, api.GetTask, api.TaskRef{ID: c.ID}).WaitReason != api.WaitNotBefore {
			t.Errorf("%+v", must(ben, api.GetTask, api.TaskRef{ID: c.ID}))
		}
	})
	t.Run("a task that waits is cancelled at once, and retried when asked", func(t *testing.T) {
		task := ada.create(api.TaskSpec{Prompt: "x", Queue: "slow"})
		if got := must(ada, api.CancelTask, api.CancelTaskRequest{ID: task.ID, Reason: "no"}); got.State != api.TaskCancelled || got.Reason != "no" {
			t.Errorf("%+v", got)
		}
		must(ada, api.CancelTask, api.CancelTaskRequest{ID: task.ID})
		if got := must(ada, api.RetryTask, api.TaskRef{ID: task.ID}); got.State != api.TaskQueued || got.Result != nil {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a deadline ends a task that waits", func(t *testing.T) {
		soon := time.Now().Add(time.Second)
		task := ada.create(api.TaskSpec{Prompt: "x", Queue: "slow", Deadline: &soon})
		ada.becomes(task.ID, api.TaskExpired)
	})
	t.Run("a paused queue goes on when resumed", func(t *testing.T) {
		task := ben.create(api.TaskSpec{Prompt: "x", Queue: "slow"})
		_, err := ask(boss, api.DeleteQueue, api.NameRef{Name: "slow"})
		wantCode(t, err, api.CodeConflict)
		must(boss, api.ResumeQueue, api.NameRef{Name: "slow"})
		ben.becomes(task.ID, api.TaskSucceeded)
	})
	t.Run("lists page by page", func(t *testing.T) {
		seen, cursor := map[string]bool{}, ""
		for {
			page := must(ada, api.ListTasks, api.ListTasksRequest{List: api.List{Limit: 2, Cursor: cursor}})
			for _, task := range page.Items {
				if seen[task.ID] || task.Owner != ada.ID {
					t.Errorf("%s of %s comes twice or is another's", task.ID, task.Owner)
				}
				seen[task.ID] = true
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if len(seen) < 4 {
			t.Errorf("%d tasks", len(seen))
		}
	})
}

func TestBatch(t *testing.T) {
	y := newYard(t)
	var mu sync.Mutex
	var order []string
	y.start(Config{}, func(_ context.Context, task api.Task) api.TaskResult {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, task.Name)
		return api.TaskResult{}
	})
	ada := y.person("acme", api.RoleMember)
	t.Run("runs in the order of dependencies", func(t *testing.T) {
		req := api.CreateTasksRequest{IdempotencyKey: "b", Tasks: []api.TaskSpec{
			{Name: "c", Prompt: "x", DependsOn: []string{"a", "b"}}, {Name: "b", Prompt: "x", DependsOn: []string{"a"}}, {Name: "a", Prompt: "x"},
		}}
		made := must(ada, api.CreateTasks, req)
		again := must(ada, api.CreateTasks, req)
		for i, task := range made.Items {
			if again.Items[i].ID != task.ID {
				t.Error("a repetition made another")
			}
			ada.becomes(task.ID, api.TaskSucceeded)
		}
		if got := fmt.Sprint(order); got != "[a b c]" {
			t.Errorf("%s", got)
		}
	})
	t.Run("names the circle", func(t *testing.T) {
		_, err := ask(ada, api.CreateTasks, api.CreateTasksRequest{Tasks: []api.TaskSpec{
			{Name: "a", Prompt: "x", DependsOn: []string{"b"}}, {Name: "b", Prompt: "x", DependsOn: []string{"a"}},
		}})
		if wantCode(t, err, api.CodeInvalid); !strings.Contains(err.Error(), "a → b → a") {
			t.Errorf("%v", err)
		}
	})
	t.Run("refuses what has a circle, and nothing else", func(t *testing.T) {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		for range 60 {
			specs := make([]api.TaskSpec, 1+r.IntN(6))
			needs := map[string][]string{}
			for i := range specs {
				specs[i] = api.TaskSpec{Name: fmt.Sprint("t", i), Prompt: "x"}
				for range r.IntN(3) {
					specs[i].DependsOn = append(specs[i].DependsOn, fmt.Sprint("t", r.IntN(len(specs))))
				}
				needs[specs[i].Name] = specs[i].DependsOn
			}
			circle := false
			for name := range needs {
				circle = circle || reaches(needs, name, name, map[string]bool{})
			}
			_, err := ask(ada, api.CreateTasks, api.CreateTasksRequest{Tasks: specs})
			if !circle && err == nil {
				continue
			}
			if !circle || api.CodeOf(err) != api.CodeInvalid {
				t.Fatalf("seed %d: %v; it has a circle: %v; %v", seed, needs, circle, err)
			}
			_, told, _ := strings.Cut(err.Error(), "in a circle: ")
			path := strings.Split(told, " → ")
			if len(path) < 2 || path[0] != path[len(path)-1] {
				t.Fatalf("seed %d: %v: %q is no circle", seed, needs, told)
			}
			for i, name := range path[1:] {
				if !slices.Contains(needs[path[i]], name) {
					t.Fatalf("seed %d: %v: %q says that %s needs %s", seed, needs, told, path[i], name)
				}
			}
		}
	})
	t.Run("a parent that did not succeed decides as the child says", func(t *testing.T) {
		later := time.Now().Add(time.Hour)
		parent := ada.create(api.TaskSpec{Prompt: "x", NotBefore: &later})
		children := map[api.ParentFailure]api.TaskState{
			api.ParentFail: api.TaskFailed, api.ParentCancel: api.TaskCancelled, api.ParentRun: api.TaskSucceeded, "": api.TaskFailed,
		}
		ids := map[api.ParentFailure]string{}
		for policy := range children {
			child := ada.create(api.TaskSpec{Prompt: "x", DependsOn: []string{parent.ID}, OnFailure: policy})
			if child.State != api.TaskBlocked || child.WaitReason != api.WaitDependencies {
				t.Errorf("%s waits for %s", child.State, child.WaitReason)
			}
			ids[policy] = child.ID
		}
		must(ada, api.CancelTask, api.CancelTaskRequest{ID: parent.ID})
		for policy, want := range children {
			ada.becomes(ids[policy], want)
		}
	})
}

// reaches reports whether something in what from needs, or in what that needs, is to.
func reaches(needs map[string][]string, from, to string, been map[string]bool) bool {
	for _, next := range needs[from] {
		if next == to {
			return true
		}
		if !been[next] {
			been[next] = true
			if reaches(needs, next, to, been) {
				return true
			}
		}
	}
	return false
}

// TestTakeover stops, and cuts off, the process that dispatches while tasks run; every task must end once.
func TestTakeover(t *testing.T) {
	y := newYard(t)
	var runs atomic.Int64
	execute := func(ctx context.Context, _ api.Task) api.TaskResult {
		runs.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
		return api.TaskResult{}
	}
	cfg := Config{Shards: 2, Concurrency: 8}
	leader := y.start(cfg, execute)
	people := []person{}
	for i := range 4 {
		people = append(people, y.person(fmt.Sprint("tenant", i), api.RoleMember))
	}
	const each = 150
	ids := map[string]person{}
	for _, p := range people {
		specs := make([]api.TaskSpec, each)
		for i := range specs {
			specs[i] = api.TaskSpec{Prompt: "x"}
		}
		for _, task := range must(p, api.CreateTasks, api.CreateTasksRequest{Tasks: specs}).Items {
			ids[task.ID] = p
		}
	}
	started := func(n int64) { y.until("tasks run", func() bool { return runs.Load() >= n }) }
	started(50)
	second := y.start(cfg, execute)
	leader.stop()
	started(150)
	third := y.start(cfg, execute)
	// As a process that dies: its connection is gone, its lease not released.
	bye, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := second.conn.Close(bye); err != nil {
		t.Fatal(err)
	}
	for id, p := range ids {
		task := p.becomes(id, api.TaskSucceeded)
		ends := 0
		for _, c := range must(p, api.TaskHistory, api.HistoryRequest{ID: id, List: api.List{Limit: 500}}).Items {
			if c.State.State.Final() {
				ends++
			}
		}
		if ends != 1 || task.Attempt != 1 {
			t.Errorf("task %s ended %d times after %d attempts", id, ends, task.Attempt)
		}
	}
	third.stop()
}

func TestFence(t *testing.T) {
	y := newYard(t)
	release := make(chan struct{})
	s := y.start(Config{}, func(ctx context.Context, _ api.Task) api.TaskResult {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return api.TaskResult{Summary: "the late one"}
	})
	ada := y.person("acme", api.RoleMember)
	task := ada.becomes(ada.create(api.TaskSpec{Prompt: "x"}).ID, api.TaskAssigned)
	key := keyIn("acme", task.ID)
	e, _ := s.view.Get(key)
	// Another dispatcher found the attempt lost and assigned the task anew.
	late := newAttempt(s.shards[0], key)
	late.fence, late.task = fenceOf(e), e.State
	for _, verb := range []string{"lose", "assign"} {
		_, err := s.change(t.Context(), key, bus.Meta{Actor: actor, Verb: verb}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
			if verb == "lose" {
				rec.State = api.TaskQueued
				return nil
			}
			*rec = assigned(*rec, key, time.Now())
			return nil
		})
		if err != nil && api.CodeOf(err) != api.CodeConflict { // the dispatcher may have been faster
			t.Fatal(err)
		}
	}
	now := ada.becomes(task.ID, api.TaskAssigned)
	if now.Attempt < 2 {
		t.Fatalf("attempt %d", now.Attempt)
	}
	if late.settle(t.Context(), outcome{kind: succeeded, result: api.TaskResult{Summary: "the late one"}}) {
		t.Error("a superseded attempt wrote a result")
	}
	if got := must(ada, api.GetTask, api.TaskRef{ID: task.ID}); got.State.Final() {
		t.Errorf("the task is %s", got.State)
	}
	close(release)
	ada.becomes(task.ID, api.TaskSucceeded)
}

func TestConclude(t *testing.T) {
	s := New(Config{}, Deps{})
	now := time.Now()
	running := func(attempt, before int, retry *api.TaskRetry) api.TaskRecord {
		rec := api.TaskRecord{Before: before}
		rec.State, rec.Attempt, rec.Retry, rec.Command = api.TaskRunning, attempt, retry, "x"
		rec.Attempts = []api.TaskAttempt{{Attempt: attempt, StartedAt: now}}
		return rec
	}
	for _, c := range []struct {
		name string
		rec  api.TaskRecord
		o    outcome
		want api.TaskState
		dead bool
	}{
		{"success", running(1, 0, nil), outcome{kind: succeeded}, api.TaskSucceeded, false},
		{"lost once", running(1, 0, nil), outcome{kind: lost}, api.TaskQueued, false},
		{"lost three times", running(3, 0, nil), outcome{kind: lost}, api.TaskFailed, true},
		{"lost three times since it was retried", running(5, 3, nil), outcome{kind: lost}, api.TaskQueued, false},
		{"one attempt only", running(1, 0, &api.TaskRetry{MaxAttempts: 1}), outcome{kind: timedOut}, api.TaskFailed, true},
		{"a command that failed", running(1, 0, nil), outcome{kind: failed, final: true, result: api.TaskResult{ExitCode: 3}}, api.TaskFailed, true},
		{"a command that failed, to be retried", running(1, 0, &api.TaskRetry{OnFailure: true}), outcome{kind: failed, final: true, result: api.TaskResult{ExitCode: 3}}, api.TaskQueued, false},
		{"no capacity", running(1, 0, nil), outcome{kind: busy}, api.TaskQueued, false},
		{"cancelled", running(1, 0, nil), outcome{kind: cancelled}, api.TaskCancelled, false},
		{"expired", running(1, 0, nil), outcome{kind: expired}, api.TaskExpired, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := c.rec
			s.conclude(&rec, c.o, 7)
			if rec.State != c.want || rec.DeadLetter != c.dead || !mayFollow(api.TaskRunning, rec.State) {
				t.Errorf("%s, dead letter %v", rec.State, rec.DeadLetter)
			}
			if rec.State.Final() != (rec.EndedAt != nil && rec.Result != nil) {
				t.Error("an end without its time or its result")
			}
			if burnt := rec.Attempt == c.rec.Attempt; burnt == (c.o.kind == busy) {
				t.Errorf("%d attempts", rec.Attempt)
			}
		})
	}
	t.Run("backs off, doubled and bounded, with jitter", func(t *testing.T) {
		r := &api.TaskRetry{Backoff: api.Duration(time.Second), MaxBackoff: api.Duration(6 * time.Second)}
		for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 6 * time.Second, 60: 6 * time.Second} {
			least, most := backoff(r, n, func() float64 { return 0 }), backoff(r, n, func() float64 { return 1 })
			if least != want/2 || most != want {
				t.Errorf("attempt %d: %s to %s, want %s to %s", n, least, most, want/2, want)
			}
		}
	})
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a.txt", "a.txt", true}, {"*.txt", "a.txt", true}, {"*.txt", "d/a.txt", false}, {"**/*.txt", "a.txt", true}, {"**/*.txt", "d/e/a.txt", true},
		{"d/**", "d/e/f", true}, {"d/**", "e/f", false}, {"d/*/f", "d/e/f", true}, {"d/*/f", "d/e/g/f", false}, {"**", "x", true},
	} {
		if got := matchPath(c.pattern, c.name); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.name, got)
		}
		if dir, _, nested := strings.Cut(c.name, "/"); nested && c.want && !matchBelow(strings.Split(c.pattern, "/"), []string{dir}) {
			t.Errorf("%s is not looked for below %s", c.pattern, dir)
		}
	}
	for _, bad := range []string{"", "/x", "../x", "a//b", "[", "a\x00"} {
		if validPattern(bad) {
			t.Errorf("%q is a pattern", bad)
		}
	}
}
