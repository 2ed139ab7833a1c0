package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) sessionApprove() *cobra.Command {
	cmd := a.onSession("approve ID", "Answer an agent's question, or list those that wait", func(ctx context.Context, c *client.Client, args []string) error {
		open, err := openApprovals(ctx, c, args[0])
		if err != nil {
			return err
		}
		var approval, option string
		switch len(args) {
		case 1:
			return a.show(open, func(t *table) {
				t.row("APPROVAL", "OPTIONS", "QUESTION")
				for _, ev := range open {
					t.row(ev.ApprovalID, options(ev.Options), shorten(ev.Title, 80))
				}
			})
		case 2:
			if len(open) == 0 {
				return api.Errorf(api.CodeConflict, "no question of the session's agent waits for an answer")
			}
			if len(open) > 1 {
				return usage(fmt.Errorf("%d questions wait for an answer: name one, 'agentyard session approve %s APPROVAL OPTION'", len(open), args[0]))
			}
			approval, option = open[0].ApprovalID, args[1]
		case 3:
			approval, option = args[1], args[2]
		}
		for _, ev := range open {
			if ev.ApprovalID != approval {
				continue
			}
			typed := option
			if option = matchOption(ev.Options, typed); !offers(ev, option) {
				return usage(fmt.Errorf("%q is none of the answers: %s", typed, options(ev.Options)))
			}
		}
		_, err = client.Do(ctx, c, api.AnswerApproval, api.AnswerApprovalRequest{ID: args[0], ApprovalID: approval, Option: option})
		return err
	})
	cmd.Use = "approve ID [[APPROVAL] OPTION]"
	cmd.Args = cobra.RangeArgs(1, 3)
	return cmd
}

// openApprovals reads the session's questions that have no answer yet, oldest first.
func openApprovals(ctx context.Context, c *client.Client, session string) ([]api.Event, error) {
	open := []api.Event{}
	err := c.Events(ctx, client.EventsConfig{Session: session}, func(ev api.Event) error {
		switch ev.Type {
		case api.EventApprovalRequest:
			open = append(open, ev)
		case api.EventApprovalAnswer:
			open = slices.DeleteFunc(open, func(o api.Event) bool { return o.ApprovalID == ev.ApprovalID && offers(o, ev.Option) }) // the agent goes on waiting after any other
		case api.EventStatus:
			// A turn that ended, or an agent that started anew, no longer asks.
			if ev.Activity == api.ActivityIdle || ev.State != "" && ev.State != api.StateRunning {
				open = open[:0]
			}
		}
		return nil
	})
	return open, err
}

// offers reports whether option is one of the answers to a question.
func offers(question api.Event, option string) bool {
	return slices.ContainsFunc(question.Options, func(o api.ApprovalOption) bool { return o.Option == option })
}

// matchOption resolves what a person typed: an option by its name, or y and n by what the
// options allow. Anything else stays as it was typed.
func matchOption(opts []api.ApprovalOption, typed string) string {
	for _, o := range opts {
		if o.Option == typed {
			return typed
		}
	}
	want := map[string][]string{
		"y": {"allow_once", "yes", "allow"}, "yes": {"allow_once", "yes", "allow"},
		"n": {"reject_once", "no", "reject", "deny"}, "no": {"reject_once", "no", "reject", "deny"},
	}[typed]
	for _, w := range want {
		for _, o := range opts {
			if o.Kind == w || o.Option == w {
				return o.Option
			}
		}
	}
	return typed
}
