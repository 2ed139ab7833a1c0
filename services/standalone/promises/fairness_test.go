package promises

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestFairForReal looks at the order in which a yard gave tasks to sessions, which its ledger numbers. How long that took says nothing. The large
// scenarios, with a clock of their own, are services/scheduler/fair's.
func TestFairForReal(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess)
	t.Run("a flood beside three", func(t *testing.T) { flood(t, y) })
	t.Run("ageing", func(t *testing.T) { ageing(t, y) })
}

const (
	fairSlots = 4
	fairTask  = "sleep 0.2" // all take about as long: then service is the number of starts
)

func flood(t *testing.T, y *yardtest.Yard) {
	weights := map[string]int{"flood": 1, "few": 1, "some": 1, "paying": 2}
	makeQueue(t, y, api.Queue{Name: "busy", Paused: true, Concurrency: fairSlots, TenantWeights: weights})
	of := map[string]*tenantClient{}
	left := map[string]int{"flood": 70, "few": 12, "some": 12, "paying": 24}
	begun := map[string]string{} // tenant by task
	var all []string
	for _, name := range []string{"flood", "few", "some", "paying"} { // the flood comes first
		of[name] = newTenant(t, y, name)
		for _, id := range of[name].queue(t, left[name], api.TaskSpec{Queue: "busy", Command: fairTask}) {
			begun[id] = name
			all = append(all, id)
		}
	}
	y.Client.Must(t, http.MethodPost, "/api/v1/queues/busy/resume", nil, nil)

	// In the midst of it something urgent comes, of the flood itself and of one who had nothing.
	of["late"] = newTenant(t, y, "late")
	of["paying"].until(t, all[len(all)-12], api.TaskSucceeded)
	urgent := map[string]string{}
	for _, name := range []string{"flood", "late"} {
		urgent[name] = of[name].queue(t, 1, api.TaskSpec{Queue: "busy", Command: fairTask, Priority: new(api.MaxPriority)})[0]
		of[name].until(t, urgent[name], api.TaskSucceeded)
	}
	for id, name := range begun {
		if name != "flood" {
			of[name].until(t, id, api.TaskSucceeded)
		}
	}

	starts := map[uint64]string{} // task by the number of its first assignment
	asked, got := map[string]uint64{}, map[string]uint64{}
	for id, name := range begun {
		if _, at := of[name].numbers(t, id); at > 0 {
			starts[at] = id
		}
	}
	for name, id := range urgent {
		if asked[name], got[name] = of[name].numbers(t, id); got[name] == 0 {
			t.Fatalf("the urgent task of %s did not start", name)
		}
	}
	order := make([]uint64, 0, len(starts))
	for at := range starts {
		order = append(order, at)
	}
	slices.Sort(order)

	had := map[string]float64{}
	for _, at := range order {
		name := begun[starts[at]]
		had[name] += 1 / float64(weights[name])
		if left[name]--; left[name] == 0 {
			break // from here on not all have something that waits
		}
	}
	sum, squares := 0.0, 0.0
	for name := range weights {
		sum += had[name]
		squares += had[name] * had[name]
	}
	if index := sum * sum / (float64(len(weights)) * squares); index < 0.95 {
		t.Errorf("Jain's index %.3f of %v", index, had)
	}
	for name := range urgent {
		before := 0
		for _, at := range order {
			if at > asked[name] && at < got[name] {
				before++
			}
		}
		if most := 2 * fairSlots; before > most {
			t.Errorf("the urgent task of %s waited for %d others to start; in two task lengths at most %d do", name, before, most)
		}
	}
}

// ageing expects a task of the lowest priority to come before those of the highest that were made when it had waited long enough, and after
// those that were made before.
func ageing(t *testing.T, y *yardtest.Yard) {
	const step = 100 * time.Millisecond // for one priority
	makeQueue(t, y, api.Queue{Name: "aged", Paused: true, Concurrency: 1, Ageing: api.Duration(step)})
	c := newTenant(t, y, "aged")
	queue := func(priority int) api.Task {
		var made api.Task
		c.Must(t, http.MethodPost, "/api/v1/tasks", api.TaskSpec{Queue: "aged", Command: "true", Priority: &priority}, &made)
		return made
	}
	low := queue(0)
	due := low.QueuedAt.Add(api.MaxPriority * step)
	var high []api.Task
	for late := 0; late < 3; wait(t.Context(), step) {
		h := queue(api.MaxPriority)
		high = append(high, h)
		if !h.QueuedAt.Before(due) {
			late++
		}
	}
	y.Client.Must(t, http.MethodPost, "/api/v1/queues/aged/resume", nil, nil)
	for _, task := range append(high, low) {
		c.until(t, task.ID, api.TaskSucceeded)
	}
	_, at := c.numbers(t, low.ID)
	for _, h := range high {
		_, got := c.numbers(t, h.ID)
		if early := h.QueuedAt.Before(due); early != (got < at) {
			t.Errorf("one of the highest priority, made %s after the lowest, started at %d, the lowest at %d", h.QueuedAt.Sub(low.QueuedAt), got, at)
		}
	}
}

func makeQueue(t *testing.T, y *yardtest.Yard, q api.Queue) {
	t.Helper()
	y.Client.Must(t, http.MethodPost, "/api/v1/queues", q, nil)
}

// queue makes n tasks of a kind and returns their ids.
func (c *tenantClient) queue(t *testing.T, n int, spec api.TaskSpec) []string {
	t.Helper()
	var made api.CreateTasksResponse
	c.Must(t, http.MethodPost, "/api/v1/tasks/batch", api.CreateTasksRequest{Tasks: slices.Repeat([]api.TaskSpec{spec}, n)}, &made)
	ids := make([]string, n)
	for i, task := range made.Items {
		ids[i] = task.ID
	}
	return ids
}

// until waits until a task is in a state.
func (c *tenantClient) until(t *testing.T, id string, want api.TaskState) {
	t.Helper()
	var task api.Task
	for deadline := time.Now().Add(storyWithin); task.State != want; {
		if task.State.Final() || time.Now().After(deadline) {
			t.Fatalf("task %s is %s, not %s: %s", id, task.State, want, task.Reason)
		}
		c.Must(t, http.MethodGet, fmt.Sprintf("/api/v1/tasks/%s/wait?timeout=5s", id), nil, &task)
	}
}

// numbers returns the numbers of a task's creation and of its first assignment in the ledger; 0: it was not assigned yet.
func (c *tenantClient) numbers(t *testing.T, id string) (created, assigned uint64) {
	t.Helper()
	var page api.Page[api.Change[api.Task]]
	c.Must(t, http.MethodGet, "/api/v1/tasks/"+id+"/history", nil, &page)
	for _, change := range page.Items {
		if change.Verb == "create" {
			created = change.Rev
		}
		if change.Verb == "assign" && assigned == 0 {
			assigned = change.Rev
		}
	}
	return created, assigned
}
