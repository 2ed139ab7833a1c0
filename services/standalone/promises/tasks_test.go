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

// taskCount is the size of TestTasksEndOnce, over all tenants: "make test-soak" runs 2,000.
var taskCount = flag.Int("tasks", 200, "how many tasks TestTasksEndOnce runs")

const (
	taskTenants = 4
	// taskKills is how often each process is killed at least; with many tasks it goes on: killEvery of them cost a process.
	taskKills = 2
	killEvery = 40
	// startTimeout is when a yard of this test gives up an attempt whose session does not begin to work: the bound on how long a task may be
	// assigned. Whoever is killed may cost takeover more: the lease, and the start of the next process on a busy machine.
	startTimeout = 60 * time.Second
	takeover     = 45 * time.Second
	// recovery is how long the next kill waits for work to go on.
	recovery = 30 * time.Second
)

// TestTasksEndOnce kills the yard's processes and its runners with -9 at random while tasks of four tenants run, and expects each task to end once,
// as its history shows, no attempt to have done anything after the next one began, and no task to hang in between when the killing is over.
func TestTasksEndOnce(t *testing.T) {
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		within := 4*time.Minute + time.Duration(*taskCount)*time.Second
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		k := &killer{y: y, random: rand.New(rand.NewPCG(seed, 0))}
		for i := range taskTenants {
			k.tenants = append(k.tenants, newTenant(t, y, fmt.Sprint("crew", i)))
		}
		for i, c := range k.tenants {
			c.enqueue(ctx, t, (*taskCount+i)/taskTenants)
		}
		begun := time.Now()
		k.run(ctx, t)
		t.Logf("after %s, with %d processes and %d runners killed and %d sessions ended, %d tasks are left",
			time.Since(begun).Round(time.Second), k.kills, k.runners, k.sessions, k.open(ctx))
		for assigned := map[string]time.Time{}; k.open(ctx) > 0; wait(ctx, 200*time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatalf("%d tasks have not ended within %s", k.open(t.Context()), within)
			}
			for _, c := range k.tenants {
				c.assigned(ctx, t, assigned)
			}
		}
		again, attempts := 0, 0
		for _, c := range k.tenants {
			for id := range c.tasks {
				n := c.check(t, id)
				attempts += n
				if n > 1 {
					again++
				}
			}
		}
		t.Logf("%d tasks ended after %d attempts within %s; %d had more than one", *taskCount, attempts, time.Since(begun).Round(time.Second), again)
	}, "AGENTAPI_SCHEDULER_START_TIMEOUT="+startTimeout.String())
}

// killer kills what a yard consists of.
type killer struct {
	y       *yardtest.Yard
	tenants []*tenantClient
	random  *rand.Rand

	kills, runners, sessions int
}

// run kills until it has killed enough or nothing is left to do: each process in turn at first, then any, sometimes two at once, and mostly when work goes
// on again.
func (k *killer) run(ctx context.Context, t *testing.T) {
	names := k.y.Processes()
	enough := max(taskKills*len(names), *taskCount/killEvery)
	for open := k.open(ctx); k.kills < enough; {
		if before := open; k.random.IntN(3) > 0 {
			for giveUp := time.Now().Add(recovery); open == before && time.Now().Before(giveUp); open = k.open(ctx) {
				wait(ctx, 50*time.Millisecond)
			}
		}
		if open = k.open(ctx); open == 0 || ctx.Err() != nil {
			return
		}
		doomed := []string{names[k.kills%len(names)]}
		if k.kills >= len(names) {
			doomed[0] = names[k.random.IntN(len(names))]
		}
		if other := names[k.random.IntN(len(names))]; other != doomed[0] && k.random.IntN(3) == 0 {
			doomed = append(doomed, other)
		}
		wait(ctx, time.Duration(k.random.IntN(900))*time.Millisecond)
		t.Logf("%d tasks left; kill -9 %v", open, doomed)
		for _, name := range doomed {
			k.y.Kill(t, name)
			k.kills++
		}
		for _, name := range doomed {
			k.y.Restart(t, name)
		}
		k.y.Ready(t)
		for _, c := range k.tenants {
			k.hitSession(ctx, c)
		}
	}
}

func (k *killer) open(ctx context.Context) int {
	open := 0
	for _, c := range k.tenants {
		open += c.open(ctx)
	}
	return open
}

