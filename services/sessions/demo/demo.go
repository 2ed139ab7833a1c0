// Package demo is a small honest coding agent without a model: it speaks the Agent
// Client Protocol and does what a message says, word for word. It lets a newcomer see
// the whole path without any account, and lets tests know what to expect.
//
// Each message is one instruction (see instructions) and is answered by one message, at
// whose end the runner puts "[done <message id>]". A conversation can be loaded again.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/acp"
)

// Version is what the agent says of itself.
const Version = "1.0.0"

// ErrCrash is returned by Main when the instruction "crash" was given: the caller ends
// the process at once with a status that is not zero.
var ErrCrash = errors.New("crashed, as the message said")

// SessionEnv names the environment variable that holds the session's name.
const SessionEnv = "AGENTYARD_SESSION"

// Main serves one client on in and out until in ends. getenv gives the session's name
// and the home directory in which conversations are kept.
func Main(in io.Reader, out io.Writer, getenv func(string) string) error {
	return serve(in, out, getenv, false)
}

func serve(in io.Reader, out io.Writer, getenv func(string) string, commands bool) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	d := &demo{session: getenv(SessionEnv), home: getenv("HOME"), crash: func() { cancel(ErrCrash) }, commands: commands}
	d.peer = acp.NewPeer(out, d)
	defer d.stopServers()
	ended := make(chan error, 1)
	go func() { ended <- d.peer.Run(ctx, in) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx) // in may never end; the process does
	}
}

// demo serves one client.
type demo struct {
	peer    *acp.Peer
	session string // of agentyard
	home    string
	crash   func()
	// commands says that each message is a command rather than an instruction.
	commands bool

	mu      sync.Mutex
	talks   map[string]*talk
	servers []*http.Server
}

// talk is one conversation.
type talk struct {
	id     string
	dir    string
	cancel context.CancelFunc // of the current turn; nil between turns
}

// Notify implements acp.Handler.
func (d *demo) Notify(_ context.Context, method string, params json.RawMessage) {
	if method != acp.MethodCancel {
		return
	}
	var req struct {
		SessionID string `json:"sessionId"`
	}
	_ = json.Unmarshal(params, &req)
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.talks[req.SessionID]; t != nil && t.cancel != nil {
		t.cancel()
	}
}

// Request implements acp.Handler.
func (d *demo) Request(ctx context.Context, method string, params json.RawMessage) (any, error) {
	switch method {
	case acp.MethodInitialize:
		res := acp.InitializeResponse{
			ProtocolVersion: acp.ProtocolVersion,
			AgentInfo:       &acp.Implementation{Name: "agentyard-demo", Version: Version},
			AuthMethods:     []acp.AuthMethod{},
		}
		res.AgentCapabilities.LoadSession = true
		return res, nil
	case acp.MethodNewSession, acp.MethodLoadSession:
		var req acp.SessionRequest
		if err := json.Unmarshal(params, &req); err != nil {
			return nil, invalid(err)
		}
		if method == acp.MethodLoadSession {
			return d.load(req)
		}
		t := &talk{id: api.NewID('d'), dir: req.CWD}
		d.open(t)
		return acp.SessionResponse{SessionID: t.id}, nil
	case acp.MethodPrompt:
		var req acp.PromptRequest
		if err := json.Unmarshal(params, &req); err != nil {
			return nil, invalid(err)
		}
		return d.prompt(ctx, req)
	}
	return nil, &acp.Error{Code: -32601, Message: "method not found: " + method}
}

func invalid(err error) error { return &acp.Error{Code: -32602, Message: err.Error()} }

func (d *demo) open(t *talk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.talks == nil {
		d.talks = map[string]*talk{}
	}
	d.talks[t.id] = t
}

// load replays what was said, as the protocol demands, and takes the conversation up.
func (d *demo) load(req acp.SessionRequest) (any, error) {
	entries, err := d.recall(req.SessionID)
	if err != nil {
		return nil, &acp.Error{Code: -32002, Message: "no such conversation: " + err.Error()}
	}
	for _, e := range entries {
		kind := acp.UpdateMessageChunk
		if e.Role == "user" {
			kind = acp.UpdateUserChunk
		}
		if err := d.update(req.SessionID, acp.Update{Kind: kind, Content: textBlock(e.Text)}); err != nil {
			return nil, err
		}
	}
	d.open(&talk{id: req.SessionID, dir: req.CWD})
	return acp.SessionResponse{}, nil
}

// prompt runs one turn.
func (d *demo) prompt(ctx context.Context, req acp.PromptRequest) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	t := d.talks[req.SessionID]
	if t == nil || t.cancel != nil {
		d.mu.Unlock()
		return nil, invalid(fmt.Errorf("no conversation %q is open and idle", req.SessionID))
	}
	t.cancel = cancel
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		t.cancel = nil
		d.mu.Unlock()
	}()
	said := ""
	for _, c := range req.Prompt {
		if c.Type == "text" && said == "" {
			said = c.Text
		}
	}
	turn := &turn{demo: d, talk: t, ctx: ctx}
	if d.commands {
		turn.command(said)
	} else {
		turn.do(said)
	}
	d.remember(t.id, said, turn.answer.String())
	res := acp.PromptResponse{StopReason: "end_turn", Usage: turn.usage}
	if ctx.Err() != nil {
		res.StopReason = "cancelled"
	}
	if turn.err != nil {
		return nil, turn.err
	}
	return res, nil
}

func (d *demo) update(session string, u acp.Update) error {
	return d.peer.Notify(acp.MethodUpdate, acp.UpdateNotification{SessionID: session, Update: u})
}

func textBlock(text string) json.RawMessage {
	data, _ := json.Marshal(acp.Content{Type: "text", Text: text})
	return data
}

// serve answers on loopback until the agent ends, and returns the address.
func (d *demo) serve(ctx context.Context, port string) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return "", err
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "hello from %s\n", d.session)
	})}
	d.mu.Lock()
	d.servers = append(d.servers, srv)
	d.mu.Unlock()
	go func() { _ = srv.Serve(l) }() // ends with stopServers
	return l.Addr().String(), nil
}

func (d *demo) stopServers() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.servers {
		_ = s.Close()
	}
}

// Run is Main on the process's own streams; it ends the process for "crash". With the argument "command" it is the agent of that
// kind: each message is a command for sh (command.go).
func Run() int {
	err := serve(os.Stdin, os.Stdout, os.Getenv, os.Args[len(os.Args)-1] == "command")
	switch {
	case errors.Is(err, ErrCrash):
		return 3
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo agent:", err)
		return 1
	}
	return 0
}
