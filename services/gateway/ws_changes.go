package gateway

import (
	"context"
	"errors"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// The feeds that a WebSocket can follow. A feed's name is its place among what a stream follows, where no session or task is called so.
const (
	feedTasks    = "tasks"
	feedSessions = "sessions"
	feedAll      = "all"
)

func isFeed(name string) bool { return name == feedTasks || name == feedSessions || name == feedAll }

// visible returns an error when c may not follow key any more: a session, a task or a feed.
func (g *Gateway) visible(c *caller, key bus.Key) error {
	switch {
	case isFeed(key.ID):
		return nil // each change is looked at by itself
	case isTask(key):
		// One that is not known yet was made a moment ago; whether it may be seen was asked.
		if e, ok := g.tasks.view.Get(key); ok && !c.CanOn(api.TaskRead, key.Tenant, e.State.Owner) {
			return errNoTask
		}
		return nil
	}
	_, err := g.table.find(c.Principal, key.ID, api.SessionRead)
	return err
}

// checkChanges looks at a frame on a task or a feed.
func checkChanges(f frame) error {
	switch {
	case f.Op != "subscribe" && f.Op != "unsubscribe":
		return api.Invalid("/op", "must be subscribe or unsubscribe on a task or a feed")
	case f.Session != "" || f.After != 0 || (f.Task == "") == (f.Feed == ""):
		return api.Invalid("/session", "name one of session, task and feed; only session goes with after, and only the others with cursor")
	case f.Task != "" && !api.ValidID(api.KindTask, f.Task):
		return api.Invalid("/task", "must be a task's id")
	case f.Feed != "" && !isFeed(f.Feed):
		return api.Invalid("/feed", "must be tasks, sessions or all")
	}
	_, err := parsePlaces("/cursor", f.Cursor, make([]bus.Key, 2))
	return err
}

// subscribeChanges acknowledges, then follows the feed or the task from its cursor on. A feed without a cursor begins with what changes next, a
// task with its first change.
func (s *socket) subscribeChanges(ctx context.Context, f frame) error {
	g := s.g
	if s.st.count() >= g.cfg.MaxSubscriptions {
		return s.fail(ctx, f, api.Errorf(api.CodeExhausted, "one connection follows at most %d sessions, tasks and feeds", g.cfg.MaxSubscriptions))
	}
	places, err := parsePlaces("/cursor", f.Cursor, make([]bus.Key, 2))
	var task api.Task
	if err == nil && f.Task != "" {
		task, err = s.task(ctx, f.Task)
	}
	if err != nil {
		return s.fail(ctx, f, err)
	}
	key := s.key(f.Task + f.Feed)
	fctx, err := s.st.follow(ctx, key)
	if err != nil {
		return s.fail(ctx, f, err)
	}
	// A feed's reader hears of what changes from before the acknowledgement on. A task's changes are looked for by itself.
	var reader *feedReader
	leave := func() {}
	if f.Feed != "" {
		reader = g.feed.join(key.Tenant)
		leave = func() { g.feed.leave(reader) }
	}
	if err := s.write(ctx, "ack", reply{Op: f.Op, Ref: f.Ref, Task: f.Task, Feed: f.Feed}); err != nil {
		leave()
		return err
	}
	g.metrics.subs.Inc()
	s.subs.Go(func() {
		defer g.metrics.subs.Dec()
		defer leave()
		out := changeFrames{s: s, ctx: ctx, task: f.Task, feed: f.Feed}
		var err error
		if reader == nil {
			fctx, end := context.WithCancelCause(fctx)
			err = (&taskEvents{g: g, st: s.st, out: out, end: end, key: key, owner: task.Owner, rev: places[0], seq: places[1], follow: true}).run(fctx)
			end(err)
		} else {
			err = g.pumpFeed(fctx, s.st, reader, out, feedStart{
				sessions: f.Feed != feedTasks, tasks: f.Feed != feedSessions, last: places[0], lastTask: places[1], resume: f.Cursor != "", follow: true,
			})
		}
		if cause := context.Cause(fctx); cause != nil {
			err = cause
		}
		if ctx.Err() != nil || errors.Is(err, context.Canceled) {
			return // the connection ended, or the client unsubscribed
		}
		s.st.unfollow(key)
		if errors.Is(err, errAtHead) { // the task has ended
			_ = s.write(ctx, "end", reply{Task: f.Task})
			return
		}
		_ = s.fail(ctx, frame{Op: "subscribe", Task: f.Task, Feed: f.Feed}, err)
	})
	return nil
}

// task asks the scheduler for a task in the client's name.
func (s *socket) task(ctx context.Context, id string) (api.Task, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	c, err := s.caller(ctx)
	if err != nil {
		return api.Task{}, err
	}
	return s.g.taskOf(ctx, c, id)
}

// changeFrames writes the events of one feed or task: {"change":{"task"|"feed":…,"type":…,"cursor":…,"data":…}}.
type changeFrames struct {
	s          *socket
	ctx        context.Context //nolint:containedctx // the connection's
	task, feed string
}

type changeFrame struct {
	Task   string          `json:"task,omitempty"`
	Feed   string          `json:"feed,omitempty"`
	Type   api.EventType   `json:"type"`
	Cursor string          `json:"cursor"`
	Data   json.RawMessage `json:"data"`
}

// send implements sink.
func (c changeFrames) send(id []byte, event api.EventType, data []byte, _ bool) error {
	msg, err := json.Marshal(map[string]changeFrame{"change": {Task: c.task, Feed: c.feed, Type: event, Cursor: string(id), Data: data}})
	if err != nil {
		return err
	}
	if event == api.EventGap {
		c.s.g.metrics.gaps.Inc()
	}
	c.s.g.metrics.events.Inc()
	return c.s.send(c.ctx, msg)
}
