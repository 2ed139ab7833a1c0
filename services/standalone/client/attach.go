package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
)

const (
	dialTimeout  = 15 * time.Second
	writeTimeout = 10 * time.Second
	// pingEvery finds a dead connection sooner than TCP does, for a person who waits.
	pingEvery = 20 * time.Second
)

// clientFrame is what GET /ws takes.
type clientFrame struct {
	Op             string `json:"op"`
	Ref            string `json:"ref"`
	Session        string `json:"session"`
	After          uint64 `json:"after,omitempty"`
	Content        string `json:"content,omitempty"`
	ApprovalID     string `json:"approval_id,omitempty"`
	Option         string `json:"option,omitempty"`
	IdempotencyKey string `json:"idempotency_key,omitempty"`
}

// serverFrame is what GET /ws sends: one of its fields.
type serverFrame struct {
	Event *api.Event `json:"event"`
	Ack   *answer    `json:"ack"`
	Error *answer    `json:"error"`
}

type answer struct {
	Op     string   `json:"op"`
	Ref    string   `json:"ref"`
	ID     string   `json:"id"`
	Seq    uint64   `json:"seq"`
	Code   api.Code `json:"code"`
	Detail string   `json:"detail"`
}

// call waits for the answer to one frame.
type call struct {
	frame clientFrame
	done  chan<- result // takes one result without blocking
}

type result struct {
	api.Accepted
	err error
}

// Attachment is one session, followed and spoken to over one WebSocket, which is made again
// whenever it breaks.
type Attachment struct {
	c     *Client
	cfg   EventsConfig
	calls chan call
	ended chan struct{}

	// Of Run alone.
	after uint64
	refs  int
	open  []call // without an answer yet, in the order in which they were made
}

// Attach returns an attachment to the session of cfg, whose Follow is implied. It works while Run does.
func (c *Client) Attach(cfg EventsConfig) *Attachment {
	return &Attachment{c: c, cfg: cfg, after: cfg.After, calls: make(chan call), ended: make(chan struct{})}
}