// hitSession kills the runner of one of a tenant's sessions, if one runs, or ends the session under its task.
func (k *killer) hitSession(ctx context.Context, c *tenantClient) {
	var page api.Page[api.Session]
	status, body, err := c.Do(ctx, http.MethodGet, "/api/v1/sessions?state=running&limit=100", nil)
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &page) != nil || len(page.Items) == 0 {
		return
	}
	id := page.Items[k.random.IntN(len(page.Items))].ID
	if k.random.IntN(3) == 0 {
		if status, _, err := c.Do(ctx, http.MethodDelete, "/api/v1/sessions/"+id, nil); err == nil && status == http.StatusAccepted {
			k.sessions++
		}
		return
	}
	var instance struct{ PID int }
	data, err := os.ReadFile(filepath.Join(k.y.Dir, "sessions", id, "instance.json"))
	if err != nil || json.Unmarshal(data, &instance) != nil || instance.PID <= 1 {
		return // it has ended since
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", instance.PID))
	if err != nil || !strings.Contains(string(argv), "\x00runner\x00") {
		return // likewise, and its process id may be another's
	}
	if syscall.Kill(instance.PID, syscall.SIGKILL) == nil { // it may have ended by itself
		k.runners++
	}
}

// tenantClient is somebody of a tenant, with the tasks that were made there.
type tenantClient struct {
	*yardtest.Client
	name  string
	tasks map[string]string // what the summary of each must say
	left  int               // that are not known to have ended
}

func newTenant(t *testing.T, y *yardtest.Yard, name string) *tenantClient {
	t.Helper()
	var made api.CreateTenantResponse
	y.Client.Must(t, http.MethodPost, "/api/v1/tenants", api.CreateTenantRequest{Name: name}, &made)
	own := *y.Client
	own.Key = made.AdminKey
	return &tenantClient{Client: &own, name: name, tasks: map[string]string{}}
}

// enqueue makes n tasks: short ones, some that take a while, some that are commands.
func (c *tenantClient) enqueue(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	specs, says := make([]api.TaskSpec, n), make([]string, n)
	for i := range specs {
		says[i] = fmt.Sprintf("task %d of %s.", i, c.name)
		specs[i] = api.TaskSpec{Prompt: "echo " + says[i], Retry: &api.TaskRetry{MaxAttempts: 20, Backoff: api.Duration(100 * time.Millisecond), MaxBackoff: api.Duration(time.Second)}}
		switch i % 5 {
		case 1:
			specs[i].Prompt, says[i] = "sleep 300ms", "slept 300ms"
		case 3:
			specs[i].Prompt, specs[i].Command = "", "printf %s '"+says[i]+"' > made; cat made"
			specs[i].Artifacts = []string{"made"}
		}
	}
	for from := 0; from < n; {
		to := min(from+api.MaxBatch, n)
		status, body, err := c.Do(ctx, http.MethodPost, "/api/v1/tasks/batch", api.CreateTasksRequest{Tasks: specs[from:to]}, "Idempotency-Key", fmt.Sprint("batch", from))
		var made api.CreateTasksResponse
		if err == nil && status == http.StatusCreated {
			if err := json.Unmarshal(body, &made); err != nil {
				t.Fatal(err)
			}
			for i, task := range made.Items {
				c.tasks[task.ID] = says[from+i]
			}
			from, c.left = to, to
			continue
		}
		if ctx.Err() != nil {
			t.Fatalf("the tasks were not accepted: status %d, %v: %s", status, err, body)
		}
		wait(ctx, 100*time.Millisecond)
	}
}

// open returns how many of the tenant's tasks are not known to have ended.
func (c *tenantClient) open(ctx context.Context) int {
	var stats api.QueueStats
	status, body, err := c.Do(ctx, http.MethodGet, "/api/v1/queues/default/stats", nil)
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &stats) != nil {
		return c.left
	}
	c.left = len(c.tasks)
	for state, n := range stats.States {
		if state.Final() {
			c.left -= n
		}
	}
	return c.left
}

