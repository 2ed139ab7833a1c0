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
	for attempt := 1; ; attempt++ {
		before := after
		done, err := c.stream(ctx, cfg, &after, f)
		if done {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if after > before {
			attempt = 1
		}
		if cfg.Lost != nil {
			cfg.Lost(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// stream follows one connection. done says that err is final.
func (c *Client) stream(ctx context.Context, cfg EventsConfig, after *uint64, f func(api.Event) error) (done bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{"Accept": {"text/event-stream"}}
	if *after > 0 {
		header.Set("Last-Event-ID", strconv.FormatUint(*after, 10))
	}
	target := "/api/v1/sessions/" + url.PathEscape(cfg.Session) + "/events"
	if !cfg.Follow {
		target += "?follow=false"
	}
	resp, err := c.Request(ctx, http.MethodGet, target, header, nil)
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
		case errors.Is(err, io.EOF) && !cfg.Follow:
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
		if err := json.Unmarshal(fr.data, &ev); err != nil {
			return true, fmt.Errorf("the server sent an event that is not JSON: %w", err)
		}
		if ev.Type == api.EventError && ev.Seq == 0 {
			// Not an event of the session: why the server ends the stream.
			return final(ev.Code), &api.Error{Code: ev.Code, Detail: ev.Detail}
		}
		if next, fresh := advance(*after, ev); fresh {
			*after = next
			if err := f(ev); err != nil {
				return true, err
			}
		}
	}
}

// final reports whether a refusal with this code stays when the same is asked again.
func final(c api.Code) bool {
	return c != api.CodeUnavailable && c != api.CodeExhausted && c != api.CodeInternal
}

// advance returns the sequence to resume after ev from, and whether ev is new.
func advance(after uint64, ev api.Event) (next uint64, fresh bool) {
	if ev.Type == api.EventGap {
		return max(after, ev.To), ev.To > after
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
