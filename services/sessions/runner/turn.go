package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

// turn is one message's turn: it puts what the agent does into the log, in order.
type turn struct {
	r    *runner
	item item
	// began is when the runner took the message; set before anything else of the turn.
	began time.Time

	mu          sync.Mutex
	text        text
	thought     string // message id of the thought under way
	asked       int    // questions so far
	waiting     int    // questions without an answer
	interrupted chan struct{}
	said        bool // something of this turn is an agent_message already
	used        bool // the agent did something at all
}

// errInterrupted ends a question when its turn is interrupted.
var errInterrupted = errors.New("interrupted")

func (r *runner) newTurn() *turn { return &turn{r: r, interrupted: make(chan struct{})} }

// interrupt may be called more than once.
func (t *turn) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.interrupted:
	default:
		close(t.interrupted)
	}
}

func (t *turn) wasInterrupted() bool {
	select {
	case <-t.interrupted:
		return true
	default:
		return false
	}
}

// emit is agent.Sink.Emit for the current turn.
func (t *turn) emit(ctx context.Context, ev api.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = true
	ev.ReplyTo = t.item.MessageID
	switch ev.Type {
	case api.EventAgentMessageChunk:
		return t.chunk(ctx, ev)
	case api.EventAgentThoughtChunk:
		if t.thought == "" {
			t.thought = api.NewID(api.KindMessage)
		}
		ev.MessageID = t.thought
		for _, delta := range pieces(ev.Delta) {
			ev.Delta = delta
			if err := t.r.append(ctx, ev); err != nil {
				return err
			}
		}
		return nil
	case api.EventToolCall:
		t.thought = ""
		if err := t.boundary(ctx); err != nil {
			return err
		}
	case api.EventUsage:
		t.r.state.spend(*ev.Usage)
	}
	return t.r.append(ctx, ev)
}

func (t *turn) chunk(ctx context.Context, ev api.Event) error {
	t.thought = ""
	if t.text.id == "" {
		t.text.id = api.NewID(api.KindMessage)
	}
	ev.MessageID = t.text.id
	for _, delta := range pieces(ev.Delta) {
		ev.Delta = delta
		t.text.add(delta)
		t.r.talk.grow(t.text.id, delta, t.item.MessageID)
		if err := t.r.append(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

// boundary ends the message under way, which is not the turn's last.
func (t *turn) boundary(ctx context.Context) error {
	if t.text.empty() {
		return nil
	}
	ev := t.message()
	t.text = text{}
	t.said = true
	return t.r.append(ctx, ev)
}

func (t *turn) message() api.Event {
	id := t.text.id
	if id == "" {
		id = api.NewID(api.KindMessage)
	}
	return api.Event{Type: api.EventAgentMessage, MessageID: id, ReplyTo: t.item.MessageID, Content: t.text.String()}
}

// end commits the turn's last message together with the turn's end. note, if not empty,
// is what the runner itself has to say; it follows what the agent said.
func (t *turn) end(ctx context.Context, note string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if note != "" {
		if !t.text.empty() {
			note = "\n\n" + note
		}
		t.text.add(note)
	}
	if t.r.kind.Name == "demo" { // its contract: every answer ends so, whatever became of the agent
		t.text.add("\n[done " + t.item.MessageID + "]")
	}
	final := t.message()
	final.Final = true
	if t.item.TraceParent != "" {
		t.r.state.turned(api.RunnerTurn{TraceParent: t.item.TraceParent, MessageID: t.item.MessageID, Began: t.began.UTC(), Ended: time.Now().UTC()})
	}
	mark := t.r.state.end(t.item, t.r.queue.interruptSeq())
	return t.r.append(ctx, final, statusEvent(api.ActivityIdle, t.item.MessageID, mark))
}

// statusEvent is a running runner's status with its mark.
func statusEvent(a api.Activity, replyTo string, mark api.RunnerMark) api.Event {
	raw, _ := json.Marshal(mark)
	return api.Event{Type: api.EventStatus, State: api.StateRunning, Activity: a, ReplyTo: replyTo, Raw: raw}
}

// ask is agent.Sink.Ask for the current turn. The question's id derives from what it
// asks: when a restarted runner drives the message again and meets the same question, an
// answer that a person gave in between counts.
func (t *turn) ask(ctx context.Context, ev api.Event) (string, error) {
	t.mu.Lock()
	t.asked++
	ev.ReplyTo = t.item.MessageID
	ev.ApprovalID = api.DeriveID(api.KindApproval, t.r.launch.Session, t.item.MessageID, fmt.Sprint(t.asked), ev.Title, string(ev.Raw))
	t.used = true
	t.waiting++
	t.mu.Unlock()
	answers, forget := t.r.queue.asking(ev.ApprovalID)
	defer forget()
	if err := t.r.append(ctx, ev, t.status(api.ActivityApproval)); err != nil {
		return "", err
	}
	t.r.state.set(api.ActivityApproval)
	for {
		var option string
		var err error
		select {
		case option = <-answers:
			if !slices.ContainsFunc(ev.Options, func(o api.ApprovalOption) bool { return o.Option == option }) {
				t.r.log.Warn("an answer names none of the options", "approval", ev.ApprovalID)
				continue
			}
		case <-t.interrupted:
			err = errInterrupted
		case <-ctx.Done():
			err = ctx.Err()
		}
		t.mu.Lock()
		t.waiting--
		last := t.waiting == 0
		t.mu.Unlock()
		if err != nil || !last {
			return option, err
		}
		t.r.state.set(api.ActivityWorking)
		return option, t.r.append(ctx, t.status(api.ActivityWorking))
	}
}

func (t *turn) status(a api.Activity) api.Event {
	return statusEvent(a, t.item.MessageID, t.r.state.mark())
}
