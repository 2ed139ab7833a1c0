package promises

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/modeltest"
	"agentyard.dev/services/standalone/yardtest"
)

// The sign-in that the repository of these tests demands.
const (
	forgeUser  = "forge"
	forgeToken = "a-token-for-the-repository-alone"
)

// TestTasksOnARepository gives tasks a repository behind a sign-in. What the agents change comes back as branches, their files as artifacts and
// all that they do as events; the sign-in reaches neither them nor anything that is written down.
func TestTasksOnARepository(t *testing.T) {
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		r := newRepoTasks(t, y)
		t.Run("the demo agent", r.demoAgent)
		t.Run("Claude Code", r.claudeCode)
		t.Run("a command", r.command)
		t.Run("a branch that is there already", r.conflict)
		t.Run("a branch that appears meanwhile", r.lateConflict)
		t.Run("without a sign-in", r.refused)
		t.Run("the sign-in is nowhere", r.noLeak)
	}, allowPrivate)
}

// repoTasks is a yard with a repository and a profile whose sessions can sign in there.
type repoTasks struct {
	y      *yardtest.Yard
	origin *origin
	tasks  []api.Task
}

func newRepoTasks(t *testing.T, y *yardtest.Yard) *repoTasks {
	t.Helper()
	r := &repoTasks{y: y, origin: newOrigin(t, forgeUser, forgeToken)}
	y.Client.Must(t, http.MethodPut, "/api/v1/secrets/repository-token?scope=tenant", map[string]any{"value": forgeToken}, nil)
	y.Client.Must(t, http.MethodPost, "/api/v1/profiles", api.Profile{
		Name: "coder", Agent: api.Agent{Kind: "demo"}, Env: map[string]string{"GIT_USERNAME": forgeUser},
		Secrets: []api.SecretRef{{Name: "repository-token", Scope: api.ScopeTenant, Env: "GIT_TOKEN", Hosts: []string{strings.TrimSuffix(r.origin.URL, "/repo.git")}}},
	}, nil)
	return r
}

// run makes a task on the repository and follows it to its end.
func (r *repoTasks) run(t *testing.T, spec api.TaskSpec, each func(*api.Change[api.Task], *api.Event)) *taskStory {
	t.Helper()
	spec.Repository = &api.Repository{URL: r.origin.URL}
	if spec.Profile == "" {
		spec.Profile = "coder"
	}
	s := new(taskStory)
	s.follow(t, r.y.Client, spec, each)
	r.tasks = append(r.tasks, s.task)
	return s
}

// look is what an agent does that looks for a sign-in, now and for as long as its session lives.
const look = `while sleep 0.05; do cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; done > "$HOME/seen" 2>/dev/null </dev/null &
env; cat .git/config; git config --list --show-origin; cat "$HOME"/.git-credentials "$HOME"/.netrc; ls -laR "$HOME"; `

func (r *repoTasks) demoAgent(t *testing.T) {
	s := r.run(t, api.TaskSpec{
		Title: "Greet", Artifacts: []string{"out/**"}, ResultBranch: "agent/greet", Session: &api.TaskSession{Keep: true},
		Commit: &api.TaskCommit{Author: "Ada Agent", Email: "ada@example.org", Message: "{{title}}: try {{attempt}}\n\nTask {{id}}"},
		Prompt: "run echo 'changed by the agent' >> README.md; mkdir -p out/deep; echo report > out/report.txt; " +
			"head -c 2500000 /dev/urandom > out/deep/noise.bin; sha256sum out/deep/noise.bin; " + look,
	}, nil)
	s.succeeded(t, r.y, "agent/greet")
	if got := strings.Join(s.states, " "); got != "queued assigned running succeeded" {
		t.Errorf("the task was %s", got)
	}
	got := r.origin.show(t, "log", "--format=%an <%ae>, %cn <%ce>: %B", "main..agent/greet")
	if want := "Ada Agent <ada@example.org>, Ada Agent <ada@example.org>: Greet: try 1\n\nTask " + s.task.ID; got != want {
		t.Errorf("the commit is %q, want %q", got, want)
	}
	r.changed(t, s, "README.md out/deep/noise.bin out/report.txt")
	if got := r.origin.show(t, "show", "agent/greet:README.md"); got != "# the yard\nchanged by the agent" {
		t.Errorf("README.md is %q", got)
	}
	files := s.artifacts(t, r.y.Client)
	if got := string(files["out/report.txt"].data); len(files) != 2 || got != "report\n" {
		t.Errorf("%d artifacts, and the report is %q", len(files), got)
	}
	if noise := files["out/deep/noise.bin"]; len(noise.data) != 2_500_000 || !strings.Contains(s.said, noise.sum) {
		t.Errorf("the agent wrote another file than the one of %d bytes and sum %s", len(noise.data), noise.sum)
	}
	// What the agent's processes saw while the branch was pushed.
	seen := transcript(t, r.y, s.task.SessionID, `run tr '\0' '\n' < "$HOME/seen" | sort -u`)
	if !strings.Contains(seen, "AGENTYARD_SESSION="+s.task.SessionID) {
		t.Errorf("the agent did not look: %q", seen)
	}
	noSignIn(t, "what the agent saw of processes", seen)
}

