package yardtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

// Client is a plain HTTP client of a yard with one credential. It knows nothing but
// the HTTP contract, so that a test with it tests the contract.
type Client struct {
	URL, Key string
	HTTP     *http.Client
}

// Do sends one request and returns the status and the body. The error is of the
// transport: the yard is away.
func (c *Client) Do(ctx context.Context, method, path string, in any, header ...string) (int, []byte, error) {
	var body io.Reader
	switch in := in.(type) {
	case nil:
	case io.Reader:
		body = in
	default:
		data, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return 0, nil, err
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

// Must sends one request, fails the test unless it succeeds, and decodes into out.
func (c *Client) Must(t testing.TB, method, path string, in, out any) {
	t.Helper()
	status, data, err := c.Do(t.Context(), method, path, in)
	if err != nil || status >= 300 {
		t.Fatalf("%s %s: status %d, err %v: %s", method, path, status, err, data)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, data)
		}
	}
}

// Session creates a session and waits until it runs.
func (c *Client) Session(t testing.TB, req api.CreateSessionRequest) api.Session {
	t.Helper()
	var s api.Session
	c.Must(t, "POST", "/api/v1/sessions?wait=running", req, &s)
	if s.State != api.StateRunning {
		t.Fatalf("session %s is %s: %s", s.ID, s.State, s.Reason)
	}
	return s
}

// Ask sends a message, waits for the turn to end and returns the agent's last message.
func (c *Client) Ask(t testing.TB, session, content string) string {
	t.Helper()
	var acc api.Accepted
	c.Must(t, "POST", "/api/v1/sessions/"+session+"/messages", map[string]any{"content": content}, &acc)
	answer := ""
	c.Follow(t, session, acc.Seq-1, func(ev api.Event) bool {
		if ev.Type == api.EventAgentMessage && ev.ReplyTo == acc.ID {
			answer = ev.Content
		}
		return ev.Type != api.EventStatus || ev.ReplyTo != acc.ID || ev.Activity != api.ActivityIdle
	})
	return answer
}

// Follow reads a session's events after sequence after until f returns false or the
// test ends. When the connection breaks it connects again with Last-Event-ID, as a
// browser does.
func (c *Client) Follow(t testing.TB, session string, after uint64, f func(api.Event) bool) {
	t.Helper()
	if err := c.FollowUntil(t.Context(), session, after, f); err != nil && t.Context().Err() == nil {
		t.Fatalf("follow %s: %v", session, err)
	}
}

// errStop ends a stream that its reader has had enough of.
var errStop = errors.New("stop")

// reconnectAfter is a browser's patience, shortened.
const reconnectAfter = 50 * time.Millisecond

// FollowUntil is Follow for a goroutine of its own: it ends with ctx too, and returns what
// the yard refused.
func (c *Client) FollowUntil(ctx context.Context, session string, after uint64, f func(api.Event) bool) error {
	return again(ctx, func() error { return c.stream(ctx, session, "", &after, f) })
}

// again opens a stream, and opens it again when it breaks, until its reader has had enough, ctx ends or the yard refuses it.
func again(ctx context.Context, open func() error) error {
	for {
		err := open()
		var final *statusError
		switch {
		case errors.Is(err, errStop):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &final) && final.status < 500 && final.status != http.StatusTooManyRequests:
			return err
		}
		select {
		case <-time.After(reconnectAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Events reads a session's whole log.
func (c *Client) Events(t testing.TB, session string) []api.Event {
	t.Helper()
	var evs []api.Event
	after := uint64(0)
	err := c.stream(t.Context(), session, "?follow=false", &after, func(ev api.Event) bool {
		evs = append(evs, ev)
		return true
	})
	if err != nil {
		t.Fatalf("read the events of %s: %v", session, err)
	}
	return evs
}

type statusError struct {
	status int
	body   []byte
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// stream reads one connection's events and moves after along.
func (c *Client) stream(ctx context.Context, session, query string, after *uint64, f func(api.Event) bool) error {
	last := strconv.FormatUint(*after, 10)
	return c.sse(ctx, "/api/v1/sessions/"+session+"/events"+query, last, func(id, _ string, data []byte) error {
		var ev api.Event
		if err := json.Unmarshal(data, &ev); err != nil {
			return fmt.Errorf("event %s: %w in %s", id, err, data)
		}
		seq, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return fmt.Errorf("event id %q: %w", id, err)
		}
		*after, ev.Seq = seq, seq
		if !f(ev) {
			return errStop
		}
		return nil
	})
}

// TaskEvents reads the events of a task until it has ended, or f returns false: each change of the task, and between them each event of its sessions.
// One of the two is nil. When the connection breaks it connects again with Last-Event-ID.
func (c *Client) TaskEvents(t testing.TB, task string, f func(*api.Change[api.Task], *api.Event) bool) {
	t.Helper()
	last := ""
	err := again(t.Context(), func() error {
		over := false
		err := c.sse(t.Context(), "/api/v1/tasks/"+task+"/events", last, func(id, event string, data []byte) error {
			last = id
			change, ev, err := taskEvent(event, data)
			if err != nil {
				return fmt.Errorf("event %s: %w", id, err)
			}
			over = change != nil && change.State.State.Final()
			if !f(change, ev) {
				return errStop
			}
			return nil
		})
		if over {
			return errStop
		}
		return err
	})
	if err != nil {
		t.Fatalf("follow %s: %v", task, err)
	}
}

// sse reads the events of one connection. An error of f ends it.
func (c *Client) sse(ctx context.Context, path, last string, f func(id, event string, data []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", c.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Key)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return &statusError{resp.StatusCode, body}
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 8<<20)
	id, event, data := "", "", []byte(nil)
	for lines.Scan() {
		line := lines.Bytes()
		switch {
		case bytes.HasPrefix(line, []byte("id: ")):
			id = string(line[4:])
		case bytes.HasPrefix(line, []byte("event: ")):
			event = string(line[7:])
		case bytes.HasPrefix(line, []byte("data: ")):
			data = append(data[:0], line[6:]...)
		case len(line) == 0 && data != nil:
			if err := f(id, event, data); err != nil {
				return err
			}
			event, data = "", nil
		}
	}
	return lines.Err()
}
