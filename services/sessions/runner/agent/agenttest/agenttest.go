// Package agenttest is the behaviour that every adapter has: the suite runs a real
// agent process through it.
package agenttest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
)

const wait = 60 * time.Second // for a real agent on a loaded machine

// Suite says how to start one agent and what to say to it.
type Suite struct {
	Start agent.Starter
	Argv  []string
	Env   []string // of the agent, complete

	Say, Answer string // a message, and a text that its answer holds
	Tool        string // a message that makes a tool call that completes; empty: the agent reports none
	Slow        string // a message that takes minutes unless interrupted
	Ask         string // a message that asks for permission; empty: the agent cannot
	Option      string // the option to choose then
	Asked       string // a text in the answer after that
	Spend       string // a message that reports usage; empty: none
	Loads       bool   // the conversation can be loaded by another process
	Prepare     func(t *testing.T, dir string)
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("answers in order", s.answers)
	t.Run("reports a tool call", s.tool)
	t.Run("interrupts a turn and goes on", s.interrupt)
	t.Run("does nothing when interrupted between turns", s.interruptIdle)
	t.Run("asks and takes the answer", s.ask)
	t.Run("reports usage", s.spend)
	t.Run("says when the process died", s.death)
	t.Run("loads a conversation", s.load)
	t.Run("says what could not be started", s.missing)
}

// Sink records a turn's events.
type Sink struct {
	Option string // the answer to every question

	mu     sync.Mutex
	events []api.Event
	seen   chan struct{} // closed and replaced at each event
}

// NewSink returns a sink that answers every question with option.
func NewSink(option string) *Sink { return &Sink{Option: option, seen: make(chan struct{})} }

// Emit implements agent.Sink.
func (s *Sink) Emit(_ context.Context, ev api.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, ev)
	close(s.seen)
	s.seen = make(chan struct{})
	return nil
}

// Ask implements agent.Sink.
func (s *Sink) Ask(ctx context.Context, ev api.Event) (string, error) {
	if s.Option == "" {
		return "", errors.New("nobody is there")
	}
	return s.Option, s.Emit(ctx, ev)
}

// Take returns the events since the last Take.
func (s *Sink) Take() []api.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	evs := s.events
	s.events = nil
	return evs
}

// Until waits until an event is there for which ok answers true.
func (s *Sink) Until(t *testing.T, ok func(api.Event) bool) {
	t.Helper()
	s.UntilAll(t, func(evs []api.Event) bool { return slices.ContainsFunc(evs, ok) })
}

// UntilAll waits until ok answers true for the events since the last Take.
func (s *Sink) UntilAll(t *testing.T, ok func([]api.Event) bool) {
	t.Helper()
	deadline := time.After(wait)
	for {
		s.mu.Lock()
		seen, evs := s.seen, slices.Clone(s.events)
		s.mu.Unlock()
		if ok(evs) {
			return
		}
		select {
		case <-seen:
		case <-deadline:
			t.Fatalf("the awaited event did not come; there are %v", evs)
		}
	}
}

// Text is the text that the chunks of evs make.
func Text(evs []api.Event) string {
	var b strings.Builder
	for _, ev := range evs {
		if ev.Type == api.EventAgentMessageChunk {
			b.WriteString(ev.Delta)
		}
	}
	return b.String()
}

// Running is an agent in a test.
type Running struct {
	agent.Agent
	Sink *Sink
	Dir  string
	PID  func() int
}

// Prompt runs one turn and returns its events.
func (r *Running) Turn(t *testing.T, content string) []api.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := r.Agent.Prompt(ctx, agent.Prompt{MessageID: api.NewID(api.KindMessage), Content: content}); err != nil {
		t.Fatalf("prompt %q: %v", content, err)
	}
	return r.Sink.Take()
}

// New starts the agent in dir.
func (s Suite) New(t *testing.T, dir, session string) *Running {
	t.Helper()
	r := &Running{Sink: NewSink(s.Option), Dir: dir}
	var cmd *exec.Cmd
	cfg := agent.Config{
		Argv: s.Argv, Dir: dir, Session: session, Sink: r.Sink, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Spawn: func(argv []string, env ...string) (*agent.Program, error) {
			cmd = exec.Command(argv[0], argv[1:]...)
			cmd.Dir = dir
			cmd.Env = append(append([]string{}, s.Env...), env...)
			return &agent.Program{Cmd: cmd}, nil
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	a, err := s.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	r.Agent, r.PID = a, func() int { return cmd.Process.Pid }
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := a.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		select {
		case <-a.Info().Done:
		default:
			t.Error("the process is there after Close")
		}
	})
	return r
}

func (s Suite) dir(t *testing.T) string {
	dir := t.TempDir()
	if s.Prepare != nil {
		s.Prepare(t, dir)
	}
	return dir
}

func (s Suite) answers(t *testing.T) {
	r := s.New(t, s.dir(t), "")
	for range 3 {
		if got := Text(r.Turn(t, s.Say)); !strings.Contains(got, s.Answer) {
			t.Fatalf("the answer %q lacks %q", got, s.Answer)
		}
	}
}

