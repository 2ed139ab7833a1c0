package scheduler

import (
	"context"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

func TestPreemption(t *testing.T) {
	y := newYard(t)
	release := make(chan struct{})
	y.start(Config{Shards: 1}, func(ctx context.Context, task api.Task) api.TaskResult {
		if task.Title == "long" {
			select {
			case <-ctx.Done():
			case <-release:
			}
		}
		return api.TaskResult{Summary: "done"}
	})
	boss, ada, eve := y.person(api.HomeTenant, api.RoleAdmin), y.person("acme", api.RoleMember), y.person("beta", api.RoleMember)
	must(boss, api.CreateQueue, api.Queue{Name: "one", Concurrency: 1, Preempt: true})
	must(boss, api.CreateQueue, api.Queue{Name: "calm", Concurrency: 1})
	low, high := 2, 8
	spec := func(queue, title string, priority *int) api.TaskSpec {
		return api.TaskSpec{Prompt: "x", Queue: queue, Title: title, Priority: priority, Retry: &api.TaskRetry{MaxAttempts: 1}}
	}
	y.until("the queue is known", func() bool {
		_, err := ask(ada, api.GetQueue, api.NameRef{Name: "calm"})
		return err == nil
	})

	long := ada.becomes(ada.create(spec("one", "long", &low)).ID, api.TaskAssigned)
	urgent := ada.create(spec("one", "short", &high))
	ada.becomes(urgent.ID, api.TaskSucceeded)
	var again api.Task
	y.until("the long one runs again", func() bool {
		again = must(ada, api.GetTask, api.TaskRef{ID: long.ID})
		return again.State == api.TaskAssigned && again.Attempt == 2
	})
	first := again.Attempts[0]
	if first.Outcome != "preempted" || first.PreemptedBy != urgent.ID || first.Reason != "a task of priority 8 took its place" || first.EndedAt == nil || first.Fence == 0 {
		t.Errorf("%+v", first)
	}
	if !again.QueuedAt.Equal(long.QueuedAt) || again.RetryAt != nil {
		t.Errorf("it lost its age, or was made to wait: %+v", again)
	}
	verbs := []string{}
	for _, c := range must(ada, api.TaskHistory, api.HistoryRequest{ID: long.ID}).Items {
		verbs = append(verbs, c.Verb)
	}
	if len(verbs) != 4 || verbs[2] != "preempt" {
		t.Errorf("%v", verbs)
	}

	t.Run("not twice in a row", func(t *testing.T) {
		other := ada.create(spec("one", "short", &high))
		y.until("it waits for room", func() bool {
			got := must(ada, api.GetTask, api.TaskRef{ID: other.ID})
			return got.State == api.TaskQueued && got.WaitReason == api.WaitQueueLimit
		})
		release <- struct{}{}
		ada.becomes(other.ID, api.TaskSucceeded)
		// The one attempt that its policy allows was not used up by the one that was put off.
		if got := ada.becomes(long.ID, api.TaskSucceeded); got.Attempt != 2 {
			t.Errorf("%d attempts", got.Attempt)
		}
	})
	t.Run("another tenant's is not named", func(t *testing.T) {
		long := ada.becomes(ada.create(spec("one", "long", &low)).ID, api.TaskAssigned)
		eve.becomes(eve.create(spec("one", "short", &high)).ID, api.TaskSucceeded)
		y.until("the long one runs again", func() bool {
			got := must(ada, api.GetTask, api.TaskRef{ID: long.ID})
			return got.Attempt == 2 && got.Attempts[0].Outcome == "preempted" && got.Attempts[0].PreemptedBy == ""
		})
		release <- struct{}{}
		ada.becomes(long.ID, api.TaskSucceeded)
	})
	t.Run("not in a queue that does not allow it", func(t *testing.T) {
		long := ada.becomes(ada.create(spec("calm", "long", &low)).ID, api.TaskAssigned)
		waits := ada.create(spec("calm", "short", &high))
		y.until("it waits for room", func() bool {
			return must(ada, api.GetTask, api.TaskRef{ID: waits.ID}).WaitReason == api.WaitQueueLimit
		})
		release <- struct{}{}
		ada.becomes(waits.ID, api.TaskSucceeded)
		if got := ada.becomes(long.ID, api.TaskSucceeded); got.Attempt != 1 {
			t.Errorf("%+v", got.Attempts)
		}
	})
}

// TestPreemptsAgain: an attempt that was put off and has ended, however early, keeps nobody from putting off the next one.
func TestPreemptsAgain(t *testing.T) {
	y := newYard(t)
	release := make(chan struct{})
	r := y.start(Config{Shards: 1}, func(_ context.Context, task api.Task) api.TaskResult {
		if task.Title == "long" {
			<-release // it does not listen
		}
		return api.TaskResult{}
	})
	defer close(release)
	boss, ada := y.person(api.HomeTenant, api.RoleAdmin), y.person("acme", api.RoleMember)
	must(boss, api.CreateQueue, api.Queue{Name: "one", Concurrency: 1, Preempt: true})
	y.until("the queue is known", func() bool { _, ok := r.queue("one"); return ok })
	low, high := 2, 8
	long := ada.becomes(ada.create(api.TaskSpec{Prompt: "x", Queue: "one", Title: "long", Priority: &low}).ID, api.TaskAssigned)
	ada.create(api.TaskSpec{Prompt: "x", Queue: "one", Priority: &high})
	key, sh := keyIn("acme", long.ID), r.shards[0]
	y.until("the long one was put off", func() bool {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return sh.attempts[key] != nil && sh.attempts[key].putOff.Load() != nil
	})

	sh.mu.Lock()
	defer sh.mu.Unlock()
	was := sh.attempts[key]
	defer func() { sh.attempts[key] = was }()
	d := &dispatcher{shard: sh, preempting: map[string]*attempt{"one": was}} // as the one that dispatches
	for n := range 2 {
		next := newAttempt(sh, key)
		sh.attempts[key] = next
		d.preemptLocked("one", sh.queueLocked("one"), time.Now())
		held := next.putOff.Load()
		if held == nil {
			t.Fatalf("attempt %d after it was not put off", n+1)
		}
		if d.preemptLocked("one", sh.queueLocked("one"), time.Now()); next.putOff.Load() != held {
			t.Error("an attempt was put off twice")
		}
	}
}

func TestPreemptible(t *testing.T) {
	now := time.Now()
	running := func(change func(*api.TaskRecord)) api.TaskRecord {
		rec := api.TaskRecord{}
		rec.State, rec.Attempts = api.TaskRunning, []api.TaskAttempt{{Attempt: 1}}
		change(&rec)
		return rec
	}
	after := func(outcome string, ago time.Duration) func(*api.TaskRecord) {
		return func(rec *api.TaskRecord) {
			at := now.Add(-ago)
			rec.Attempts = []api.TaskAttempt{{Attempt: 1, Outcome: outcome, EndedAt: &at}, {Attempt: 2}}
		}
	}
	for name, c := range map[string]struct {
		rec  api.TaskRecord
		want bool
	}{
		"one that runs":                {running(func(*api.TaskRecord) {}), true},
		"one that waits for an answer": {running(func(r *api.TaskRecord) { r.State = api.TaskWaiting }), true},
		"one that waits":               {running(func(r *api.TaskRecord) { r.State = api.TaskQueued }), false},
		"one that is being cancelled":  {running(func(r *api.TaskRecord) { r.CancelRequested = true }), false},
		"one in a shared session":      {running(func(r *api.TaskRecord) { r.SessionRequest = &api.TaskSession{Reuse: "s"} }), false},
		"one in a session that stays":  {running(func(r *api.TaskRecord) { r.SessionRequest = &api.TaskSession{Keep: true} }), true},
		"preempted just now":           {running(after("preempted", time.Minute)), false},
		"preempted long ago":           {running(after("preempted", preemptSpare)), true},
		"lost just now":                {running(after("lost", time.Minute)), true},
	} {
		if got := preemptible(c.rec, now); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestConcludePreempted: what was preempted waits again at once; a wish to cancel it goes first.
func TestConcludePreempted(t *testing.T) {
	s := New(Config{}, Deps{})
	rec := api.TaskRecord{}
	rec.State, rec.Attempt, rec.Retry = api.TaskRunning, 1, &api.TaskRetry{MaxAttempts: 1}
	rec.Attempts = []api.TaskAttempt{{Attempt: 1}}
	cancelled := rec
	o := outcome{kind: preempted, reason: "room", by: "t1"}
	s.conclude(&rec, o, 7)
	if rec.State != api.TaskQueued || rec.RetryAt != nil || rec.Before != 1 || rec.Attempt != 1 || rec.Result != nil || rec.Attempts[0].PreemptedBy != "t1" || !mayFollow(api.TaskRunning, rec.State) {
		t.Errorf("%+v", rec)
	}
	rec.State, rec.Attempt = api.TaskRunning, 2 // its next attempt is its first one that counts
	rec.Attempts = append(rec.Attempts, api.TaskAttempt{Attempt: 2})
	s.conclude(&rec, outcome{kind: lost}, 8)
	if rec.State != api.TaskFailed {
		t.Errorf("%s after the only attempt that it has", rec.State)
	}
	cancelled.CancelRequested, cancelled.Reason = true, "no"
	s.conclude(&cancelled, o, 7)
	if cancelled.State != api.TaskCancelled || cancelled.Attempts[0].PreemptedBy != "" {
		t.Errorf("%+v", cancelled)
	}
}