// Run is Client.Events over the WebSocket, and carries what Send, Approve and Interrupt say. Call it once.
func (a *Attachment) Run(ctx context.Context, f func(api.Event) error) error {
	defer func() {
		close(a.ended)
		a.drop(func(call) bool { return true })
	}()
	for attempt := 1; ; attempt++ {
		before := a.after
		done, err := a.connection(ctx, f)
		if done {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if a.after > before {
			attempt = 1
		}
		// Only a message can be said twice and be heard once.
		a.drop(func(c call) bool { return c.frame.IdempotencyKey == "" })
		if a.cfg.Lost != nil {
			a.cfg.Lost(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// Send sends a message to the agent. Once it returns without error the message is kept; it survives the
// connection's loss meanwhile, and enters the session once.
func (a *Attachment) Send(ctx context.Context, content string) (api.Accepted, error) {
	return a.ask(ctx, clientFrame{Op: "message", Content: content, IdempotencyKey: api.NewID(api.KindMessage)})
}

// Approve answers an agent's question.
func (a *Attachment) Approve(ctx context.Context, approval, option string) error {
	_, err := a.ask(ctx, clientFrame{Op: "approve", ApprovalID: approval, Option: option})
	return err
}

// Interrupt interrupts what the agent does.
func (a *Attachment) Interrupt(ctx context.Context) error {
	_, err := a.ask(ctx, clientFrame{Op: "interrupt"})
	return err
}

var errLost = errors.New("the connection was lost before the answer came; see whether it was done and try again")

func (a *Attachment) ask(ctx context.Context, f clientFrame) (api.Accepted, error) {
	done := make(chan result, 1)
	f.Session = a.cfg.Session
	select {
	case a.calls <- call{f, done}:
	case <-a.ended:
		return api.Accepted{}, errLost
	case <-ctx.Done():
		return api.Accepted{}, ctx.Err()
	}
	select {
	case r := <-done:
		return r.Accepted, r.err
	case <-ctx.Done():
		return api.Accepted{}, ctx.Err()
	}
}

// drop fails the open calls for which which answers true.
func (a *Attachment) drop(which func(call) bool) {
	var keep []call
	for _, c := range a.open {
		if which(c) {
			c.done <- result{err: errLost}
		} else {
			keep = append(keep, c)
		}
	}
	a.open = keep
}

// connection works with one connection. done says that err is final.
func (a *Attachment) connection(ctx context.Context, f func(api.Event) error) (done bool, err error) {
	conn, err := a.dial(ctx)
	if err != nil {
		var refused *api.Error
		return errors.As(err, &refused) && final(refused.Code), err
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	frames, broken := make(chan serverFrame), make(chan error, 1)
	go func() { broken <- read(ctx, conn, frames) }()

	again := append([]call{{frame: clientFrame{Op: "subscribe", Session: a.cfg.Session, After: a.after}}}, a.open...)
	a.open = nil
	for i, c := range again {
		if err := a.say(ctx, conn, c); err != nil {
			a.open = append(a.open, again[i+1:]...)
			return false, err
		}
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case fr := <-frames:
			if done, err := a.take(fr, f); done || err != nil {
				return done, err
			}
		case c := <-a.calls:
			if err := a.say(ctx, conn, c); err != nil {
				return false, err
			}
		case <-ping.C:
			pctx, cancel := context.WithTimeout(ctx, writeTimeout)
			err := conn.Ping(pctx)
			cancel()
			if err != nil {
				return false, errors.New("the server does not answer any more")
			}
		case err := <-broken:
			var closed websocket.CloseError
			if errors.As(err, &closed) && closed.Code == websocket.StatusPolicyViolation {
				return true, &api.Error{Code: api.CodeDenied, Detail: closed.Reason}
			}
			return false, err
		}
	}
}

func (a *Attachment) dial(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	header := http.Header{"User-Agent": {"agentyard-cli"}}
	if a.c.key != "" {
		header.Set("Authorization", "Bearer "+a.c.key)
	}
	conn, resp, err := websocket.Dial(ctx, a.c.URL()+"/ws", &websocket.DialOptions{HTTPClient: a.c.http, HTTPHeader: header}) //nolint:bodyclose // the library's
	switch {
	case err != nil && resp != nil && resp.StatusCode >= 400:
		return nil, problem(resp)
	case err != nil:
		return nil, a.c.reach(ctx, err)
	}
	conn.SetReadLimit(maxFrame)
	return conn, nil
}

// read hands on what arrives until the connection ends. The peer's pings are answered meanwhile.
func read(ctx context.Context, conn *websocket.Conn, frames chan<- serverFrame) error {
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		var fr serverFrame
		if err := json.Unmarshal(data, &fr); err != nil {
			return fmt.Errorf("the server sent a frame that is not JSON: %w", err)
		}
		select {
		case frames <- fr:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// say writes a frame and keeps its call open until the answer.
func (a *Attachment) say(ctx context.Context, conn *websocket.Conn, c call) error {
	a.refs++
	c.frame.Ref = strconv.Itoa(a.refs)
	if c.done != nil {
		a.open = append(a.open, c)
	}
	data, err := json.Marshal(c.frame)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, data)
}

// take deals with one frame. done says that err is final.
func (a *Attachment) take(fr serverFrame, f func(api.Event) error) (done bool, err error) {
	switch {
	case fr.Event != nil:
		if next, fresh := advance(a.after, *fr.Event); fresh {
			a.after = next
			if err := f(*fr.Event); err != nil {
				return true, err
			}
		}
	case fr.Ack != nil:
		a.settle(fr.Ack.Ref, result{Accepted: api.Accepted{ID: fr.Ack.ID, Seq: fr.Ack.Seq}})
	case fr.Error != nil:
		refused := &api.Error{Code: fr.Error.Code, Detail: fr.Error.Detail}
		if fr.Error.Op == "subscribe" {
			return final(refused.Code), refused
		}
		a.settle(fr.Error.Ref, result{err: refused})
	}
	return false, nil
}

// settle answers the open call ref.
func (a *Attachment) settle(ref string, r result) {
	for i, c := range a.open {
		if c.frame.Ref == ref {
			a.open = append(a.open[:i], a.open[i+1:]...)
			c.done <- r
			return
		}
	}
}