func (s Suite) tool(t *testing.T) {
	if s.Tool == "" {
		t.Log("this agent reports no tool calls")
		return
	}
	r := s.New(t, s.dir(t), "")
	var states []string
	id := ""
	for _, ev := range r.Turn(t, s.Tool) {
		if ev.Type == api.EventToolCall {
			if id != "" && ev.ToolCallID != id {
				continue
			}
			id = ev.ToolCallID
			states = append(states, ev.Status)
		}
	}
	if len(states) < 2 || states[len(states)-1] != "completed" {
		t.Errorf("the tool call went through %v, want an end in completed", states)
	}
}

func (s Suite) interrupt(t *testing.T) {
	r := s.New(t, s.dir(t), "")
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Prompt(ctx, agent.Prompt{MessageID: "m1", Content: s.Slow}) }()
	// The turn has begun when the agent takes the interruption; ask until it has.
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("the interrupted turn: %v", err)
			}
			done = true
		case <-tick.C:
			if err := r.Interrupt(ctx); err != nil {
				t.Fatalf("interrupt: %v", err)
			}
		case <-ctx.Done():
			t.Fatal("the turn did not end")
		}
	}
	r.Sink.Take()
	if got := Text(r.Turn(t, s.Say)); !strings.Contains(got, s.Answer) {
		t.Errorf("after an interruption the answer %q lacks %q", got, s.Answer)
	}
}

func (s Suite) interruptIdle(t *testing.T) {
	r := s.New(t, s.dir(t), "")
	if err := r.Interrupt(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := Text(r.Turn(t, s.Say)); !strings.Contains(got, s.Answer) {
		t.Errorf("the answer %q lacks %q", got, s.Answer)
	}
}

func (s Suite) ask(t *testing.T) {
	if s.Ask == "" {
		t.Log("this agent asks nothing")
		return
	}
	r := s.New(t, s.dir(t), "")
	evs := r.Turn(t, s.Ask)
	asked := false
	for _, ev := range evs {
		asked = asked || ev.Type == api.EventApprovalRequest && len(ev.Options) > 1 && ev.Title != ""
	}
	if !asked {
		t.Errorf("no approval_request with a title and options in %v", evs)
	}
	if got := Text(evs); !strings.Contains(got, s.Asked) {
		t.Errorf("the answer %q lacks %q", got, s.Asked)
	}
}

func (s Suite) spend(t *testing.T) {
	if s.Spend == "" {
		t.Log("this agent reports no usage")
		return
	}
	for _, ev := range s.New(t, s.dir(t), "").Turn(t, s.Spend) {
		if ev.Type == api.EventUsage && ev.Usage != nil && ev.Usage.InputTokens > 0 && ev.Usage.OutputTokens > 0 {
			return
		}
	}
	t.Error("no usage event")
}

func (s Suite) death(t *testing.T) {
	r := s.New(t, s.dir(t), "")
	ended := make(chan error, 1)
	go func() { ended <- r.Prompt(context.Background(), agent.Prompt{MessageID: "m1", Content: s.Slow}) }()
	p, err := os.FindProcess(r.PID())
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if _, died := agent.Died(err); !died {
			t.Errorf("Prompt says %v, want a DiedError", err)
		}
	case <-time.After(wait):
		t.Fatal("Prompt did not return")
	}
	select {
	case <-r.Info().Done:
	case <-time.After(wait):
		t.Error("Done is not closed")
	}
}

func (s Suite) load(t *testing.T) {
	if !s.Loads {
		t.Log("this agent cannot load a conversation")
		return
	}
	dir := s.dir(t)
	first := s.New(t, dir, "")
	first.Turn(t, s.Say)
	name := first.Info().Session
	if name == "" {
		t.Fatal("the conversation has no name")
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	second := s.New(t, dir, name)
	if got := second.Info(); got.Session != name || !got.Loaded {
		t.Errorf("loaded %+v, want %s", got, name)
	}
	if evs := second.Sink.Take(); len(evs) != 0 {
		t.Errorf("the replay of the conversation was emitted: %v", evs)
	}
	if got := Text(second.Turn(t, s.Say)); !strings.Contains(got, s.Answer) {
		t.Errorf("the answer %q lacks %q", got, s.Answer)
	}
}

func (s Suite) missing(t *testing.T) {
	cfg := agent.Config{
		Argv: []string{"/nonexistent/agent"}, Dir: t.TempDir(), Sink: NewSink(""), Logger: slog.Default(),
		Spawn: func(argv []string, _ ...string) (*agent.Program, error) {
			return &agent.Program{Cmd: exec.Command(argv[0], argv[1:]...)}, nil
		},
	}
	_, err := s.Start(context.Background(), cfg)
	if err == nil || !strings.Contains(fmt.Sprint(err), "/nonexistent/agent") {
		t.Errorf("start says %v, want the program's name", err)
	}
}
