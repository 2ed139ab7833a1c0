package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) session() *cobra.Command {
	return group("session", "Create sessions, talk to them, watch them", []string{"sessions", "s"},
		a.sessionCreate(), a.sessionList(), a.sessionShow(), a.sessionHistory(),
		a.sessionSend(), a.sessionLogs(), a.sessionAttach(), a.sessionApprove(), a.sessionFiles(),
		a.sessionVerb("pause", "Put a session aside; its workspace and conversation stay", api.PauseSession, api.StatePaused),
		a.sessionVerb("resume", "Bring a paused session back", api.ResumeSession, api.StateRunning),
		a.sessionVerb("stop", "Stop a session for good", api.DeleteSession, api.StateTerminated),
		a.sessionInterrupt(),
	)
}

func (a *app) sessionList() *cobra.Command {
	var req api.ListSessionsRequest
	var state string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List sessions, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			req.State = api.State(state)
			page, err := client.Do(cmd.Context(), c, api.ListSessions, req)
			if err != nil {
				return err
			}
			return a.show(page, func(t *table) {
				t.row("ID", "STATE", "AGENT", "ACTIVE", "TITLE")
				now := time.Now()
				for _, s := range page.Items {
					t.row(s.ID, phase(s), s.Agent.Kind, ago(now, s.LastActiveAt), shorten(s.Title, 60))
				}
				a.more(page.NextCursor)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only sessions in this state")
	f.StringVar(&req.Owner, "owner", "", "only this principal's sessions")
	f.StringArrayVarP(&req.Label, "label", "l", nil, "only sessions with this label, `KEY=VALUE`; repeat to demand several")
	f.StringVarP(&req.Query, "query", "q", "", "only sessions with this text in their title or id")
	listFlags(cmd, &req.List)
	return cmd
}

// listFlags adds the flags that page through a list.
func listFlags(cmd *cobra.Command, l *api.List) {
	cmd.Flags().IntVar(&l.Limit, "limit", 0, "how many, 1 to 500 (default 50)")
	cmd.Flags().StringVar(&l.Cursor, "cursor", "", "continue an earlier list at its next_cursor")
}

// more says that a list goes on.
func (a *app) more(cursor string) {
	if cursor != "" {
		a.hint("there are more: --cursor %s", cursor)
	}
}

// phase is a session's state and activity in a word or two.
func phase(s api.Session) string {
	if s.State == api.StateRunning && s.Activity != "" && s.Activity != api.ActivityIdle {
		return string(s.Activity)
	}
	return string(s.State)
}

func (a *app) sessionShow() *cobra.Command {
	return a.onSession("show ID", "Show a session", func(ctx context.Context, c *client.Client, args []string) error {
		s, err := client.Do(ctx, c, api.GetSession, api.SessionRef{ID: args[0]})
		if err != nil {
			return err
		}
		return a.showSession(s)
	})
}

func (a *app) showSession(s api.Session) error {
	return a.show(s, func(t *table) {
		t.row("id", s.ID)
		t.field("title", s.Title)
		t.field("state", string(s.State))
		t.field("activity", string(s.Activity))
		t.field("reason", s.Reason)
		t.field("agent", strings.TrimSpace(s.Agent.Kind+" "+s.Agent.Version))
		t.field("profile", s.Profile)
		if r := s.Repository; r != nil {
			t.field("repository", strings.TrimSpace(r.URL+" "+r.Ref))
		}
		t.field("isolation", or(strings.Join(s.Isolation, ", "), "none"))
		t.field("runtime", strings.TrimSpace(s.Runtime+" "+s.Node))
		for k, v := range s.Labels {
			t.field("label", k+"="+v)
		}
		t.field("owner", s.Owner)
		t.field("created", stamp(&s.CreatedAt))
		t.field("started", stamp(s.StartedAt))
		t.field("ended", stamp(s.EndedAt))
		t.field("tokens", fmt.Sprintf("%d in, %d out", s.Usage.InputTokens, s.Usage.OutputTokens))
		if s.Usage.CostUSD != nil {
			t.field("cost", fmt.Sprintf("$%.4f", *s.Usage.CostUSD))
		}
	})
}

func (a *app) sessionHistory() *cobra.Command {
	var list api.List
	cmd := a.onSession("history ID", "List every change of a session, oldest first", func(ctx context.Context, c *client.Client, args []string) error {
		page, err := client.Do(ctx, c, api.SessionHistory, api.HistoryRequest{ID: args[0], List: list})
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("REV", "AT", "VERB", "STATE", "ACTOR", "REASON")
			for _, ch := range page.Items {
				t.row(strconv.FormatUint(ch.Rev, 10), stamp(&ch.At), ch.Verb, string(ch.State.State), ch.Actor, ch.Reason)
			}
			a.more(page.NextCursor)
		})
	})
	listFlags(cmd, &list)
	return cmd
}

// sessionVerb is a command that moves a session to another state.
func (a *app) sessionVerb(verb, short string, op api.Op[api.SessionRef, api.Session], goal api.State) *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := a.onSession(verb+" ID", short, func(ctx context.Context, c *client.Client, args []string) error {
		s, err := client.Do(ctx, c, op, api.SessionRef{ID: args[0]})
		if err == nil && wait {
			s, err = a.settle(ctx, c, s, goal, timeout)
		}
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.show(s, nil)
		}
		_, err = fmt.Fprintf(a.Out, "%s is %s\n", s.ID, s.State)
		return err
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is "+string(goal))
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long --wait waits")
	return cmd
}

func (a *app) sessionInterrupt() *cobra.Command {
	return a.onSession("interrupt ID", "Interrupt what the agent does", func(ctx context.Context, c *client.Client, args []string) error {
		_, err := client.Do(ctx, c, api.InterruptSession, api.SessionRef{ID: args[0]})
		return err
	})
}

// onSession returns a command whose first argument is a session's id.
func (a *app) onSession(use, short string, run func(context.Context, *client.Client, []string) error) *cobra.Command {
	least := len(strings.Fields(use)) - 1
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(least), ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !api.ValidID(api.KindSession, args[0]) {
				return usage(fmt.Errorf("%q is not a session's id", args[0]))
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, args)
		},
	}
}

// completeSession completes a session's id from the caller's newest sessions.
func (a *app) completeSession(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second) // a shell waits for it
	defer cancel()
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	page, err := client.Do(ctx, c, api.ListSessions, api.ListSessionsRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, s := range page.Items {
		ids = append(ids, s.ID+"\t"+line(phase(s)+" "+shorten(s.Title, 40)))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// attachment reads a file to send with a message.
func attachment(path string) (api.Attachment, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return api.Attachment{}, fmt.Errorf("read the attachment: %w", err)
	}
	return api.Attachment{Name: filepath.Base(path), Data: data}, nil
}
