package scheduler

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

// TestStandby: a replica that does not dispatch gathers nothing to do, and knows all of it when its turn comes.
func TestStandby(t *testing.T) {
	y := newYard(t)
	first := y.start(Config{Shards: 1}, instantly)
	held := func(r *replica) (leading bool, todo, deadlines int) {
		sh := r.shards[0]
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return sh.leading, len(sh.todo), len(sh.deadlines)
	}
	y.until("the first replica dispatches", func() bool { leading, _, _ := held(first); return leading })
	second := y.start(Config{Shards: 1}, instantly)
	ada := y.person("acme", api.RoleMember)
	later := time.Now().Add(time.Hour)
	deadline := later.Add(time.Hour)
	parent := ada.create(api.TaskSpec{Prompt: "x", NotBefore: &later, Deadline: &deadline})
	child := ada.create(api.TaskSpec{Prompt: "x", DependsOn: []string{parent.ID}, Deadline: &deadline})
	for _, r := range []*replica{first, second} {
		y.until("the replica knows the tasks", func() bool { return r.view.Len(indexLive, "acme") == 2 && r.view.Seen() >= child.Rev })
	}
	y.until("the one that dispatches watches both deadlines, and has looked at the child", func() bool {
		_, todo, deadlines := held(first)
		return todo == 0 && deadlines == 2
	})
	e, _ := first.view.Get(keyIn("acme", parent.ID))
	for _, r := range []*replica{first, second} {
		for range 10 {
			r.shards[0].take(&e, e) // as when it was given back for want of capacity
		}
	}
	if _, _, deadlines := held(first); deadlines != 2 {
		t.Errorf("a task that began to wait ten times has its deadline watched that often: %d in all", deadlines)
	}
	if leading, todo, deadlines := held(second); leading || todo != 0 || deadlines != 0 {
		t.Errorf("the one that stands by: leading %t, %d to look at, %d deadlines", leading, todo, deadlines)
	}
	first.stop()
	y.until("the next one watches them", func() bool { leading, _, deadlines := held(second); return leading && deadlines == 2 })
	must(ada, api.CancelTask, api.CancelTaskRequest{ID: parent.ID})
	ada.becomes(child.ID, api.TaskFailed)
}
