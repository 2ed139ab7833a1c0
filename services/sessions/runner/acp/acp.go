// Package acp drives agents that speak the Agent Client Protocol (version 1, JSON-RPC
// 2.0 over stdio, agentclientprotocol.com), and holds the protocol's wire types for the
// demo agent. Why it is our own: docs/adr/0010-acp.md.
//
// Guarantees: updates reach the Sink in the order in which the agent sent them and
// before Prompt returns; a line that is not JSON-RPC is ignored; memory is bounded by
// one line (agent.MaxLine).
package acp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
)

const (
	setupTimeout = 60 * time.Second // some agents load a JavaScript engine and MCP servers first
	maxToolText  = 64 << 10         // of a tool call's output that the log keeps
	maxRaw       = 64 << 10         // of a tool call's raw input and output
)

// client is the Agent.
type client struct {
	child *agent.Child
	peer  *Peer
	sink  agent.Sink
	log   *slog.Logger
	ran   chan struct{} // closed when the reader is done

	caps    AgentCapabilities
	session string
	version string
	loaded  bool

	mu      sync.Mutex
	turn    context.Context // of the current turn; nil between turns
	cost    float64         // last total that the agent reported
	pending *float64        // cost added in this turn
}

// Start starts cfg.Argv, negotiates the protocol version and opens the conversation.
func Start(ctx context.Context, cfg agent.Config) (agent.Agent, error) {
	program, err := cfg.Spawn(cfg.Argv)
	if err != nil {
		return nil, err
	}
	child, err := agent.StartChild(program)
	if err != nil {
		return nil, err
	}
	c := &client{child: child, sink: cfg.Sink, log: cfg.Logger, ran: make(chan struct{})}
	c.peer = NewPeer(child.Stdin, c)
	life := context.WithoutCancel(ctx)
	go func() {
		defer close(c.ran)
		_ = c.peer.Run(life, child.Stdout)
	}()
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if err := c.open(ctx, cfg); err != nil {
		err = c.explain(err)
		c.child.Kill()
		<-c.ran
		return nil, err
	}
	return c, nil
}

func (c *client) open(ctx context.Context, cfg agent.Config) error {
	var hello InitializeResponse
	err := c.peer.Call(ctx, MethodInitialize, InitializeRequest{
		ProtocolVersion: ProtocolVersion,
		ClientInfo:      &Implementation{Name: "agentyard", Version: "1"},
	}, &hello)
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	if hello.ProtocolVersion != ProtocolVersion {
		return fmt.Errorf("initialize: the agent speaks ACP version %d only, the runner %d", hello.ProtocolVersion, ProtocolVersion)
	}
	c.caps = hello.AgentCapabilities
	if hello.AgentInfo != nil {
		c.version = hello.AgentInfo.Version
	}
	if cfg.Session != "" {
		if err := c.load(ctx, cfg, hello.AuthMethods); err == nil {
			return nil
		} else if errors.Is(err, ErrClosed) || ctx.Err() != nil {
			return err
		} else {
			c.log.Warn("the agent could not load its conversation; a new one begins", "err", err)
		}
	}
	var opened SessionResponse
	if err := c.signedIn(ctx, hello.AuthMethods, MethodNewSession, SessionRequest{CWD: cfg.Dir, MCPServers: c.servers(cfg)}, &opened); err != nil {
		return fmt.Errorf("open the conversation: %w", err)
	}
	c.session = opened.SessionID
	return nil
}

// load takes up the conversation cfg.Session. What the agent replays of it is dropped:
// no turn is current. The log has it already.
func (c *client) load(ctx context.Context, cfg agent.Config, methods []AuthMethod) error {
	method := MethodLoadSession
	if len(c.caps.Session.Resume) > 0 && string(c.caps.Session.Resume) != "null" {
		method = MethodResumeSession
	} else if !c.caps.LoadSession {
		return agent.ErrLoad
	}
	req := SessionRequest{SessionID: cfg.Session, CWD: cfg.Dir, MCPServers: c.servers(cfg)}
	if err := c.signedIn(ctx, methods, method, req, nil); err != nil {
		return err
	}
	c.session, c.loaded = cfg.Session, true
	return nil
}

// signedIn calls method, and when the agent demands it signs in with a method that needs
// no person (an API key in the environment) and calls again.
func (c *client) signedIn(ctx context.Context, methods []AuthMethod, method string, params, result any) error {
	err := c.peer.Call(ctx, method, params, result)
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != codeAuthRequired {
		return err
	}
	for _, m := range methods {
		if !strings.Contains(strings.ToLower(m.ID), "key") {
			continue // an OAuth flow would wait for a browser that is not there
		}
		if c.peer.Call(ctx, MethodAuthenticate, map[string]string{"methodId": m.ID}, nil) == nil {
			return c.peer.Call(ctx, method, params, result)
		}
	}
	return fmt.Errorf("the agent demands a sign-in; give the session its API key in env: %w", err)
}

// explain replaces the loss of the connection by how the process ended.
func (c *client) explain(err error) error {
	if !errors.Is(err, ErrClosed) {
		return err
	}
	select {
	case <-c.child.Done():
	case <-time.After(time.Second): // it closed its output and lives on: no use to us
		c.child.Kill()
	}
	return c.child.Death()
}

