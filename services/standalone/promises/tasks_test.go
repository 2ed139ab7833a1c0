package promises

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// taskCount is the size of TestTasksEndOnce, over all tenants: -tasks 2000 is the whole scenario.
var taskCount = flag.Int("tasks", 200, "how many tasks TestTasksEndOnce runs")

const (
	taskTenants = 4
	taskKills   = 2 // of each process, at least: it goes on while tasks run
)

// tenantClient is somebody of a tenant, with the tasks that were made there.
type tenantClient struct {
	*yardtest.Client
	name  string
	tasks map[string]bool // false: not seen to have ended
}

// TestTasksEndOnce kills the yard's processes and its runners with -9 while tasks of four tenants run, and expects each task to end once, as its
// history shows, and no attempt to have written anything after the next one began.
func TestTasksEndOnce(t *testing.T) {
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		within := 4*time.Minute + time.Duration(*taskCount)*time.Second
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()

		var tenants []*tenantClient
		for i := range taskTenants {
			tenants = append(tenants, newTenant(t, y, fmt.Sprint("crew", i)))
		}
		for _, c := range tenants {
			c.enqueue(ctx, t, *taskCount/taskTenants)
		}
		all := 0
		for kills := 0; ; kills++ {
			open := 0
			for _, c := range tenants {
				open += c.poll(ctx)
			}
			if open == 0 || kills >= taskKills*len(y.Processes()) {
				all = open
				break
			}
			name := y.Processes()[kills%len(y.Processes())]
			wait(ctx, time.Duration(300+random.IntN(900))*time.Millisecond)
			t.Logf("%d tasks left; kill -9 %s", open, name)
			y.Kill(t, name)
			y.Restart(t, name)
			y.Ready(t)
			for _, c := range tenants {
				c.killRunner(ctx, t, y)
			}
		}
		for all > 0 {
			if ctx.Err() != nil {
				t.Fatalf("%d tasks have not ended within %s", all, within)
			}
			wait(ctx, 200*time.Millisecond)
			all = 0
			for _, c := range tenants {
				all += c.poll(ctx)
			}
		}
		for _, c := range tenants {
			c.check(t)
		}
	})
}

func newTenant(t *testing.T, y *yardtest.Yard, name string) *tenantClient {
	t.Helper()
	var made api.CreateTenantResponse
	y.Client.Must(t, http.MethodPost, "/api/v1/tenants", api.CreateTenantRequest{Name: name}, &made)
	own := *y.Client
	own.Key = made.AdminKey
	return &tenantClient{Client: &own, name: name, tasks: map[string]bool{}}
}

// enqueue makes n tasks: short ones, some that take a while, some whose agent crashes the first time.
func (c *tenantClient) enqueue(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	specs := make([]api.TaskSpec, n)
	for i := range specs {
		specs[i] = api.TaskSpec{Prompt: fmt.Sprintf("echo task %d", i), Retry: &api.TaskRetry{MaxAttempts: 20, Backoff: api.Duration(100 * time.Millisecond), MaxBackoff: api.Duration(time.Second)}}
		switch i % 5 {
		case 1:
			specs[i].Prompt = "sleep 300ms"
		case 3:
			specs[i].Prompt, specs[i].Command = "", "printf x > made; exit 0"
		}
	}
	for ctx.Err() == nil {
		status, body, err := c.Do(ctx, http.MethodPost, "/api/v1/tasks/batch", api.CreateTasksRequest{Tasks: specs}, "Idempotency-Key", "all")
		var made api.CreateTasksResponse
		if err == nil && status == http.StatusCreated {
			if err := json.Unmarshal(body, &made); err != nil {
				t.Fatal(err)
			}
			for _, task := range made.Items {
				c.tasks[task.ID] = false
			}
			return
		}
		wait(ctx, 100*time.Millisecond)
	}
	t.Fatal("the tasks were not accepted")
}

// poll returns how many tasks are not known to have ended.
func (c *tenantClient) poll(ctx context.Context) int {
	open := 0
	for id, ended := range c.tasks {
		if ended {
			continue
		}
		var task api.Task
		status, body, err := c.Do(ctx, http.MethodGet, "/api/v1/tasks/"+id, nil)
		if err == nil && status == http.StatusOK && json.Unmarshal(body, &task) == nil && task.State.Final() {
			c.tasks[id] = true
			continue
		}
		open++
	}
	return open
}

// killRunner kills the runner of one of the tenant's sessions, if one runs.
func (c *tenantClient) killRunner(ctx context.Context, t *testing.T, y *yardtest.Yard) {
	var page api.Page[api.Session]
	status, body, err := c.Do(ctx, http.MethodGet, "/api/v1/sessions?state=running&limit=1", nil)
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &page) != nil || len(page.Items) == 0 {
		return
	}
	id := page.Items[0].ID
	var instance struct{ PID int }
	data, err := os.ReadFile(filepath.Join(y.Dir, "sessions", id, "instance.json"))
	if err != nil || json.Unmarshal(data, &instance) != nil || instance.PID <= 1 {
		return // it has ended since
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", instance.PID))
	if err != nil || !strings.Contains(string(argv), "\x00runner\x00") {
		return // likewise, and its process id may be another's
	}
	t.Logf("kill -9 the runner of %s", id)
	_ = syscall.Kill(instance.PID, syscall.SIGKILL) // it may have ended by itself
}

// check reads every task's history.
func (c *tenantClient) check(t *testing.T) {
	t.Helper()
	for id := range c.tasks {
		var page api.Page[api.Change[api.Task]]
		c.Must(t, http.MethodGet, "/api/v1/tasks/"+id+"/history?limit=500", nil, &page)
		ends, attempt := 0, 0
		var last api.Task
		for _, change := range page.Items {
			last = change.State
			if last.State.Final() {
				ends++
			}
			// What an earlier attempt wrote after a later one began would take the count back; only a yard without capacity does.
			if last.Attempt < attempt && change.Verb != "return" {
				t.Errorf("task %s: attempt %d wrote %q after attempt %d began", id, last.Attempt, change.Verb, attempt)
			}
			attempt = last.Attempt
		}
		if ends != 1 || last.State != api.TaskSucceeded {
			t.Errorf("task %s of %s ended %d times and is %s: %s", id, c.name, ends, last.State, last.Reason)
		}
	}
}
