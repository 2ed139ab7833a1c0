package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
)

// silence is how long an event stream may say nothing, not even the server's keep-alive
// comment, before the connection counts as lost. The server writes one every 15 s.
const silence = 60 * time.Second

// EventsConfig says which events to follow.
type EventsConfig struct {
	Session string
	After   uint64 // the sequence of the last event that the caller has seen
	Follow  bool   // false: end at the log's head
	// Lost, if set, is told of each loss of the connection, before it is made again.
	Lost func(error)
}

// Events calls f for each event of a session, in order, without a gap or a duplicate,
// across any loss of the connection, until ctx ends, the head is reached (without Follow) or f returns
// an error, which Events returns. What the server could no longer replay arrives as an
// api.EventGap. It returns an *api.Error when the server refuses.
func (c *Client) Events(ctx context.Context, cfg EventsConfig, f func(api.Event) error) error {
	after := cfg.After
	s := stream{c: c, path: "/api/v1/sessions/" + url.PathEscape(cfg.Session) + "/events", head: !cfg.Follow, lost: cfg.Lost}
	if after > 0 {
		s.last = strconv.FormatUint(after, 10)
	}
	return s.run(ctx, func(fr frame, ev api.Event) error {
		next, fresh := advance(after, ev)
		if !fresh {
			return nil
		}
		after = next
		s.last = strconv.FormatUint(after, 10)
		return f(ev)
	})
}

// taskChange names the events that are changes of a task rather than events of a session.
const taskChange = "task"

// TaskEventsConfig says which task's events to follow.
type TaskEventsConfig struct {
	Task   string
	Follow bool // false: end with what there is now
	// Lost as in EventsConfig.
	Lost func(error)
}

// TaskEvents calls f for each change of a task and, between them, each event of its sessions while they work on it; one of the two is nil. It ends as Events does,
// and without error when the task has ended.
func (c *Client) TaskEvents(ctx context.Context, cfg TaskEventsConfig, f func(*api.Change[api.Task], *api.Event) error) error {
	s := stream{c: c, path: "/api/v1/tasks/" + url.PathEscape(cfg.Task) + "/events", head: !cfg.Follow, lost: cfg.Lost}
	return s.run(ctx, func(fr frame, ev api.Event) error {
		if fr.id != "" {
			s.last = fr.id
		}
		if fr.event != taskChange {
			s.head = !cfg.Follow
			return f(nil, &ev)
		}
		change := new(api.Change[api.Task])
		if err := json.Unmarshal(fr.data, change); err != nil {
			return fmt.Errorf("the server sent a change that is not JSON: %w", err)
		}
		s.head = !cfg.Follow || change.State.State.Final() // unless somebody retries it at this moment
		return f(change, nil)
	})
}

// stream is a stream of server-sent events over as many connections as it needs.
type stream struct {
	c    *Client
	path string
	lost func(error)

	last string // the id to resume after
	head bool   // the stream's end is no loss
}

// run calls f, which may change last and head, for each frame, with the event in it unless it is a taskChange, until one of its errors, the end, or a refusal that stays.
func (s *stream) run(ctx context.Context, f func(frame, api.Event) error) error {
	for attempt := 1; ; attempt++ {
		before := s.last
		done, err := s.connection(ctx, f)
		if done {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.last != before {
			attempt = 1
		}
		if s.lost != nil {
			s.lost(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// connection follows one connection. done says that err is final.
func (s *stream) connection(ctx context.Context, f func(frame, api.Event) error) (done bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{"Accept": {"text/event-stream"}}
	if s.last != "" {
		header.Set("Last-Event-ID", s.last)
	}
	target := s.path
	if s.head {
		target += "?follow=false"
	}
	resp, err := s.c.Request(ctx, http.MethodGet, target, header, nil)
	if err != nil {
		var refused *api.Error
		return errors.As(err, &refused) && final(refused.Code), err
	}
	defer resp.Body.Close()
	quiet := time.AfterFunc(silence, func() { cancel(errors.New("the server went silent")) })
	defer quiet.Stop()
	frames := newFrameReader(&touchReader{r: resp.Body, touch: func() { quiet.Reset(silence) }})
	for {
		fr, err := frames.next()
		switch {
		case errors.Is(err, io.EOF) && s.head:
			return true, nil
		case errors.Is(err, io.EOF):
			return false, errors.New("the server ended the stream")
		case err != nil:
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return false, err
		}
		var ev api.Event
		if fr.event != taskChange {
			if err := json.Unmarshal(fr.data, &ev); err != nil {
				return true, fmt.Errorf("the server sent an event that is not JSON: %w", err)
			}
		}
		if ev.Type == api.EventError && ev.Seq == 0 {
			// Not an event of the session: why the server ends the stream.
			return final(ev.Code), &api.Error{Code: ev.Code, Detail: ev.Detail}
		}
		if err := f(fr, ev); err != nil {
			return true, err
		}
	}
}

// final reports whether a refusal with this code stays when the same is asked again.
func final(c api.Code) bool {
	return c != api.CodeUnavailable && c != api.CodeExhausted && c != api.CodeInternal
}

// advance returns the sequence to resume after ev from, and whether ev is new. What is left between a gap's ends still comes; a log that was taken back goes on
// from its new end.
func advance(after uint64, ev api.Event) (next uint64, fresh bool) {
	if ev.Type == api.EventGap {
		return ev.Seq, true
	}
	if ev.Seq == 0 {
		return after, true // not part of the log
	}
	return max(after, ev.Seq), ev.Seq > after
}

// touchReader calls touch whenever something arrives.
type touchReader struct {
	r     io.Reader
	touch func()
}

func (t *touchReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.touch()
	}
	return n, err
}
