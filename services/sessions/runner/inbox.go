package runner

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

const (
	inboxPage   = 256
	liveBuffer  = 256 // live events that wait to be handled; above it they are read again
	callTimeout = 5 * time.Second
	retryFirst  = 50 * time.Millisecond
	retryMost   = 2 * time.Second
)

// Headers of a republished log entry (NATS, JetStream's RePublish).
const (
	headerSequence     = "Nats-Sequence"
	headerLastSequence = "Nats-Last-Sequence" // of the same subject, before this entry
)

// liveEvent is a republished entry of the user's side of the log.
type liveEvent struct {
	seq, before uint64
	ev          api.Event
}

// follow hands every entry of the user's side of the log after sequence after to the
// queue, in order and once: it follows the live subject and reads what that missed, at
// the start, at a gap and after a reconnect.
func (r *runner) follow(ctx context.Context, after uint64) error {
	missed := make(chan struct{}, 1)
	miss := func() {
		select {
		case missed <- struct{}{}:
		default:
		}
	}
	live := make(chan liveEvent, liveBuffer)
	subject := api.LiveSubject(r.launch.Tenant, r.launch.Session, api.WriterUser)
	receive := func(_ string, h bus.Header, data []byte) {
		e, ok := decodeLive(h, data)
		if !ok {
			miss()
			return
		}
		select {
		case live <- e:
		default:
			miss()
		}
	}
	err := r.persist(ctx, "follow the log", func(context.Context) error { return r.conn.Subscribe(ctx, subject, receive, miss) })
	if err != nil {
		return err
	}
	miss() // what came before
	for {
		select {
		case <-missed:
			if after, err = r.catchUp(ctx, after); err != nil {
				return err
			}
		case e := <-live:
			switch {
			case e.seq <= after:
				continue
			case e.before > after:
				if after, err = r.catchUp(ctx, after); err != nil {
					return err
				}
				continue
			}
			e.ev.Seq = e.seq
			if err := r.deliver(ctx, e.ev); err != nil {
				return err
			}
			after = e.seq
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func decodeLive(h bus.Header, data []byte) (liveEvent, bool) {
	var e liveEvent
	var err error
	if e.seq, err = strconv.ParseUint(h.Get(headerSequence), 10, 64); err != nil {
		return e, false
	}
	if e.before, err = strconv.ParseUint(h.Get(headerLastSequence), 10, 64); err != nil {
		return e, false
	}
	return e, json.Unmarshal(data, &e.ev) == nil
}

// catchUp reads and delivers everything after a sequence and returns the last one.
func (r *runner) catchUp(ctx context.Context, after uint64) (uint64, error) {
	for {
		var page api.RunnerInboxResponse
		err := r.persist(ctx, "read the inbox", func(ctx context.Context) (err error) {
			page, err = rpc.CallAsSession(ctx, r.client, r.launch.Tenant, r.launch.Session, api.RunnerInbox,
				api.RunnerInboxRequest{After: after, Limit: inboxPage})
			return err
		})
		if err != nil {
			return after, err
		}
		for _, ev := range page.Events {
			if ev.Type == api.EventGap {
				after = max(after, ev.To)
			}
			if ev.Seq <= after {
				continue
			}
			if err := r.deliver(ctx, ev); err != nil {
				return after, err
			}
			after = ev.Seq
		}
		if !page.More || len(page.Events) == 0 {
			return after, nil
		}
	}
}

// deliver acts on one entry.
func (r *runner) deliver(ctx context.Context, ev api.Event) error {
	switch ev.Type {
	case api.EventUserMessage:
		return r.queue.push(ctx, item{Event: ev})
	case api.EventInterrupt:
		r.queue.interrupt(ev.Seq)
	case api.EventApprovalAnswer:
		r.queue.answer(ev.ApprovalID, ev.Option)
	}
	return nil
}

// persist tries f, each time within callTimeout, until it succeeds or ctx ends: the bus
// and the sessions service may be away for as long as they like. It returns ctx's error only.
func (r *runner) persist(ctx context.Context, doing string, f func(context.Context) error) error {
	wait, told := retryFirst, false
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := f(call)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !told {
			r.log.Warn("waiting for the yard", "op", doing, "code", api.CodeOf(err), "err", err)
			told = true
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, retryMost)
	}
}
