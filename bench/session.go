package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"agentyard.dev/libs/api"
)

// peerReplay is what the peers' replay of a session of this size was measured at, on
// another machine: a mark, not a measurement of this run.
const peerReplay = 48 * time.Millisecond

// benchEvent measures how long after a message is posted the client of an open event
// stream sees the agent's first event. The demo agent answers at once, so all of it is ours.
func benchEvent(ctx context.Context, r *report) error {
	y, err := startYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	s, err := y.session(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan time.Time, 1)
	done := make(chan struct{}, 1)
	stream := make(chan error, 1)
	go func() {
		waiting := true
		stream <- y.events(ctx, s.ID, "", func(ev api.Event) bool {
			switch ev.Type {
			case api.EventAgentMessageChunk, api.EventAgentMessage:
				if waiting {
					waiting = false
					first <- time.Now()
				}
			case api.EventStatus:
				if ev.ReplyTo != "" && ev.Activity == api.ActivityIdle {
					waiting = true
					done <- struct{}{}
				}
			}
			return true
		})
	}()
	var ls []time.Duration
	for i := range 220 {
		start := time.Now()
		if err := y.call(ctx, "POST", "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": "echo hello"}, nil); err != nil {
			return err
		}
		select {
		case at := <-first:
			if i >= 20 { // warmed up
				ls = append(ls, at.Sub(start))
			}
		case err := <-stream:
			return fmt.Errorf("the event stream ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.add(figure{
		"event: message → first agent event, p50", ms(median(ls)), "p99 " + ms(percentile(ls, 99)), 0,
		"≤ 5 ms", median(ls) <= 5*time.Millisecond,
	})
	return nil
}

// benchReplay measures a whole read of a session with 1,500 chunks.
func benchReplay(ctx context.Context, r *report) error {
	y, err := startYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	s, err := y.session(ctx)
	if err != nil {
		return err
	}
	if err := y.call(ctx, "POST", "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": "stream 1500"}, nil); err != nil {
		return err
	}
	if err := y.events(ctx, s.ID, "", func(ev api.Event) bool {
		return ev.Type != api.EventStatus || ev.ReplyTo == "" || ev.Activity != api.ActivityIdle
	}); err != nil {
		return err
	}
	var ls []time.Duration
	for range 20 {
		start := time.Now()
		n := 0
		if err := y.read(ctx, s.ID, &n); err != nil {
			return err
		}
		if n < 1500 {
			return fmt.Errorf("the replay holds %d events", n)
		}
		ls = append(ls, time.Since(start))
	}
	r.add(figure{
		"replay: 1,500 events, p50", ms(median(ls)), "peers, elsewhere " + ms(peerReplay), float64(median(ls)) / float64(peerReplay),
		"≤ 10 ms", median(ls) <= 10*time.Millisecond,
	})
	return nil
}

// read takes a session's whole stream without decoding it and counts its events.
func (y *yard) read(ctx context.Context, id string, n *int) error {
	req, err := y.request(ctx, "GET", "/api/v1/sessions/"+id+"/events?follow=false", nil)
	if err != nil {
		return err
	}
	resp, err := y.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(data); i++ {
		if data[i] == '\n' && data[i+1] == '\n' {
			*n++
		}
	}
	return nil
}

// benchCreate measures POST /sessions?wait=running beside the bare start of the two
// processes that a session needs at least.
func benchCreate(ctx context.Context, r *report) error {
	y, err := startYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	bin := filepath.Join(filepath.Dir(y.dir), "agentyard")
	var ours, bare []time.Duration
	for i := range 25 {
		start := time.Now()
		s, err := y.session(ctx)
		if err != nil {
			return err
		}
		if i >= 3 {
			ours = append(ours, time.Since(start))
		}
		if err := y.call(ctx, "DELETE", "/api/v1/sessions/"+s.ID, nil, nil); err != nil {
			return err
		}
		start = time.Now()
		for range 2 {
			if err := exec.CommandContext(ctx, bin, "version").Run(); err != nil {
				return err
			}
		}
		bare = append(bare, time.Since(start))
	}
	r.add(figure{
		"create: POST → running, demo, p50", ms(median(ours)), "bare start of 2 processes " + ms(median(bare)),
		float64(median(ours)) / float64(median(bare)), "≤ 50 ms", median(ours) <= 50*time.Millisecond,
	})
	return nil
}
