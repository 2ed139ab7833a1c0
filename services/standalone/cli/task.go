package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) task() *cobra.Command {
	return group("task", "Queue work for agents, watch it, get its result", []string{"tasks", "t"},
		a.taskCreate(), a.taskBatch(), a.taskList(), a.taskShow(), a.taskHistory(), a.taskLogs(), a.taskWait(), a.taskCancel(), a.taskRetry(),
		a.taskArtifacts(), a.taskDownload())
}

// onTask returns a command whose first argument is a task's id.
func (a *app) onTask(use, short string, run func(context.Context, *client.Client, []string) error) *cobra.Command {
	least := len(strings.Fields(use)) - 1
	return a.command(use, short, cobra.ExactArgs(least), func(cmd *cobra.Command, c *client.Client, args []string) error {
		if !api.ValidID(api.KindTask, args[0]) {
			return usage(fmt.Errorf("%q is not a task's id", args[0]))
		}
		return run(cmd.Context(), c, args)
	})
}

func (a *app) taskCreate() *cobra.Command {
	var spec taskFlags
	var wait bool
	cmd := a.command("create [PROMPT]", "Queue a task: a prompt for an agent, or a command", cobra.MaximumNArgs(1), nil)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := spec.request(a, args)
		if err != nil {
			return err
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		t, err := client.Do(cmd.Context(), c, api.CreateTask, req)
		if err != nil {
			return err
		}
		if wait {
			return a.awaitTask(cmd.Context(), c, t.ID)
		}
		if a.output == "json" {
			return a.show(t, nil)
		}
		_, err = fmt.Fprintln(a.Out, t.ID)
		return err
	}
	cmd.Long = "Create prints the task's id. With --wait it shows the result when the task has ended, and exits with\n" +
		"the command's exit status, or with 1 when a task of an agent did not succeed. A PROMPT of - is read from standard input."
	spec.register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the task has ended; exit with its exit status")
	return cmd
}

// taskFlags are the flags of task create.
type taskFlags struct {
	spec              api.TaskSpec
	priority          int
	agent, repository string
	ref, deadline     string
	attempts          int
	onFailure         bool
	timeout           time.Duration
	env, labels       []string
	reuse             string
	keep, own         bool
	parents           string

	depth               int
	notBefore           string
	backoff, maxBackoff time.Duration
	commit              api.TaskCommit
	notify              []string
}

func (t *taskFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&t.spec.Command, "command", "c", "", "run this `command` with sh in the workspace, rather than an agent")
	f.StringVar(&t.spec.Title, "title", "", "what it is called")
	f.StringVar(&t.spec.Queue, "queue", "", "the queue (default \"default\")")
	f.StringVar(&t.spec.Profile, "profile", "", "the profile of its session")
	f.StringVar(&t.agent, "agent", "", "the `kind` of agent, instead of the profile's")
	f.StringVar(&t.repository, "repo", "", "clone this Git `URL` into the workspace")
	f.StringVar(&t.ref, "ref", "", "the branch, tag or commit to clone")
	f.IntVar(&t.priority, "priority", api.DefaultPriority, "0 to 9; 9 runs first")
	f.DurationVar(&t.timeout, "timeout", 0, "of one attempt")
	f.StringVar(&t.deadline, "deadline", "", "expire at this `time`: RFC 3339, or a duration from now")
	f.IntVar(&t.attempts, "attempts", 0, "how often it is tried at most (default 3)")
	f.BoolVar(&t.onFailure, "retry-on-failure", false, "try again, too, after a command that failed")
	f.StringArrayVar(&t.spec.DependsOn, "after", nil, "start when this task has succeeded; repeat for more")
	f.StringVar(&t.parents, "on-parent-failure", "", "when one of those has not: fail, cancel or run")
	f.StringVar(&t.spec.ConcurrencyKey, "key", "", "run only so many tasks with this concurrency key at once")
	f.StringVar(&t.spec.RateKey, "rate-key", "", "start only so many tasks with this key in a time")
	f.StringArrayVarP(&t.env, "env", "e", nil, "environment `NAME=VALUE` of its session; repeat for more")
	f.StringArrayVarP(&t.labels, "label", "l", nil, "`KEY=VALUE`; repeat for more")
	f.StringArrayVar(&t.spec.Artifacts, "artifact", nil, "keep the workspace's files that match this `pattern`; repeat for more")
	f.StringVar(&t.spec.ResultBranch, "branch", "", "push what has changed to this new branch")
	f.StringVar(&t.reuse, "session", "", "run in this `session` of yours instead of a new one")
	f.BoolVar(&t.keep, "keep", false, "leave the task's session running")
	f.BoolVar(&t.own, "own-session", false, "in a session that no other task had or gets, whatever the queue says")
	f.IntVar(&t.depth, "depth", 0, "commits of history to clone; -1: all (default 1)")
	f.StringVar(&t.notBefore, "not-before", "", "start at this `time` at the earliest: RFC 3339, or a duration from now")
	f.DurationVar(&t.backoff, "backoff", 0, "wait so long before the second attempt, then twice as long each time (default 5s)")
	f.DurationVar(&t.maxBackoff, "max-backoff", 0, "but never longer than this (default 5m)")
	f.StringVar(&t.commit.Author, "commit-author", "", "who commits the branch's changes")
	f.StringVar(&t.commit.Email, "commit-email", "", "and their address")
	f.StringVar(&t.commit.Message, "commit-message", "", "`template`; {{id}}, {{title}}, {{attempt}} and {{summary}} stand for the task's")
	f.StringArrayVar(&t.notify, "notify", nil, "`webhook` to tell of the task's end, or WEBHOOK=STATE,STATE of these states; repeat for more")
}