// Prompt implements agent.Agent.
func (c *client) Prompt(ctx context.Context, p agent.Prompt) error {
	turn, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.turn, c.pending = turn, nil
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.turn = nil
		c.mu.Unlock()
	}()
	var end PromptResponse
	err := c.peer.Call(ctx, MethodPrompt, PromptRequest{
		Meta:      map[string]any{MessageIDKey: p.MessageID},
		SessionID: c.session,
		Prompt:    c.content(p),
	}, &end)
	if err != nil {
		return c.explain(err)
	}
	if err := c.report(turn, end); err != nil {
		return err
	}
	switch end.StopReason {
	case "max_tokens", "max_turn_requests", "refusal":
		return c.sink.Emit(turn, api.Event{
			Type: api.EventError, Code: api.CodeExhausted,
			Detail: "the agent stopped: " + strings.ReplaceAll(end.StopReason, "_", " "),
		})
	}
	return nil
}

// report emits what the turn used.
func (c *client) report(ctx context.Context, end PromptResponse) error {
	c.mu.Lock()
	cost := c.pending
	c.mu.Unlock()
	if end.Usage == nil && cost == nil {
		return nil
	}
	u := api.Usage{CostUSD: cost}
	if end.Usage != nil {
		u.InputTokens, u.OutputTokens = end.Usage.InputTokens+end.Usage.CachedReadTokens, end.Usage.OutputTokens
	}
	return c.sink.Emit(ctx, api.Event{Type: api.EventUsage, Usage: &u})
}

// content is the prompt in the forms that the agent takes.
func (c *client) content(p agent.Prompt) []Content {
	blocks := []Content{{Type: "text", Text: p.Content}}
	for _, a := range p.Attachments {
		uri := "attachment:///" + a.Name
		switch {
		case strings.HasPrefix(a.Type, "image/") && c.caps.PromptCapabilities.Image:
			blocks = append(blocks, Content{Type: "image", Data: a.Data, MimeType: a.Type})
		case strings.HasPrefix(a.Type, "text/") && c.caps.PromptCapabilities.EmbeddedContext:
			blocks = append(blocks, Content{Type: "resource", Resource: &Resource{URI: uri, MimeType: a.Type, Text: string(a.Data)}})
		case strings.HasPrefix(a.Type, "text/"):
			blocks = append(blocks, Content{Type: "text", Text: "Attached file " + a.Name + ":\n" + string(a.Data)})
		default:
			blocks = append(blocks, Content{Type: "text", Text: "(The attached file " + a.Name + " cannot be shown to this agent.)"})
		}
	}
	return blocks
}

// Interrupt implements agent.Agent.
func (c *client) Interrupt(context.Context) error {
	c.mu.Lock()
	working := c.turn != nil
	c.mu.Unlock()
	if !working {
		return nil
	}
	return c.peer.Notify(MethodCancel, map[string]string{"sessionId": c.session})
}

// Info implements agent.Agent.
func (c *client) Info() agent.Info {
	info := agent.Info{Version: c.version, Loaded: c.loaded, Done: c.child.Done()}
	if c.caps.LoadSession || len(c.caps.Session.Resume) > 0 {
		info.Session = c.session
	}
	return info
}

// Close implements agent.Agent.
func (c *client) Close(ctx context.Context) error {
	err := c.child.Close(ctx)
	<-c.ran
	return err
}

// current returns the current turn's context, or nil.
func (c *client) current() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turn
}

// Notify implements Handler.
func (c *client) Notify(_ context.Context, method string, params json.RawMessage) {
	ctx := c.current()
	if method != MethodUpdate || ctx == nil {
		return
	}
	var n UpdateNotification
	if json.Unmarshal(params, &n) != nil || n.SessionID != c.session {
		return
	}
	if n.Update.Kind == UpdateUsage && n.Update.Cost != nil {
		c.mu.Lock()
		added := max(0, n.Update.Cost.Amount-c.cost)
		if c.pending != nil {
			added += *c.pending
		}
		c.cost, c.pending = n.Update.Cost.Amount, &added
		c.mu.Unlock()
		return
	}
	if ev, ok := event(n.Update); ok {
		_ = c.sink.Emit(ctx, ev) // a log that is gone also ends the turn
	}
}

// Request implements Handler: the agent may ask for permission and nothing else.
func (c *client) Request(_ context.Context, method string, params json.RawMessage) (any, error) {
	if method != MethodRequestPermission {
		return nil, &Error{Code: codeMethodNotFound, Message: "method not found: " + method}
	}
	var req PermissionRequest
	if err := json.Unmarshal(params, &req); err != nil {
		return nil, &Error{Code: codeInvalidParams, Message: err.Error()}
	}
	cancelled := PermissionResponse{Outcome: PermissionOutcome{Outcome: "cancelled"}}
	ctx := c.current()
	if ctx == nil {
		return cancelled, nil
	}
	ev := api.Event{Type: api.EventApprovalRequest, Title: req.ToolCall.Title, ToolCallID: req.ToolCall.ToolCallID, Raw: bounded(req.ToolCall.RawInput)}
	for _, o := range req.Options {
		ev.Options = append(ev.Options, api.ApprovalOption{Option: o.OptionID, Label: o.Name, Kind: o.Kind})
	}
	option, err := c.sink.Ask(ctx, ev)
	if err != nil {
		return cancelled, nil //nolint:nilerr // so the agent learns it
	}
	return PermissionResponse{Outcome: PermissionOutcome{Outcome: "selected", OptionID: option}}, nil
}
