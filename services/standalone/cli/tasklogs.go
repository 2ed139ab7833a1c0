package cli

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) taskLogs() *cobra.Command {
	var follow bool
	var attempt int
	cmd := a.onTask("logs ID", "Show what a task's agent did, or its command", func(ctx context.Context, c *client.Client, args []string) error {
		t, err := client.Do(ctx, c, api.GetTask, api.TaskRef{ID: args[0]})
		if err != nil {
			return err
		}
		l := taskLog{a: a, r: a.renderer(), from: t.Attempt, to: t.Attempt, follow: follow && attempt == 0 && !t.State.Final()}
		switch {
		case attempt != 0 && !slices.ContainsFunc(t.Attempts, func(at api.TaskAttempt) bool { return at.Attempt == attempt }):
			return usage(fmt.Errorf("the task has no attempt %d that it remembers", attempt))
		case attempt != 0:
			l.from, l.to = attempt, attempt
		case l.follow:
			l.to = math.MaxInt
		}
		return l.show(ctx, c, t)
	})
	cmd.Long = "Logs shows the task's own part of its session's log: what else the session was used for is in\n" +
		"agentyard session logs."
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the task ends, attempt after attempt")
	cmd.Flags().IntVar(&attempt, "attempt", 0, "of this attempt rather than the last")
	return cmd
}

// taskLog shows what happens in some of a task's attempts.
type taskLog struct {
	a        *app
	r        *renderer
	from, to int // attempts
	follow   bool

	now   api.Task // as of the newest change
	shown bool
}

func (l *taskLog) show(ctx context.Context, c *client.Client, t api.Task) error {
	l.now = t
	err := c.TaskEvents(ctx, client.TaskEventsConfig{
		Task: t.ID, Follow: l.follow,
		Lost: func(err error) { l.a.hint("connection lost (%s), reconnecting", line(err.Error())) },
	}, l.take)
	if lineErr := l.r.endLine(); lineErr != nil && err == nil {
		err = lineErr
	}
	if err == nil && (l.follow || !l.shown) {
		if !l.follow {
			l.now = t // and so what it waits for
		}
		l.a.hint("the task is %s", standing(l.now))
	}
	return err
}

func (l *taskLog) take(change *api.Change[api.Task], ev *api.Event) error {
	if change != nil {
		l.now = change.State
		if n := len(l.now.Attempts); l.follow && l.now.RetryAt != nil && n > 0 && l.now.Attempt >= l.from {
			last := l.now.Attempts[n-1]
			l.a.hint("attempt %d: %s: %s; the next is at %s", last.Attempt, last.Outcome, line(last.Reason), stamp(l.now.RetryAt))
		}
		return nil
	}
	if l.now.Attempt < l.from || l.now.Attempt > l.to {
		return nil
	}
	l.shown = true
	if err := l.r.event(*ev); err != nil {
		return err
	}
	if l.follow && ev.Type == api.EventApprovalRequest {
		l.a.hint("answer it: agentyard session approve %s OPTION", l.now.SessionID)
	}
	return nil
}