// more fills in what few tasks have.
func (t *taskFlags) more(spec *api.TaskSpec) error {
	if t.depth != 0 {
		if spec.Repository == nil {
			return usage(fmt.Errorf("--depth is of --repo"))
		}
		spec.Repository.Depth = t.depth
	}
	if t.backoff != 0 || t.maxBackoff != 0 {
		if spec.Retry == nil {
			spec.Retry = &api.TaskRetry{}
		}
		spec.Retry.Backoff, spec.Retry.MaxBackoff = api.Duration(t.backoff), api.Duration(t.maxBackoff)
	}
	if t.notBefore != "" {
		at, err := moment(t.notBefore)
		if err != nil {
			return usage(err)
		}
		spec.NotBefore = &at
	}
	if t.commit != (api.TaskCommit{}) {
		commit := t.commit
		spec.Commit = &commit
	}
	for _, text := range t.notify {
		name, states, _ := strings.Cut(text, "=")
		n := api.TaskNotify{Webhook: name}
		for state := range strings.SplitSeq(states, ",") {
			if state != "" {
				n.On = append(n.On, api.TaskState(state))
			}
		}
		spec.Notify = append(spec.Notify, n)
	}
	return nil
}

func (t *taskFlags) request(a *app, args []string) (api.CreateTaskRequest, error) {
	spec := t.spec
	if len(args) == 1 {
		text, err := a.text(args[0])
		if err != nil {
			return api.CreateTaskRequest{}, err
		}
		spec.Prompt = text
	}
	if (spec.Prompt == "") == (spec.Command == "") {
		return api.CreateTaskRequest{}, usage(fmt.Errorf("give either a prompt or --command"))
	}
	spec.Priority, spec.Timeout, spec.OnFailure = &t.priority, api.Duration(t.timeout), api.ParentFailure(t.parents)
	if t.agent != "" {
		spec.Agent = &api.Agent{Kind: t.agent}
	}
	if t.repository != "" {
		spec.Repository = &api.Repository{URL: t.repository, Ref: t.ref}
	}
	if t.attempts != 0 || t.onFailure {
		spec.Retry = &api.TaskRetry{MaxAttempts: t.attempts, OnFailure: t.onFailure}
	}
	if t.reuse != "" || t.keep || t.own {
		spec.Session = &api.TaskSession{Reuse: t.reuse, Keep: t.keep, Own: t.own}
	}
	if err := t.more(&spec); err != nil {
		return api.CreateTaskRequest{}, err
	}
	if t.deadline != "" {
		at, err := moment(t.deadline)
		if err != nil {
			return api.CreateTaskRequest{}, usage(err)
		}
		spec.Deadline = &at
	}
	var err error
	if spec.Env, err = assignments("--env", t.env); err != nil {
		return api.CreateTaskRequest{}, err
	}
	if spec.Labels, err = assignments("--label", t.labels); err != nil {
		return api.CreateTaskRequest{}, err
	}
	return api.CreateTaskRequest{TaskSpec: spec, IdempotencyKey: api.NewID(api.KindTask)}, nil
}

// moment reads a time, or a duration from now.
func moment(text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("%q is neither a time such as 2026-03-01T12:00:00Z nor a duration such as 2h", text)
	}
	return at, nil
}

// assignments reads NAME=VALUE arguments.
func assignments(flag string, list []string) (map[string]string, error) {
	var out map[string]string
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usage(fmt.Errorf("%s %q: want NAME=VALUE", flag, text))
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out, nil
}

func (a *app) taskList() *cobra.Command {
	var req api.ListTasksRequest
	var state string
	cmd := a.command("list", "List tasks, newest first", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		req.State = api.TaskState(state)
		page, err := client.Do(cmd.Context(), c, api.ListTasks, req)
		if err != nil {
			return err
		}
		return a.showTasks(page)
	})
	cmd.Aliases = []string{"ls"}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only tasks in this state")
	f.StringVar(&req.Queue, "queue", "", "only tasks of this queue")
	f.StringVar(&req.Owner, "owner", "", "only this principal's tasks")
	f.StringVar(&req.Schedule, "schedule", "", "only tasks of this schedule")
	f.StringArrayVarP(&req.Label, "label", "l", nil, "only tasks with this label, `KEY=VALUE`; repeat to demand several")
	f.StringVarP(&req.Query, "query", "q", "", "only tasks with this text in their title, name or id")
	listFlags(cmd, &req.List)
	return cmd
}

