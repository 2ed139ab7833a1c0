package scheduler

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// house is a scheduler whose time and whose audit the test holds.
type house struct {
	*replica
	mu    sync.Mutex
	ahead time.Duration
	acts  []string
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	h.ahead += d
	h.mu.Unlock()
}

func (h *house) told() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.acts)
}

func newHouse(y *yard, cfg Config, execute func(context.Context, api.Task) api.TaskResult) *house {
	h := &house{}
	h.replica = y.startWith(cfg, execute, func(d *Deps) {
		d.Now = func() time.Time {
			h.mu.Lock()
			defer h.mu.Unlock()
			return time.Now().Add(h.ahead)
		}
		d.Did = func(tenant, action, object, _ string) {
			h.mu.Lock()
			h.acts = append(h.acts, tenant+" "+action+" "+object)
			h.mu.Unlock()
		}
	})
	return h
}

func TestRetention(t *testing.T) {
	y := newYard(t)
	var h *house
	left := map[string]bus.Blob{}
	var mu sync.Mutex
	h = newHouse(y, Config{Sweep: time.Hour, Retention: 48 * time.Hour, DeadRetention: 96 * time.Hour, ArtifactRetention: 24 * time.Hour},
		func(ctx context.Context, task api.Task) api.TaskResult {
			blob, err := h.blobs.Put(ctx, task.Tenant, task.ID, strings.NewReader("a file"), 100)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			left[task.ID] = blob
			mu.Unlock()
			return api.TaskResult{Artifacts: []api.TaskArtifact{{Path: "f", Size: blob.Size, SHA256: blob.SHA256, Blob: blob.ID}}}
		})
	boss, ada := y.person(api.HomeTenant, api.RoleAdmin), y.person("acme", api.RoleMember)
	must(boss, api.CreateQueue, api.Queue{Name: "short", Retention: api.Duration(time.Hour)})
	must(boss, api.CreateQueue, api.Queue{Name: "held", Paused: true})
	y.until("the queues are known", func() bool { _, ok := h.queue("held"); return ok })
	usual, short := ada.create(api.TaskSpec{Prompt: "x"}), ada.create(api.TaskSpec{Prompt: "x", Queue: "short"})
	parent, open := ada.create(api.TaskSpec{Prompt: "x"}), ada.create(api.TaskSpec{Prompt: "x", Queue: "held"})
	child := ada.create(api.TaskSpec{Prompt: "x", DependsOn: []string{parent.ID, open.ID}})
	for _, task := range []api.Task{usual, short, parent} {
		ada.becomes(task.ID, api.TaskSucceeded)
	}
	dead := ada.create(api.TaskSpec{Prompt: "x", Queue: "held"})
	if _, err := h.change(t.Context(), keyIn("acme", dead.ID), bus.Meta{Actor: actor, Verb: "fail"}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		h.end(rec, api.TaskFailed, "it failed")
		rec.DeadLetter = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	gone := func(id string) bool {
		_, err := ask(ada, api.GetTask, api.TaskRef{ID: id})
		return api.CodeOf(err) == api.CodeNotFound
	}
	fileOf := func(id string) error {
		mu.Lock()
		defer mu.Unlock()
		return h.blobs.Get(t.Context(), "acme", id, left[id], &bytes.Buffer{})
	}
	report := func(dry bool) api.SweepReport { return must(boss, api.SweepTasks, api.SweepRequest{DryRun: dry}) }
	_, err := ask(ada, api.SweepTasks, api.SweepRequest{})
	wantCode(t, err, api.CodeDenied)

	if r := report(false); len(r.Items) != 0 {
		t.Errorf("too early: %+v", r)
	}
	h.pass(25 * time.Hour)
	dry := report(true)
	if dry.Counts[api.SweepTask] != 1 || dry.Counts[api.SweepArtifacts] != 2 || len(dry.Items) != 3 {
		t.Errorf("%+v", dry)
	}
	if fileOf(usual.ID) != nil || gone(short.ID) || len(h.told()) != 0 {
		t.Error("a dry run removed something")
	}
	if r := report(false); len(r.Items) != 3 {
		t.Errorf("%+v", r)
	}
	if !gone(short.ID) {
		t.Error("a queue's own retention does not count")
	}
	wantCode(t, fileOf(usual.ID), api.CodeNotFound)
	wantCode(t, fileOf(short.ID), api.CodeNotFound)
	if got := must(ada, api.GetTask, api.TaskRef{ID: usual.ID}); len(got.Result.Artifacts) != 0 || len(got.Result.Problems) != 1 || got.State != api.TaskSucceeded {
		t.Errorf("%+v", got.Result)
	}
	if r := report(true); len(r.Items) != 0 {
		t.Errorf("what was done is due again: %+v", r)
	}

	h.pass(24 * time.Hour)
	report(false)
	if !gone(usual.ID) || gone(parent.ID) || gone(dead.ID) || gone(open.ID) || gone(child.ID) {
		t.Error("removed the wrong tasks")
	}
	if page := must(ada, api.ListTasks, api.ListTasksRequest{}); len(page.Items) != 4 {
		t.Errorf("%d tasks", len(page.Items))
	}
	h.pass(48 * time.Hour)
	report(false)
	if !gone(dead.ID) || gone(parent.ID) {
		t.Error("a dead letter stays, or what another task waits for does not")
	}
	// Each task removed, and the files of two before.
	if acts := h.told(); len(acts) != 5 || !slices.Contains(acts, "acme scheduler.sweep "+usual.ID) {
		t.Errorf("audited: %v", acts)
	}
}

// TestRetentionSparesWhatWasRetried: what has changed since it was found is not removed.
func TestRetentionSparesWhatWasRetried(t *testing.T) {
	y := newYard(t)
	h := newHouse(y, Config{Sweep: time.Hour, Retention: time.Hour}, instantly)
	ada := y.person("acme", api.RoleMember)
	task := ada.create(api.TaskSpec{Prompt: "x"})
	ada.becomes(task.ID, api.TaskSucceeded)
	h.pass(2 * time.Hour)
	due, more := h.overdue(h.now())
	if len(due) != 1 || more {
		t.Fatalf("%+v", due)
	}
	must(ada, api.RetryTask, api.TaskRef{ID: task.ID})
	if n := h.sweep(t.Context(), due); n != 0 {
		t.Error("removed a task that was retried")
	}
	ada.becomes(task.ID, api.TaskSucceeded)
}

// TestHouseIsKept: one of two replicas sweeps, and the other one goes on when it dies.
func TestHouseIsKept(t *testing.T) {
	y := newYard(t)
	cfg := Config{Sweep: 20 * time.Millisecond, Retention: time.Hour}
	first := newHouse(y, cfg, instantly)
	second := newHouse(y, cfg, instantly)
	ada := y.person("acme", api.RoleMember)
	removed := func() {
		t.Helper()
		task := ada.create(api.TaskSpec{Prompt: "x"})
		ada.becomes(task.ID, api.TaskSucceeded)
		first.pass(2 * time.Hour)
		second.pass(2 * time.Hour)
		y.until("the task is removed", func() bool {
			_, err := ask(ada, api.GetTask, api.TaskRef{ID: task.ID})
			return api.CodeOf(err) == api.CodeNotFound
		})
	}
	removed()
	bye, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := first.conn.Close(bye); err != nil { // as a process that dies
		t.Fatal(err)
	}
	removed()
	y.until("the second replica has told of it", func() bool { return len(second.told()) > 0 }) // which it does when the task's files are gone too
}