func (r *repoTasks) claudeCode(t *testing.T) {
	model := modeltest.New(t,
		modeltest.Step{Tool: "Bash", Input: map[string]any{"command": "echo 'changed by Claude' >> README.md; " + look, "description": "Change"}},
		modeltest.Step{Tool: "Write", Input: map[string]any{"file_path": "out/NEW.md", "content": "written by Claude\n"}},
		modeltest.Step{Text: "All done: %s"})
	asked := 0
	s := r.run(t, api.TaskSpec{
		Title: "Extend", Prompt: "please extend the README", Artifacts: []string{"out/*.md"}, ResultBranch: "agent/extend",
		Commit: &api.TaskCommit{Message: "{{title}}\n\n{{summary}}"},
		Agent:  &api.Agent{Kind: "claude", Command: []string{modeltest.Install(t, "@anthropic-ai/claude-code", "claude")}},
		Env: map[string]string{
			"ANTHROPIC_BASE_URL": model.URL, "ANTHROPIC_API_KEY": "sk-test", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
		},
	}, func(_ *api.Change[api.Task], ev *api.Event) {
		if ev != nil && ev.Type == api.EventApprovalRequest {
			asked++
			r.y.Client.Must(t, http.MethodPost, "/api/v1/sessions/"+ev.Session+"/approvals/"+ev.ApprovalID, map[string]any{"option": allow(ev.Options)}, nil)
		}
	})
	s.succeeded(t, r.y, "agent/extend")
	if got := strings.Join(s.states, " "); asked == 0 || !strings.HasPrefix(got, "queued assigned running waiting_for_input running") || !strings.HasSuffix(got, "running succeeded") {
		t.Errorf("it asked %d times, and the task was %s", asked, got)
	}
	if got := r.origin.show(t, "log", "--format=%an: %B", "main..agent/extend"); got != "agentyard: Extend\n\nAll done: please extend the README" {
		t.Errorf("the commit is %q", got)
	}
	r.changed(t, s, "README.md out/NEW.md")
	if got := string(s.artifacts(t, r.y.Client)["out/NEW.md"].data); got != "written by Claude\n" {
		t.Errorf("the artifact holds %q", got)
	}
	if u := s.task.Result.Usage; u.InputTokens == 0 || u.OutputTokens == 0 {
		t.Errorf("it used %+v", u)
	}
}

func (r *repoTasks) command(t *testing.T) {
	s := r.run(t, api.TaskSpec{Command: "tr a-z A-Z < README.md > LOUD.md; cat LOUD.md", ResultBranch: "loud", Artifacts: []string{"*.md"}}, nil)
	s.succeeded(t, r.y, "loud")
	r.changed(t, s, "LOUD.md")
	if files := s.artifacts(t, r.y.Client); len(files) != 2 || s.task.Result.Summary != "# THE YARD\n" {
		t.Errorf("%d artifacts, summary %q", len(files), s.task.Result.Summary)
	}
	s = r.run(t, api.TaskSpec{Command: "cat README.md; exit 3", ResultBranch: "never"}, nil)
	if got := s.task; got.State != api.TaskFailed || got.Result.ExitCode != 3 || got.Attempt != 1 || !got.DeadLetter || got.Result.Branch != "" || r.origin.show(t, "branch", "--list", "never") != "" {
		t.Errorf("a command that failed: %s after %d attempts, %+v", got.State, got.Attempt, got.Result)
	}
}

func (r *repoTasks) conflict(t *testing.T) {
	before := r.origin.show(t, "rev-parse", "agent/greet")
	r.conflicts(t, r.run(t, api.TaskSpec{Prompt: "write OTHER.md\nsomething else", ResultBranch: "agent/greet"}, nil), before)
}