func (a *app) showTasks(page api.Page[api.Task]) error {
	return a.show(page, func(t *table) {
		t.row("ID", "STATE", "PRIORITY", "CREATED", "TITLE")
		now := time.Now()
		for _, task := range page.Items {
			t.row(task.ID, standing(task), priority(task), ago(now, task.CreatedAt), shorten(or(task.Title, or(task.Command, task.Prompt)), 60))
		}
		a.more(page.NextCursor)
	})
}

func priority(t api.Task) string {
	if t.Priority == nil {
		return ""
	}
	return strconv.Itoa(*t.Priority)
}

// standing is a task's state and, of one that waits, what for.
func standing(t api.Task) string {
	text := string(t.State)
	if t.WaitReason != "" {
		text += " (" + string(t.WaitReason)
		if t.Position > 0 {
			text += ", place " + strconv.Itoa(t.Position)
		}
		text += ")"
	}
	return text
}

func (a *app) taskShow() *cobra.Command {
	return a.onTask("show ID", "Show a task: where it stands, why it waits, what it left", func(ctx context.Context, c *client.Client, args []string) error {
		t, err := client.Do(ctx, c, api.GetTask, api.TaskRef{ID: args[0]})
		if err != nil {
			return err
		}
		return a.showTask(t)
	})
}

func (a *app) showTask(task api.Task) error {
	return a.show(task, func(t *table) {
		t.row("id", task.ID)
		t.field("title", task.Title)
		t.field("state", standing(task))
		t.field("reason", task.Reason)
		t.field("queue", task.Queue)
		t.field("priority", priority(task))
		t.field("session", task.SessionID)
		if task.Attempt > 0 {
			t.field("attempt", strconv.Itoa(task.Attempt))
		}
		t.field("depends on", strings.Join(task.DependsOn, ", "))
		t.field("owner", task.Owner)
		t.field("created", stamp(&task.CreatedAt))
		t.field("started", stamp(task.StartedAt))
		t.field("ended", stamp(task.EndedAt))
		if r := task.Result; r != nil {
			t.field("exit status", strconv.Itoa(r.ExitCode))
			t.field("branch", strings.TrimSpace(r.Branch+" "+r.Commit))
			t.field("conflict", r.Conflict)
			for _, f := range r.Artifacts {
				t.field("artifact", fmt.Sprintf("%s (%d bytes)", f.Path, f.Size))
			}
			for _, p := range r.Problems {
				t.field("problem", p)
			}
			t.field("summary", shorten(line(r.Summary), 200))
		}
		if u := task.Usage; u.InputTokens > 0 || u.OutputTokens > 0 {
			text := fmt.Sprintf("%d tokens in, %d out", u.InputTokens, u.OutputTokens)
			if u.CostUSD != nil {
				text += fmt.Sprintf(", $%.4f", *u.CostUSD)
			}
			t.row("used", text)
		}
		for _, at := range task.Attempts {
			if at.Outcome != "" && len(task.Attempts) > 1 {
				t.row(fmt.Sprintf("attempt %d", at.Attempt), strings.TrimSpace(at.Outcome+" in "+at.Session+" "+at.Reason))
			}
		}
	})
}

func (a *app) taskWait() *cobra.Command {
	cmd := a.onTask("wait ID", "Wait until a task has ended; exit with its exit status", func(ctx context.Context, c *client.Client, args []string) error {
		return a.awaitTask(ctx, c, args[0])
	})
	return cmd
}

// awaitTask shows a task when it has ended and returns its exit status.
func (a *app) awaitTask(ctx context.Context, c *client.Client, id string) error {
	for {
		t, err := client.Do(ctx, c, api.WaitTask, api.WaitTaskRequest{ID: id})
		if err != nil {
			return err
		}
		if !t.State.Final() {
			continue
		}
		if err := a.showTask(t); err != nil {
			return err
		}
		switch {
		case t.Result != nil && t.Result.ExitCode != 0:
			return silent(t.Result.ExitCode)
		case t.State != api.TaskSucceeded:
			return silent(exitError)
		}
		return nil
	}
}

func (a *app) taskCancel() *cobra.Command {
	var reason string
	cmd := a.onTask("cancel ID", "Cancel a task: its agent is interrupted, then stopped", func(ctx context.Context, c *client.Client, args []string) error {
		return a.toldTask(client.Do(ctx, c, api.CancelTask, api.CancelTaskRequest{ID: args[0], Reason: reason}))
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever looks at it later")
	return cmd
}

func (a *app) taskRetry() *cobra.Command {
	return a.onTask("retry ID", "Queue a task that has ended once more", func(ctx context.Context, c *client.Client, args []string) error {
		return a.toldTask(client.Do(ctx, c, api.RetryTask, api.TaskRef{ID: args[0]}))
	})
}

// toldTask says in a line where a task stands.
func (a *app) toldTask(t api.Task, err error) error {
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.show(t, nil)
	}
	text := standing(t)
	if t.CancelRequested && !t.State.Final() {
		text += ", being cancelled"
	}
	_, err = fmt.Fprintf(a.Out, "%s is %s\n", t.ID, text)
	return err
}
