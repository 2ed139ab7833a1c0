package scheduler

import (
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

func FuzzHold(f *testing.F) {
	f.Add("default 0123456789ab tabc 1 2 3")
	f.Add("q p t 0 1 1")
	f.Add("q  t 1 1 1 1")
	f.Add("q p t 01 1 1")
	f.Fuzz(func(t *testing.T, text string) {
		h, ok := parseHold(text)
		if ok && (h.String() != text || h.made < 1 || h.assigned < 1 || h.tasks < 1) {
			t.Errorf("%q became %+v", text, h)
		}
		h.queue, h.pool, h.maker, h.made, h.assigned, h.tasks = "q", "p", "t1", 1, 2, 3
		if back, ok := parseHold(h.String()); !ok || back != h {
			t.Errorf("%q became %+v", h, back)
		}
	})
}

// TestHeldSessions: a session is listed as its label says while it lives; a label that another wrote is none.
func TestHeldSessions(t *testing.T) {
	rec := api.TaskRecord{Task: api.Task{Owner: "u1"}, Assigned: 2}
	id, _ := sessionOf(rec, keyIn("acme", "t1"))
	session := func(id, label string, state api.State) bus.Entry[api.SessionRecord] {
		return bus.Entry[api.SessionRecord]{Key: keyIn("acme", id), Change: api.Change[api.SessionRecord]{State: api.SessionRecord{Session: api.Session{
			ID: id, Owner: "u1", State: state, Labels: map[string]string{labelReuse: label},
		}}}}
	}
	first, second := hold{"q", "p", "t1", 2, 2, 1}, hold{"q", "p", "t1", 2, 5, 2}
	for _, tt := range []struct {
		name       string
		e          bus.Entry[api.SessionRecord]
		want       hold
		ok, listed bool
	}{
		{"made", session(id, first.String(), api.StatePending), first, true, true},
		{"claimed", session(id, second.String(), api.StateRunning), second, true, true},
		{"another's label", session("sother", first.String(), api.StateRunning), hold{}, false, false},
		{"no label", session("splain", "", api.StateRunning), hold{}, false, false},
		{"its label was taken away", session(id, "", api.StateRunning), hold{}, false, false},
		{"ends", session(id, second.String(), api.StateStopping), second, true, false},
		{"has ended", session(id, second.String(), api.StateTerminated), second, true, false},
	} {
		if got, ok := holdOf(tt.e); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: %+v %t", tt.name, got, ok)
		}
		for name, value := range map[string]string{indexPool: "acme/u1/p", indexQueue: "q", indexHeld: "acme"} {
			var want []string
			if tt.listed {
				want = []string{value}
			}
			if got := sessionIndexes()[name](tt.e); !slices.Equal(got, want) {
				t.Errorf("%s: listed by %s under %q, not %q", tt.name, name, got, want)
			}
		}
	}
}