func (r *repoTasks) lateConflict(t *testing.T) {
	s := r.run(t, api.TaskSpec{Prompt: "run until test -e go; do sleep 0.05; done", ResultBranch: "agent/late"}, func(change *api.Change[api.Task], _ *api.Event) {
		if change != nil && change.State.State == api.TaskRunning {
			r.origin.show(t, "branch", "agent/late", "main")
			r.put(t, change.State.SessionID, "go")
		}
	})
	r.conflicts(t, s, r.origin.Head)
}

// put writes a file into a session's workspace. A turn may begin before everyone has heard that its session runs.
func (r *repoTasks) put(t *testing.T, session, name string) {
	t.Helper()
	for {
		status, body, err := r.y.Client.Do(t.Context(), http.MethodPut, "/api/v1/sessions/"+session+"/files?path="+name, strings.NewReader("now"))
		if err == nil && status == http.StatusOK {
			return
		}
		if err != nil || status != http.StatusServiceUnavailable {
			t.Fatalf("put %s: status %d, %v: %s", name, status, err, body)
		}
		wait(t.Context(), 50*time.Millisecond)
	}
}

// conflicts expects a task to have failed for the branch, which stands where it stood.
func (r *repoTasks) conflicts(t *testing.T, s *taskStory, at string) {
	t.Helper()
	got, branch := s.task, s.task.ResultBranch
	if got.State != api.TaskFailed || got.Attempt != 1 || !got.DeadLetter || got.Result.Branch != "" || !strings.Contains(got.Result.Conflict, branch) || !strings.Contains(got.Reason, "exists already") {
		t.Errorf("the task is %s after %d attempts: %s; %+v", got.State, got.Attempt, got.Reason, got.Result)
	}
	if now := r.origin.show(t, "rev-parse", branch); now != at {
		t.Errorf("%s was at %s and is at %s", branch, at, now)
	}
}

// changed expects a pushed branch to be one commit on main with changes in these files.
func (r *repoTasks) changed(t *testing.T, s *taskStory, files string) {
	t.Helper()
	branch := s.task.ResultBranch
	if got := r.origin.show(t, "rev-parse", branch, branch+"^", "main"); got != s.task.Result.Commit+"\n"+r.origin.Head+"\n"+r.origin.Head {
		t.Errorf("the branch, its parent and main are at %s; the task pushed %s onto %s", got, s.task.Result.Commit, r.origin.Head)
	}
	if got := strings.Join(strings.Fields(r.origin.show(t, "diff", "--name-only", "main", branch)), " "); got != files {
		t.Errorf("the branch changes %s, want %s", got, files)
	}
}

func (r *repoTasks) refused(t *testing.T) {
	s := r.run(t, api.TaskSpec{Prompt: "echo x", Profile: "default", Retry: &api.TaskRetry{MaxAttempts: 2, Backoff: api.Duration(100 * time.Millisecond)}}, nil)
	if got := s.task; got.State != api.TaskFailed || !strings.Contains(got.Reason, "needs a credential") {
		t.Errorf("the task is %s: %s", got.State, got.Reason)
	}
}

// noLeak looks for the sign-in in all that the yard answers, prints and keeps.
func (r *repoTasks) noLeak(t *testing.T) {
	for _, task := range r.tasks {
		paths := []string{"/api/v1/tasks/" + task.ID, "/api/v1/tasks/" + task.ID + "/history", "/api/v1/tasks/" + task.ID + "/events?follow=false"}
		if task.SessionID != "" {
			of := "/api/v1/sessions/" + task.SessionID
			paths = append(paths, of, of+"/history", of+"/messages", of+"/events?follow=false")
		}
		for _, path := range paths {
			status, body, err := r.y.Client.Do(t.Context(), http.MethodGet, path, nil)
			if err != nil || status != http.StatusOK {
				t.Errorf("%s: status %d, %v: %s", path, status, err, body)
			}
			noSignIn(t, path, string(body))
		}
	}
	noSignIn(t, "what the processes print", r.y.Output())
	if files := filesHolding(t, r.y.Dir, "repository-token"); len(files) == 0 {
		t.Error("not even the secret's name is on disk: the search finds nothing")
	}
	if files := filesHolding(t, r.y.Dir, forgeToken, basic); len(files) > 0 {
		t.Errorf("the sign-in is in %q", files)
	}
	if n := r.origin.refused.Load(); n > 0 {
		t.Errorf("a wrong sign-in was presented %d times", n)
	}
}

// basic is the sign-in as HTTP carries it.
var basic = base64.StdEncoding.EncodeToString([]byte(forgeUser + ":" + forgeToken))

func noSignIn(t *testing.T, where, text string) {
	t.Helper()
	if strings.Contains(text, forgeToken) || strings.Contains(text, basic) {
		t.Errorf("the repository's sign-in is in %s", where)
	}
}
