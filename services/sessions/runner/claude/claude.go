// Package claude drives Claude Code in its stream-json mode (claude -p --input-format
// stream-json --output-format stream-json), with permission questions and interruptions
// over the control protocol of the same streams.
//
// Guarantees: what a turn brings reaches the Sink in the order in which Claude Code
// printed it and before Prompt returns; a line of a kind that is not known is ignored;
// memory is bounded by one line (agent.MaxLine).
package claude

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
)

const (
	readyTimeout = 2 * time.Minute  // it starts a JavaScript engine and MCP servers, here on a loaded machine
	writeWait    = 30 * time.Second // for a process that does not read
	maxAsking    = 16               // permission questions at once
)

// client is the Agent.
type client struct {
	child *agent.Child
	sink  agent.Sink
	log   *slog.Logger
	ran   chan struct{} // closed when the reader is done

	session string
	loaded  bool

	writing sync.Mutex

	mu       sync.Mutex
	version  string
	turn     *turn // nil between turns
	requests int
	answers  map[string]chan controlAnswer      // to our control requests
	asking   map[string]context.CancelCauseFunc // of the questions under way
	asks     sync.WaitGroup
	cost     float64 // total of the process so far
}

// turn is one prompt under way.
type turn struct {
	ctx         context.Context
	end         chan result // of capacity 1
	interrupted bool
	streamed    string          // the message whose deltas were seen
	tools       map[string]tool // by id
}

type tool struct{ title, kind string }

// errUnknown is how a conversation that is not there shows.
const errUnknown = "No conversation found"

// Start starts cfg.Argv with the flags of stream-json and waits until it answers. A
// conversation that it cannot load is begun anew.
func Start(ctx context.Context, cfg agent.Config) (agent.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if cfg.Session != "" {
		c, err := start(ctx, cfg, []string{"--resume", cfg.Session})
		if err == nil {
			c.session, c.loaded = cfg.Session, true
			return c, nil
		}
		if !errors.Is(err, agent.ErrLoad) {
			return nil, err
		}
		cfg.Logger.Warn("Claude Code could not load its conversation; a new one begins", "err", err)
	}
	id := newUUID()
	c, err := start(ctx, cfg, []string{"--session-id", id})
	if err != nil {
		return nil, err
	}
	c.session = id
	return c, nil
}

func start(ctx context.Context, cfg agent.Config, flags []string) (*client, error) {
	argv := append([]string{}, cfg.Argv...)
	argv = append(argv, "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
		"--include-partial-messages", "--permission-prompt-tool", "stdio")
	if cfg.MCPConfig != "" {
		argv = append(argv, "--mcp-config", cfg.MCPConfig)
	}
	program, err := cfg.Spawn(append(argv, flags...), "DISABLE_AUTOUPDATER=1")
	if err != nil {
		return nil, err
	}
	child, err := agent.StartChild(program)
	if err != nil {
		return nil, err
	}
	c := &client{
		child: child, sink: cfg.Sink, log: cfg.Logger, ran: make(chan struct{}),
		answers: map[string]chan controlAnswer{}, asking: map[string]context.CancelCauseFunc{},
	}
	unknown := false
	go func() {
		defer close(c.ran)
		_ = agent.ReadLines(child.Stdout, func(line []byte) error { c.receive(line, &unknown); return nil }, func(n int) {
			c.log.Warn("a line of Claude Code is too long and was skipped", "bytes", n)
		})
		c.close()
	}()
	if err := c.control(ctx, map[string]any{"subtype": "initialize"}); err != nil {
		child.Kill()
		<-c.ran
		death := child.Death()
		if unknown || strings.Contains(death.Detail, errUnknown) {
			return nil, fmt.Errorf("%w: %s", agent.ErrLoad, death.Detail)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("start Claude Code: %w", ctx.Err())
		}
		return nil, death
	}
	return c, nil
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// close ends everything that waits for the process: it is gone, or says no more.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, ch := range c.answers {
		close(ch)
		delete(c.answers, id)
	}
	c.answers = nil
	for _, cancel := range c.asking {
		cancel(errors.New("the agent is gone"))
	}
}

