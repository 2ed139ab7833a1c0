package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// createFlags are the flags of session create, where they are not fields of its request.
type createFlags struct {
	agent, command string
	agentArgs      []string
	env, labels    []string
	repo           api.Repository
	ttl, idle      time.Duration
	follow, noWait bool
	timeout        time.Duration
	request        api.CreateSessionRequest
}

func (a *app) sessionCreate() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create [flags] [-- AGENT-ARGUMENT…]",
		Short: "Create a session",
		Long: "Create starts a session, waits until its agent takes messages and prints its id. Arguments after\n" +
			"-- are given to the agent's command.",
		Example: "  agentyard session create --agent demo -m 'echo hello' --follow\n" +
			"  agentyard session create --agent claude --env ANTHROPIC_API_KEY \\\n" +
			"      --repo https://github.com/you/project -m 'Fix the failing test' --follow",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usage(fmt.Errorf("unexpected argument %q; give the prompt with -m", args[0]))
			}
			f.agentArgs = args
			return a.create(cmd.Context(), f)
		},
	}
	s := cmd.Flags()
	s.StringVarP(&f.request.Prompt, "message", "m", "", "first message; - reads it from standard input")
	s.StringVar(&f.agent, "agent", "", "agent to run: demo, claude, codex, opencode, gemini, goose, aider, bash, acp (any program that speaks it) or custom (any program, in a terminal) (default: the profile's)")
	s.StringVar(&f.command, "command", "", "command `line` to run in place of the agent's own (split at spaces)")
	s.StringVar(&f.request.Profile, "profile", "", "profile to start from (default \"default\")")
	s.StringVar(&f.request.Title, "title", "", "title")
	s.StringVar(&f.repo.URL, "repo", "", "Git repository to clone into the workspace")
	s.StringVar(&f.repo.Ref, "ref", "", "branch, tag or commit to check out")
	s.IntVar(&f.repo.Depth, "depth", 0, "commits to fetch; -1 for all (default 1)")
	s.StringArrayVarP(&f.env, "env", "e", nil, "`NAME` to give the agent with its value here, or NAME=VALUE; repeat for more")
	s.StringArrayVarP(&f.labels, "label", "l", nil, "label, `KEY=VALUE`; repeat for more")
	s.DurationVar(&f.ttl, "ttl", 0, "end the session after this long")
	s.DurationVar(&f.idle, "idle-timeout", 0, "put the session aside after this long without work")
	s.BoolVarP(&f.follow, "follow", "f", false, "show what happens; with -m until the message is answered")
	s.BoolVar(&f.noWait, "no-wait", false, "print the id at once, before the session runs")
	s.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait until it runs")
	_ = cmd.RegisterFlagCompletionFunc("agent", cobra.FixedCompletions(agentKinds(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) create(ctx context.Context, f createFlags) error {
	req, err := a.createRequest(f)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	req.IdempotencyKey = api.NewID(api.KindMessage) // so that a lost answer can be asked again
	s, err := client.Do(ctx, c, api.CreateSession, req)
	if err != nil {
		return err
	}
	if f.follow && a.output == "table" {
		a.hint("session %s", s.ID)
	}
	if !f.noWait {
		if s, err = a.settle(ctx, c, s, api.StateRunning, f.timeout); err != nil {
			return err
		}
	}
	switch {
	case f.follow:
		until := untilEnd
		if req.Prompt != "" {
			until = untilAnswered
		}
		return a.follow(ctx, c, s.ID, 0, until, "")
	case a.output == "json":
		return a.show(s, nil)
	}
	if _, err := fmt.Fprintln(a.Out, s.ID); err != nil {
		return err
	}
	a.hint("talk to it: agentyard session attach %s", s.ID)
	return nil
}

func (a *app) createRequest(f createFlags) (api.CreateSessionRequest, error) {
	req := f.request
	req.TTL, req.IdleTimeout = api.Duration(f.ttl), api.Duration(f.idle)
	var err error
	if req.Prompt, err = a.text(req.Prompt); err != nil {
		return req, err
	}
	if req.Env, err = a.environment(f.env); err != nil {
		return req, err
	}
	if req.Labels, err = pairs("--label", f.labels); err != nil {
		return req, err
	}
	if f.repo.URL != "" {
		req.Repository = &f.repo
	} else if f.repo.Ref != "" || f.repo.Depth != 0 {
		return req, usage(errors.New("--ref and --depth need --repo"))
	}
	command := strings.Fields(f.command)
	if f.agent == "" && len(command) > 0 {
		f.agent = "custom"
	}
	if f.agent != "" || len(f.agentArgs) > 0 {
		req.Agent = &api.Agent{Kind: f.agent, Command: command, Args: f.agentArgs}
	}
	return req, nil
}

// environment resolves NAME and NAME=VALUE. A NAME takes its value from here, so that a
// secret need not stand in the shell's history.
func (a *app) environment(vars []string) (map[string]string, error) {
	env := map[string]string{}
	for _, v := range vars {
		name, value, given := strings.Cut(v, "=")
		if name == "" {
			return nil, usage(fmt.Errorf("--env %q: want NAME or NAME=VALUE", v))
		}
		if !given {
			if value = a.Getenv(name); value == "" {
				return nil, usage(fmt.Errorf("--env %s: it is not set here", name))
			}
		}
		env[name] = value
	}
	return env, nil
}

func pairs(flag string, items []string) (map[string]string, error) {
	m := map[string]string{}
	for _, item := range items {
		k, v, ok := strings.Cut(item, "=")
		if !ok || k == "" {
			return nil, usage(fmt.Errorf("%s %q: want KEY=VALUE", flag, item))
		}
		m[k] = v
	}
	return m, nil
}

// errEnded says that a session ended before it came to the wanted state.
type errEnded struct{ s api.Session }

func (e errEnded) Error() string {
	return fmt.Sprintf("session %s is %s: %s", e.s.ID, e.s.State, or(e.s.Reason, "no reason given"))
}

// settle waits until the session is in state goal, and shows its progress on a terminal.
func (a *app) settle(ctx context.Context, c *client.Client, s api.Session, goal api.State, timeout time.Duration) (api.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := a.progress()
	defer p.clear()
	// It costs the server one look into its memory. A demo session runs within 50 ms, a clone takes minutes.
	step := 10 * time.Millisecond
	for {
		switch {
		case s.State == goal:
			return s, nil
		case s.State.Final():
			return s, errEnded{s}
		}
		p.say("%s %s", s.ID, strings.TrimSpace(string(s.State)+"  "+s.Reason))
		select {
		case <-time.After(step):
			step = min(step*3/2, 250*time.Millisecond)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return s, fmt.Errorf("session %s is still %s after %v: %w", s.ID, s.State, timeout, ctx.Err())
			}
			return s, ctx.Err()
		}
		now, err := client.Do(ctx, c, api.GetSession, api.SessionRef{ID: s.ID})
		if err != nil && ctx.Err() == nil {
			return s, err
		}
		if err == nil {
			s = now
		}
	}
}