// TestUseOf is the table of what a session that tasks use one after another is at a time.
func TestUseOf(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ended := now.Add(-time.Minute)
	policy := api.SessionReuse{Idle: api.Duration(10 * time.Minute), MaxTasks: 3, MaxIdle: 1}
	type one struct {
		h       hold
		session api.SessionRecord
		task    api.TaskRecord
		known   bool
		allowed bool
	}
	tests := []struct {
		name string
		edit func(*one)
		want use
	}{
		{"its task has succeeded in it", func(*one) {}, waits},
		{"its task is not kept", func(c *one) { c.known = false }, useOff},
		{"its task is not known so far", func(c *one) { c.h.assigned = 8 }, inUse},
		{"its task has another assignment", func(c *one) { c.task.Assigned = 8 }, useOff},
		{"its task works in it", func(c *one) { c.task.State, c.task.Fence = api.TaskRunning, 5 }, inUse},
		{"its task waits for an answer in it", func(c *one) { c.task.State, c.task.Fence = api.TaskWaiting, 5 }, inUse},
		{"its task has claimed it and not said so", func(c *one) { c.task.State, c.task.SessionID = api.TaskAssigned, "other" }, inUse},
		{"its task has claimed it and decided for another", func(c *one) { c.task.State, c.task.SessionID, c.task.Fence = api.TaskAssigned, "other", 5 }, useOff},
		{"its task was returned", func(c *one) { c.task.State = api.TaskQueued }, useOff},
		{"its task failed", func(c *one) { c.task.State = api.TaskFailed }, useOff},
		{"its task was cancelled", func(c *one) { c.task.State = api.TaskCancelled }, useOff},
		{"its task expired", func(c *one) { c.task.State = api.TaskExpired }, useOff},
		{"its task succeeded elsewhere", func(c *one) { c.task.SessionID = "other" }, useOff},
		{"reuse was turned off", func(c *one) { c.allowed = false }, useOff},
		{"it has had enough", func(c *one) { c.h.tasks = 3 }, useOff},
		{"no task came", func(c *one) { at := now.Add(-10 * time.Minute); c.task.EndedAt = &at }, useOff},
		{"it is paused", func(c *one) { c.session.State = api.StatePaused }, useOff},
		{"it started anew", func(c *one) { c.session.State = api.StateStarting }, useOff},
		{"that it runs is not reported so far", func(c *one) {
			c.session.State, c.session.Activity = api.StateStarting, ""
			at := now.Add(-time.Second)
			c.task.EndedAt = &at
		}, waits},
		{"it was paused at once", func(c *one) {
			c.session.State = api.StatePaused
			at := now.Add(-time.Second)
			c.task.EndedAt = &at
		}, useOff},
		{"its processes cannot be ended", func(c *one) { c.session.Isolation = []string{"user"} }, useOff},
		{"its owner works with it", func(c *one) { c.session.Activity = api.ActivityWorking }, inUse},
		{"its end is not reported so far", func(c *one) {
			c.session.Activity = api.ActivityWorking
			at := now.Add(-time.Second)
			c.task.EndedAt = &at
		}, waits},
		{"its owner works with it for long", func(c *one) {
			c.session.Activity = api.ActivityWorking
			at := now.Add(-time.Hour)
			c.task.EndedAt = &at
		}, useOff},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := one{
				h: hold{queue: "q", pool: "p", maker: "t1", made: 1, assigned: 7, tasks: 2}, known: true, allowed: true,
				session: api.SessionRecord{Session: api.Session{ID: "s1", State: api.StateRunning, Activity: api.ActivityIdle, Isolation: []string{"user", "pid"}}},
				task:    api.TaskRecord{Task: api.Task{State: api.TaskSucceeded, SessionID: "s1", EndedAt: &ended}, Assigned: 7},
			}
			tt.edit(&c)
			got, why := useOf(c.h, bus.Entry[api.SessionRecord]{Change: api.Change[api.SessionRecord]{State: c.session}}, c.task, c.known, policy, c.allowed, now)
			if got != tt.want || (got == useOff) != (why != "") {
				t.Errorf("%d (%s), want %d", got, why, tt.want)
			}
		})
	}
}

func TestPoolOf(t *testing.T) {
	base := func() api.TaskRecord {
		return api.TaskRecord{Task: api.Task{TaskSpec: api.TaskSpec{
			Queue: "q", Prompt: "x", Profile: "coder", Repository: &api.Repository{URL: "https://example.org/a", Ref: "main"}, Env: map[string]string{"A": "1", "B": "2"},
		}}}
	}
	a := base()
	for name, tt := range map[string]struct {
		edit func(*api.TaskRecord)
		same bool
	}{
		"another prompt and ref":  {func(r *api.TaskRecord) { r.Prompt, r.Title, r.Repository.Ref = "y", "t", "side" }, true},
		"another queue":           {func(r *api.TaskRecord) { r.Queue = "other" }, false},
		"another profile":         {func(r *api.TaskRecord) { r.Profile = "" }, false},
		"another agent":           {func(r *api.TaskRecord) { r.Agent = &api.Agent{Kind: "claude"} }, false},
		"a command":               {func(r *api.TaskRecord) { r.Prompt, r.Command = "", "x" }, false},
		"another repository":      {func(r *api.TaskRecord) { r.Repository.URL += "b" }, false},
		"all history":             {func(r *api.TaskRecord) { r.Repository.Depth = -1 }, false},
		"no repository":           {func(r *api.TaskRecord) { r.Repository = nil }, false},
		"another value":           {func(r *api.TaskRecord) { r.Env["A"] = "2" }, false},
		"another variable":        {func(r *api.TaskRecord) { r.Env["C"] = "" }, false},
		"values the other way":    {func(r *api.TaskRecord) { r.Env = map[string]string{"A": "2", "B": "1"} }, false},
		"the same, made anew":     {func(*api.TaskRecord) {}, true},
		"nothing in its variable": {func(r *api.TaskRecord) { r.Env = nil }, false},
	} {
		b := base()
		tt.edit(&b)
		if got := poolOf(&a) == poolOf(&b); got != tt.same {
			t.Errorf("%s: the same pool: %v", name, got)
		}
	}
}
