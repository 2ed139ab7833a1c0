package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) sessionAttach() *cobra.Command {
	var after uint64
	cmd := a.onSession("attach ID", "Talk to a session: read along, type messages, answer questions", func(ctx context.Context, c *client.Client, args []string) error {
		s, err := client.Do(ctx, c, api.GetSession, api.SessionRef{ID: args[0]})
		if err != nil {
			return err
		}
		t := &talk{
			app: a, render: a.renderer(), session: s.ID,
			line: c.Attach(client.EventsConfig{
				Session: s.ID, After: after, Follow: true,
				Lost: func(err error) { a.hint("connection lost (%s), reconnecting", line(err.Error())) },
			}),
		}
		a.hint("%s, %s. Ctrl-C interrupts the agent, Ctrl-D detaches; the session goes on", s.ID, phase(s))
		return t.run(ctx)
	})
	cmd.Long = "Attach shows the session from its beginning and sends each line that you type. When the agent asks, y and n\n" +
		"answer with what it offers, and so does an option's name. A line that ends with a backslash goes on in\n" +
		"the next one. Ctrl-C interrupts the agent; twice in a row it detaches. Ctrl-D detaches."
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after this sequence `number`")
	return cmd
}

// talk is a person at a terminal, attached to a session.
type talk struct {
	*app
	render  *renderer
	session string
	line    *client.Attachment

	mu       sync.Mutex
	approval *api.Event // the newest question without an answer
	working  bool
	asking   bool   // a message is on its way
	said     string // the newest message that was accepted
	answered string // the newest message whose turn ended
	leaving  bool   // the input has ended: detach when said is answered
}

// run returns when the person detaches or the session ends.
func (t *talk) run(ctx context.Context) error {
	ctx, detach := context.WithCancelCause(ctx)
	defer detach(nil)
	// Standard input cannot be given a deadline: its reader may outlive run, and ends with the process.
	go t.read(ctx, detach)
	stop := t.interrupts(ctx, detach)
	defer stop()
	err := t.line.Run(ctx, t.event)
	if lineErr := t.render.endLine(); err == nil {
		err = lineErr
	}
	if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && errors.Is(cause, errDone) {
		return nil
	} else if errors.Is(err, context.Canceled) && cause != nil {
		return cause
	}
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

func (t *talk) event(ev api.Event) error {
	t.mu.Lock()
	switch ev.Type {
	case api.EventApprovalRequest:
		t.approval = &ev
	case api.EventApprovalAnswer:
		if t.approval != nil && t.approval.ApprovalID == ev.ApprovalID {
			t.approval = nil
		}
	case api.EventStatus:
		t.working = ev.Activity == api.ActivityWorking || ev.Activity == api.ActivityApproval
		if !t.working {
			t.approval = nil
		}
		if ev.ReplyTo != "" && ev.Activity == api.ActivityIdle {
			t.answered = ev.ReplyTo
		}
	}
	leave := t.leaving && t.answered == t.said
	t.mu.Unlock()
	if err := t.render.event(ev); err != nil {
		return err
	}
	if leave || ev.Type == api.EventStatus && ev.State.Final() {
		return errDone
	}
	return nil
}

// read sends what the person types, until the input ends.
func (t *talk) read(ctx context.Context, detach context.CancelCauseFunc) {
	in := bufio.NewReader(t.In)
	var message strings.Builder
	for ctx.Err() == nil {
		text, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			detach(fmt.Errorf("read the input: %w", err))
			return
		}
		text = strings.TrimRight(text, "\r\n")
		if more, ok := strings.CutSuffix(text, `\`); ok && err == nil {
			message.WriteString(more + "\n")
			continue
		}
		message.WriteString(text)
		if said := message.String(); strings.TrimSpace(said) != "" {
			if err := t.say(ctx, said); err != nil && ctx.Err() == nil {
				fmt.Fprintf(t.Err, "agentyard: %s\n", line(err.Error()))
			}
		}
		message.Reset()
		if err != nil {
			t.leave(detach)
			return
		}
	}
}

// leave detaches at the input's end: a person wants to go at once, a script has asked and waits for the answer.
func (t *talk) leave(detach context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving = true
	if tty(t.In) || t.said == "" || t.answered == t.said {
		detach(errDone)
	}
}

// say answers the open question, if there is one and text is among its answers, and else
// sends a message.
func (t *talk) say(ctx context.Context, text string) error {
	t.mu.Lock()
	open := t.approval
	t.mu.Unlock()
	if open != nil {
		option := matchOption(open.Options, strings.TrimSpace(text))
		for _, o := range open.Options {
			if o.Option == option {
				return t.line.Approve(ctx, open.ApprovalID, option)
			}
		}
	}
	t.mu.Lock()
	t.asking = true
	t.mu.Unlock()
	sent, err := t.line.Send(ctx, text)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asking = false
	if err == nil {
		t.said = sent.ID
	}
	return err
}

// interrupts makes Ctrl-C interrupt the agent. A second one, or one while the agent rests, detaches.
func (t *talk) interrupts(ctx context.Context, detach context.CancelCauseFunc) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for asked := false; ; asked = true {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			t.mu.Lock()
			// What was said counts as work before the agent has begun with it.
			working := t.working || t.asking || t.said != "" && t.said != t.answered
			t.mu.Unlock()
			if asked || !working {
				detach(errDone)
				return
			}
			if err := t.line.Interrupt(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintf(t.Err, "agentyard: %s\n", line(err.Error()))
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		detach(errDone)
		<-done
	}
}
