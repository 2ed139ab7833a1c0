package runner

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

const (
	inboxPage   = 256
	callTimeout = 5 * time.Second
	retryFirst  = 50 * time.Millisecond
	retryMost   = 2 * time.Second
)

// follow hands every event of the user's side of the log after sequence after to the
// queue, in order and once: live, and read from the sessions service where that missed
// something.
func (r *runner) follow(ctx context.Context, after uint64) error {
	read := func(ctx context.Context, after uint64, limit int) ([]api.Event, bool, error) {
		var page api.RunnerInboxResponse
		err := r.persist(ctx, "read the inbox", func(ctx context.Context) (err error) {
			page, err = rpc.CallAsSession(ctx, r.client, r.launch.Tenant, r.launch.Session, api.RunnerInbox,
				api.RunnerInboxRequest{After: after, Limit: min(limit, inboxPage)})
			return err
		})
		return page.Events, page.More, err
	}
	return bus.FollowUser(ctx, r.conn, r.launch.Tenant, r.launch.Session, after, read, func(ev api.Event) error { return r.deliver(ctx, ev) }, nil)
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