// Prompt implements agent.Agent.
func (c *client) Prompt(ctx context.Context, p agent.Prompt) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &turn{ctx: ctx, end: make(chan result, 1), tools: map[string]tool{}}
	c.mu.Lock()
	c.turn = t
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.turn = nil
		c.mu.Unlock()
		cancel()
		c.asks.Wait()
	}()
	if err := c.write(userMessage(p)); err != nil {
		return c.explain()
	}
	select {
	case res := <-t.end:
		return c.finish(ctx, t, res)
	case <-c.ran:
		select {
		case res := <-t.end: // it ended the turn and then itself
			return c.finish(ctx, t, res)
		default:
		}
		return c.explain()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explain says how the process ended, or ends one that has closed its output.
func (c *client) explain() error {
	select {
	case <-c.child.Done():
	case <-time.After(time.Second):
		c.child.Kill()
	}
	return c.child.Death()
}

// finish reports what the turn used and how it ended.
func (c *client) finish(ctx context.Context, t *turn, res result) error {
	c.mu.Lock()
	added := max(0, res.Cost-c.cost)
	c.cost = max(c.cost, res.Cost)
	interrupted := t.interrupted
	c.mu.Unlock()
	u := api.Usage{
		InputTokens:  res.Usage.Input + res.Usage.CacheCreation + res.Usage.CacheRead,
		OutputTokens: res.Usage.Output, CostUSD: &added,
	}
	if u.InputTokens+u.OutputTokens > 0 || added > 0 {
		if err := c.sink.Emit(ctx, api.Event{Type: api.EventUsage, Usage: &u}); err != nil {
			return err
		}
	}
	switch {
	case interrupted || !res.IsError:
		return nil
	case res.Subtype == "success": // the failure was said as a message
		return c.sink.Emit(ctx, api.Event{Type: api.EventError, Code: api.CodeUnavailable, Detail: clip(res.Result, maxTitle)})
	case len(res.Errors) > 0:
		return errors.New(clip(strings.Join(res.Errors, "; "), maxTitle))
	}
	return errors.New(strings.ReplaceAll(res.Subtype, "_", " "))
}

// Interrupt implements agent.Agent.
func (c *client) Interrupt(ctx context.Context) error {
	c.mu.Lock()
	t := c.turn
	if t != nil {
		t.interrupted = true
	}
	c.mu.Unlock()
	if t == nil {
		return nil
	}
	err := c.control(ctx, map[string]any{"subtype": "interrupt"})
	if errors.Is(err, io.ErrClosedPipe) {
		return nil // it is gone, which Prompt says
	}
	return err
}

// Info implements agent.Agent.
func (c *client) Info() agent.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return agent.Info{Session: c.session, Version: c.version, Loaded: c.loaded, Done: c.child.Done()}
}

// Close implements agent.Agent.
func (c *client) Close(ctx context.Context) error {
	err := c.child.Close(ctx)
	<-c.ran
	return err
}

// control asks the process something and waits for its answer.
func (c *client) control(ctx context.Context, request map[string]any) error {
	c.mu.Lock()
	if c.answers == nil {
		c.mu.Unlock()
		return io.ErrClosedPipe
	}
	c.requests++
	id := fmt.Sprintf("yard-%d", c.requests)
	answer := make(chan controlAnswer, 1)
	c.answers[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.answers, id)
		c.mu.Unlock()
	}()
	if err := c.write(map[string]any{"type": "control_request", "request_id": id, "request": request}); err != nil {
		return io.ErrClosedPipe
	}
	select {
	case a, ok := <-answer:
		switch {
		case !ok:
			return io.ErrClosedPipe
		case a.Subtype != "success":
			return fmt.Errorf("%v: %s", request["subtype"], a.Error)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *client) write(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if d, ok := c.child.Stdin.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Now().Add(writeWait))
	}
	_, err = c.child.Stdin.Write(append(data, '\n'))
	return err
}
