package runner

import (
	"context"
	"fmt"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
)

const (
	restartFirst   = 100 * time.Millisecond
	restartMost    = 30 * time.Second
	restartReset   = time.Minute // an agent that lived so long begins with the shortest wait again
	startTries     = 5           // of an agent that has never started; then the session has failed
	closeTimeout   = 10 * time.Second
	interruptGrace = 15 * time.Second // for an agent to end an interrupted turn by itself
	maxPreamble    = 32 << 10
)

// supervisor keeps one agent running. Only the goroutine that runs turns uses it.
type supervisor struct {
	r        *runner
	agent    agent.Agent
	begun    time.Time // of agent
	wait     time.Duration
	preamble string // the conversation so far, for an agent that could not load it
}

// gone returns what is closed when the agent is gone; nil while there is none.
func (s *supervisor) gone() <-chan struct{} {
	if s.agent == nil {
		return nil
	}
	return s.agent.Info().Done
}

// alive reports whether there is an agent whose process runs.
func (s *supervisor) alive() bool {
	if s.agent == nil {
		return false
	}
	select {
	case <-s.agent.Info().Done:
		return false
	default:
		return true
	}
}

// ensure makes sure that an agent runs, starting one if need be. It tries until it
// succeeds or ctx ends; only an agent that never started is given up.
func (s *supervisor) ensure(ctx context.Context) error {
	for tries := 1; !s.alive(); tries++ {
		again := s.agent != nil || tries > 1
		if again {
			if err := s.pause(ctx); err != nil {
				return err
			}
		}
		err := s.start(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.begun.IsZero() && tries == startTries:
			return fmt.Errorf("start agent: %w", err)
		}
		s.r.log.Warn("start agent", "op", "agent", "err", err)
		ev := api.Event{Type: api.EventError, Code: api.CodeUnavailable, Detail: "the agent could not be started: " + err.Error()}
		if err := s.r.append(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

// pause waits before another start.
func (s *supervisor) pause(ctx context.Context) error {
	if !s.begun.IsZero() && time.Since(s.begun) > restartReset {
		s.wait = 0
	}
	s.wait = min(max(restartFirst, 2*s.wait), restartMost)
	select {
	case <-time.After(s.wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start starts the agent and loads the conversation, once.
func (s *supervisor) start(ctx context.Context) error {
	s.close()
	r := s.r
	argv := r.kind.Command(r.self, r.launch.Agent.Command, r.launch.Agent.Args)
	if len(argv) == 0 {
		return api.Invalid("/agent/command", "the kind %q has no command of its own; give one", r.kind.Name)
	}
	a, err := r.startAgent(ctx, argv, r.state.mark().AgentSession)
	if err != nil {
		return err
	}
	s.agent, s.begun = a, time.Now()
	r.background.forget()
	info := a.Info()
	r.state.session(info.Session)
	s.preamble = ""
	if !info.Loaded {
		s.preamble = r.preamble()
	}
	r.state.change(func(now *api.RunnerReportRequest) {
		now.State = api.StateRunning
		now.Activity = api.ActivityIdle
		now.Agent.Version = info.Version
	})
	r.typist.Store(&a)
	if r.up != nil {
		r.up()
		r.up = nil
	}
	return nil
}

// startAgent takes the agent that was started early, or starts one.
func (r *runner) startAgent(ctx context.Context, argv []string, session string) (agent.Agent, error) {
	if e := r.early; e != nil {
		r.early = nil
		if session == "" {
			return e.take(ctx)
		}
	}
	return r.start(ctx, r.agentConfig(argv, session))
}

// preamble is the conversation so far for an agent that cannot load it. A terminal would
// take it for input, and a built-in agent for an instruction.
func (r *runner) preamble() string {
	if r.kind.Protocol == agent.ProtocolTerminal || r.kind.BuiltIn() {
		return ""
	}
	entries := r.talk.remembered()
	var parts []string
	size := 0
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		if e.role == "user" && len(parts) == 0 {
			continue // the message that is about to be driven
		}
		part := e.role + ": " + e.content
		if size += len(part); size > maxPreamble {
			break
		}
		parts = append([]string{part}, parts...)
	}
	if len(parts) == 0 {
		return ""
	}
	return "The conversation so far, which was interrupted:\n\n" + strings.Join(parts, "\n\n") + "\n\nThe next message:\n\n"
}

// close ends the agent, if there is one.
func (s *supervisor) close() {
	if s.agent == nil {
		return
	}
	s.r.typist.Store(nil)
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.agent.Close(ctx); err != nil {
		s.r.log.Warn("close agent", "op", "agent", "err", err)
	}
	s.agent = nil
}

// prompt runs the agent's part of t and returns what the runner has to say about it.
func (s *supervisor) prompt(ctx context.Context, t *turn) (note string, err error) {
	if t.item.interrupted || t.wasInterrupted() {
		return "Interrupted before it began.", nil
	}
	p := agent.Prompt{MessageID: t.item.MessageID, Content: s.preamble + t.item.Content, Attachments: t.item.Attachments}
	ended := make(chan struct{})
	stubborn := make(chan struct{})
	go func() {
		defer close(stubborn)
		s.interrupter(ctx, t, ended)
	}()
	err = s.agent.Prompt(ctx, p)
	close(ended)
	<-stubborn
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	s.preamble = ""
	if err == nil {
		return "", nil
	}
	detail, died := agent.Died(err)
	if !died {
		detail = err.Error()
	}
	ev := api.Event{Type: api.EventError, Code: api.CodeUnavailable, Detail: clip(detail), ReplyTo: t.item.MessageID}
	if err := s.r.append(ctx, ev); err != nil {
		return "", err
	}
	if !died {
		return "The agent could not finish this turn: " + clip(detail), nil
	}
	s.r.log.Warn("the agent process died", "op", "agent")
	note = "The agent process died (" + clip(detail) + ") and was restarted."
	if t.wasInterrupted() {
		note = "The agent did not stop when it was interrupted; its process was ended and restarted."
	}
	if err := s.pause(ctx); err != nil {
		return "", err
	}
	if err := s.start(ctx); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		note = "The agent process died (" + clip(detail) + ") and could not be restarted yet: " + clip(err.Error())
	}
	return note, nil
}

// interrupter passes an interruption on to the agent, and ends an agent that ignores it.
func (s *supervisor) interrupter(ctx context.Context, t *turn, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	case <-t.interrupted:
	}
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := s.agent.Interrupt(ask); err != nil {
		s.r.log.Warn("interrupt agent", "op", "agent", "err", err)
	}
	select {
	case <-ended:
		return
	case <-ctx.Done():
	case <-time.After(interruptGrace):
	}
	end, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = s.agent.Close(end)
}

// clip bounds a text about an error.
func clip(s string) string {
	const most = 4 << 10
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
