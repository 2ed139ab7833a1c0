package acp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"agentyard.dev/services/sessions/runner/agent"
)

// JSON-RPC 2.0 error codes, and ACP's own.
const (
	codeParse          = -32700
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeInternal       = -32603
	codeAuthRequired   = -32000
)

// Error is a JSON-RPC error object.
type Error struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

func (e *Error) Error() string {
	if detail := e.detail(); detail != "" {
		return fmt.Sprintf("%s (%d): %s", e.Message, e.Code, detail)
	}
	return fmt.Sprintf("%s (%d)", e.Message, e.Code)
}

// detail returns the text that agents put into data for a person, in its usual forms.
func (e *Error) detail() string {
	var text string
	if json.Unmarshal(e.Data, &text) == nil {
		return text
	}
	var object struct {
		Details string `json:"details"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(e.Data, &object)
	if object.Details != "" {
		return object.Details
	}
	return object.Message
}

// Handler answers what the other side says. Notify is called in the order of arrival
// and holds up reading while it runs; Request runs on a goroutine of its own.
type Handler interface {
	Notify(ctx context.Context, method string, params json.RawMessage)
	Request(ctx context.Context, method string, params json.RawMessage) (any, error)
}

// message is any JSON-RPC message. An ID is kept as it came, because an answer repeats it.
type message struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *Error          `json:"error,omitempty"`
}

const (
	maxRequests = 16               // of the other side in progress; above it reading waits
	writeWait   = 30 * time.Second // for a peer that does not read
)

// ErrClosed is returned by a call when the other side is gone.
var ErrClosed = errors.New("the other side closed the connection")

// Peer is one end of a JSON-RPC 2.0 connection of one message a line. An answer is
// handed over after every notification that came before it has been handled.
type Peer struct {
	handler Handler

	writing sync.Mutex
	w       io.Writer

	mu      sync.Mutex
	next    int64
	pending map[int64]chan message
	closed  bool
}

// NewPeer returns a peer that writes to w. It reads when it is Run.
func NewPeer(w io.Writer, h Handler) *Peer {
	return &Peer{w: w, handler: h, pending: map[int64]chan message{}}
}

// Run reads r until it ends or ctx does, and waits for the requests in progress, whose
// context then ends. Calls in progress fail with ErrClosed.
func (p *Peer) Run(ctx context.Context, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	var requests sync.WaitGroup
	slots := make(chan struct{}, maxRequests)
	err := agent.ReadLines(r, func(line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return p.receive(ctx, line, slots, &requests)
	}, func(n int) {
		_ = p.write(message{ID: json.RawMessage("null"), Error: &Error{Code: codeParse, Message: fmt.Sprintf("a message of %d bytes is above the limit of %d", n, agent.MaxLine)}})
	})
	p.mu.Lock()
	p.closed = true
	for id, answer := range p.pending {
		close(answer)
		delete(p.pending, id)
	}
	p.mu.Unlock()
	cancel()
	requests.Wait()
	return err
}

// receive handles one line. What is not JSON-RPC is ignored: agents print stray lines.
func (p *Peer) receive(ctx context.Context, line []byte, slots chan struct{}, requests *sync.WaitGroup) error {
	var m message
	if json.Unmarshal(line, &m) != nil {
		return nil //nolint:nilerr // see above
	}
	switch {
	case m.Method != "" && m.ID == nil:
		p.handler.Notify(ctx, m.Method, m.Params)
	case m.Method != "":
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		requests.Add(1)
		go func() {
			defer requests.Done()
			defer func() { <-slots }()
			p.answer(ctx, m)
		}()
	case m.ID != nil:
		id, err := strconv.ParseInt(string(m.ID), 10, 64)
		if err != nil {
			return nil //nolint:nilerr // an answer to nothing that was asked
		}
		p.mu.Lock()
		answer, ok := p.pending[id]
		delete(p.pending, id)
		p.mu.Unlock()
		if ok {
			answer <- m
		}
	}
	return nil
}

func (p *Peer) answer(ctx context.Context, m message) {
	out := message{ID: m.ID}
	result, err := p.handler.Request(ctx, m.Method, m.Params)
	if err == nil {
		out.Result, err = json.Marshal(result)
	}
	if err != nil {
		if !errors.As(err, &out.Error) {
			out.Error = &Error{Code: codeInternal, Message: err.Error()}
		}
		out.Result = nil
	}
	_ = p.write(out) // a reader that is gone also ends Run
}

// Call asks method and waits for its answer, which it decodes into result unless that
// is nil. The error of the other side is an *Error.
func (p *Peer) Call(ctx context.Context, method string, params, result any) error {
	data, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	answer := make(chan message, 1)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.next++
	id := p.next
	p.pending[id] = answer
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.pending, id)
		p.mu.Unlock()
	}()
	if err := p.write(message{ID: json.RawMessage(strconv.FormatInt(id, 10)), Method: method, Params: data}); err != nil {
		return fmt.Errorf("%s: %w", method, ErrClosed)
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return ErrClosed
		case m.Error != nil:
			return m.Error
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(m.Result, result); err != nil {
			return fmt.Errorf("answer to %s: %w", method, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Notify sends a notification.
func (p *Peer) Notify(method string, params any) error {
	data, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return p.write(message{Method: method, Params: data})
}

func (p *Peer) write(m message) error {
	m.Version = "2.0"
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if d, ok := p.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Now().Add(writeWait))
	}
	_, err = p.w.Write(append(data, '\n'))
	return err
}