// assigned expects no task to stay assigned for longer than it may. since says when each attempt was first seen so.
func (c *tenantClient) assigned(ctx context.Context, t *testing.T, since map[string]time.Time) {
	t.Helper()
	var page api.Page[api.Task]
	status, body, err := c.Do(ctx, http.MethodGet, "/api/v1/tasks?state=assigned&limit=500", nil)
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &page) != nil {
		return
	}
	for _, task := range page.Items {
		attempt := fmt.Sprintf("%s/%d", task.ID, task.Attempt)
		at, seen := since[attempt]
		switch {
		case !seen:
			since[attempt] = time.Now()
		case time.Since(at) > startTimeout+takeover:
			t.Fatalf("task %s is still assigned %s after the last kill; its session is %s", task.ID, time.Since(at), task.SessionID)
		}
	}
}

// check reads a task's history and the logs of its sessions, and returns how many attempts it had.
func (c *tenantClient) check(t *testing.T, id string) int {
	t.Helper()
	var page api.Page[api.Change[api.Task]]
	c.Must(t, http.MethodGet, "/api/v1/tasks/"+id+"/history?limit=500", nil, &page)
	ends := 0
	var fence uint64 // of the present assignment; 0: there is none
	var last api.Task
	var sessions []string
	for _, change := range page.Items {
		now := change.State
		if now.State.Final() {
			ends++
		}
		switch n := len(now.Attempts); {
		case change.Verb == "assign":
			if fence != 0 {
				t.Errorf("task %s was assigned at %d while the assignment of %d held", id, change.Rev, fence)
			}
			fence, sessions = change.Rev, append(sessions, now.SessionID)
		case change.Verb == "return": // a yard without capacity: no attempt
			fence, sessions = 0, sessions[:len(sessions)-1]
		case now.State.Active() && (fence == 0 || now.SessionID != last.SessionID || now.Attempt != last.Attempt):
			t.Errorf("task %s: attempt %d wrote %q when attempt %d held the fence %d", id, now.Attempt, change.Verb, last.Attempt, fence)
		case last.State.Active() && !now.State.Active():
			if n == 0 || now.Attempts[n-1].Fence != fence || now.Attempts[n-1].Session != last.SessionID {
				t.Errorf("task %s: the end of an attempt, %q, is not of the fence %d: %+v", id, change.Verb, fence, now.Attempts)
			}
			fence = 0
		}
		last = now
	}
	if ends != 1 || last.State != api.TaskSucceeded {
		t.Errorf("task %s of %s ended %d times and is %s: %s", id, c.name, ends, last.State, last.Reason)
		return last.Attempt
	}
	if !strings.Contains(last.Result.Summary, c.tasks[id]) {
		t.Errorf("task %s of %s ended with %q, want %q", id, c.name, last.Result.Summary, c.tasks[id])
	}
	if len(last.Artifacts) > 0 {
		// Only a session that somebody ended before its files were kept has none.
		kept, problems := last.Result.Artifacts, strings.Join(last.Result.Problems, "; ")
		if whole := len(kept) == 1 && kept[0].Size == int64(len(c.tasks[id])); !whole && !strings.Contains(problems, "does not run any more") {
			t.Errorf("task %s of %s left %+v of %q: %s", id, c.name, kept, c.tasks[id], problems)
		}
	}
	var ended time.Time
	for i, session := range sessions {
		if len(sessions) == 1 {
			break
		}
		from, to := c.worked(t, session)
		if i > 0 && !from.IsZero() && from.Before(ended) {
			t.Errorf("task %s: session %s worked from %s on, while the one of an earlier attempt did until %s", id, session, from, ended)
		}
		if to.After(ended) {
			ended = to
		}
	}
	return last.Attempt
}

// worked returns when a session's agent began and ended to work, as its log says; zero: never.
func (c *tenantClient) worked(t *testing.T, session string) (from, to time.Time) {
	t.Helper()
	status, body, err := c.Do(t.Context(), http.MethodGet, "/api/v1/sessions/"+session, nil)
	if err == nil && status == http.StatusNotFound {
		return from, to // the attempt was lost before it was made
	}
	if err != nil || status != http.StatusOK {
		t.Fatalf("session %s: status %d, %v: %s", session, status, err, body)
	}
	for _, ev := range c.Events(t, session) {
		if ev.ReplyTo == "" {
			continue
		}
		if from.IsZero() {
			from = ev.At
		}
		to = ev.At
	}
	return from, to
}
