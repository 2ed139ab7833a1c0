package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// until says when following a session is over.
type until int

const (
	untilHead     until = iota // everything there is now
	untilAnswered              // the turn of one message has ended
	untilEnd                   // the session has ended
)

func (a *app) sessionLogs() *cobra.Command {
	var follow bool
	var after uint64
	cmd := a.onSession("logs ID", "Show what happened in a session", func(ctx context.Context, c *client.Client, args []string) error {
		if follow {
			return a.follow(ctx, c, args[0], after, untilEnd, "")
		}
		return a.follow(ctx, c, args[0], after, untilHead, "")
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the session ends")
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after this sequence `number` (an event's seq)")
	return cmd
}

func (a *app) sessionSend() *cobra.Command {
	var follow bool
	var files []string
	cmd := a.onSession("send ID TEXT", "Send a message to a session's agent", func(ctx context.Context, c *client.Client, args []string) error {
		text, err := a.text(args[1])
		if err != nil {
			return err
		}
		req := api.SendMessageRequest{ID: args[0], Content: text, IdempotencyKey: api.NewID(api.KindMessage)}
		for _, path := range files {
			f, err := attachment(path)
			if err != nil {
				return err
			}
			req.Attachments = append(req.Attachments, f)
		}
		sent, err := client.Do(ctx, c, api.SendMessage, req)
		if err != nil {
			return err
		}
		if follow {
			return a.follow(ctx, c, args[0], sent.Seq, untilAnswered, sent.ID)
		}
		if a.output == "json" {
			return a.show(sent, nil)
		}
		_, err = fmt.Fprintln(a.Out, sent.ID)
		return err
	})
	cmd.Long = "Send prints the id of the accepted message; it waits in a queue while the agent works. A TEXT of -\n" +
		"is read from standard input."
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show what happens until the message is answered")
	cmd.Flags().StringArrayVar(&files, "attach", nil, "`file` to send along; repeat for more")
	return cmd
}

// maxText is the longest message that the server takes.
const maxText = 1 << 20

// text returns arg, or what standard input holds when arg is "-".
func (a *app) text(arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	data, err := io.ReadAll(io.LimitReader(a.In, maxText+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the message: %w", err)
	case len(data) > maxText:
		return "", usage(errors.New("a message is at most 1 MiB"))
	}
	return strings.TrimRight(string(data), "\n"), nil
}

// errDone ends the following of events when what was waited for has come.
var errDone = errors.New("done")

// follow shows the events of a session after sequence after. With untilAnswered, message is the user message
// whose answer ends it; "" is the first one that comes.
func (a *app) follow(ctx context.Context, c *client.Client, session string, after uint64, end until, message string) error {
	r := a.renderer()
	r.quiet = end == untilAnswered
	var failed error
	err := c.Events(ctx, client.EventsConfig{
		Session: session, After: after, Follow: end != untilHead,
		Lost: func(err error) { a.hint("connection lost (%s), reconnecting", line(err.Error())) },
	}, func(ev api.Event) error {
		if err := r.event(ev); err != nil {
			return err
		}
		switch {
		case ev.Type == api.EventUserMessage && message == "":
			message = ev.MessageID
		case ev.Type == api.EventApprovalRequest && end == untilAnswered:
			a.hint("answer it: agentyard session approve %s OPTION", session)
		case ev.Type == api.EventError && end == untilAnswered && ev.ReplyTo == message && message != "":
			failed = silent(exitError) // the turn ends with its status event
		case ev.Type != api.EventStatus:
		case end != untilHead && ev.State == api.StateFailed:
			failed = silent(exitError)
			return errDone
		case end != untilHead && ev.State.Final(),
			end == untilAnswered && ev.ReplyTo == message && message != "" && ev.Activity == api.ActivityIdle:
			return errDone
		}
		return nil
	})
	if lineErr := r.endLine(); lineErr != nil && err == nil {
		err = lineErr
	}
	if err != nil && !errors.Is(err, errDone) {
		return err
	}
	return failed
}
