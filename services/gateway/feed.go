package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// maxPending bounds the changed sessions that wait for one reader of the feed. Beyond it the reader is served from the
// table instead: the newest state of whatever changed after the last one it was sent.
const maxPending = 1024

// feed tells readers which sessions changed. It keeps no changes: a reader that is slow finds a session's newest state,
// and so costs at most maxPending keys.
type feed struct {
	mu      sync.Mutex
	readers map[string]map[*feedReader]struct{} // by tenant: a change costs nothing for another's readers
}

type feedReader struct {
	tenant string
	wake   chan struct{}

	mu      sync.Mutex
	pending map[bus.Key]struct{}
	over    bool // more changed than pending holds
}

func newFeed() *feed { return &feed{readers: map[string]map[*feedReader]struct{}{}} }

func (f *feed) join(tenant string) *feedReader {
	r := &feedReader{tenant: tenant, wake: make(chan struct{}, 1), pending: map[bus.Key]struct{}{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers[tenant] == nil {
		f.readers[tenant] = map[*feedReader]struct{}{}
	}
	f.readers[tenant][r] = struct{}{}
	return r
}

func (f *feed) leave(r *feedReader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers[r.tenant], r)
	if len(f.readers[r.tenant]) == 0 {
		delete(f.readers, r.tenant)
	}
}

// notify tells the tenant's readers that key changed. It does not block.
func (f *feed) notify(key bus.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers[key.Tenant] {
		r.notify(key)
	}
}

func (r *feedReader) notify(key bus.Key) {
	r.mu.Lock()
	if len(r.pending) < maxPending {
		r.pending[key] = struct{}{}
	} else {
		r.over = true
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns what changed since the last call, and whether that is not all.
func (r *feedReader) take() (keys []bus.Key, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.pending {
		keys = append(keys, k)
	}
	clear(r.pending)
	over, r.over = r.over, false
	return keys, over
}

// serveFeed is GET /sse without a session: event "session" for each change of a session that the caller may see, its data an
// api.Change with the public Session, and event "task" for each change of a task, its data an api.Change with the Task without what it asks
// for. The event id is the revisions up to which sessions and tasks were told, joined with a dot. Resumed after it, the feed gives the newest state of
// whatever changed since; states in between may be left out, and what was purged meanwhile is not told.
func (g *Gateway) serveFeed(w *recorder, r *http.Request, c *caller) {
	places, follow, err := parseStart(r, make([]bus.Key, 2))
	if err != nil {
		fail(w, r, err)
		return
	}
	start := r.Header.Get("Last-Event-ID")
	if start == "" {
		start = r.URL.Query().Get("after")
	}
	resume := start != "" || r.URL.Query().Has("after")
	if !strings.Contains(start, ".") && places[0] > 0 { // of a release that told sessions only
		places[1] = g.tasks.head.Load()
	}
	reader := g.feed.join(c.Tenant) // before the head is sent: what changes after it is told
	defer g.feed.leave(reader)
	ctx, st, out, ok := g.openSSE(w, r, "feed", c)
	if !ok {
		return
	}
	defer st.close()
	st.end(g.pumpFeed(ctx, st, reader, out, feedStart{sessions: true, tasks: true, last: places[0], lastTask: places[1], resume: resume, follow: follow}))
	out.close(context.Cause(ctx))
}

// sink takes the events of a feed or of a task. What is not urgent may wait for others to be written with it.
type sink interface {
	send(id []byte, event api.EventType, data []byte, now bool) error
}

// feedStart says what of the feed a reader wants, and where it begins.
type feedStart struct {
	sessions, tasks bool
	last, lastTask  uint64 // told up to here
	resume          bool   // what has changed since is told first
	follow          bool
}

func (g *Gateway) pumpFeed(ctx context.Context, st *stream, reader *feedReader, out sink, start feedStart) error {
	catchUp := start.resume
	last, lastTask := start.last, start.lastTask
	for {
		p := st.who.Load().Principal
		// What changes from here on is for the next round: else a change could be passed over
		// because a later one of another session was sent first.
		head, taskHead := g.table.head.Load(), g.tasks.head.Load()
		keys, over := reader.take()
		var taskItems []feedItem
		if start.tasks {
			var err error
			taskItems, err = g.taskItems(p, reader, keys, catchUp || over, lastTask, taskHead)
			if err != nil {
				return err
			}
		}
		var rows []*row
		switch {
		case !start.sessions:
		case catchUp || over:
			rows = g.table.since(p, last)
		default:
			for _, k := range keys {
				if r, ok := g.table.get(k); ok && r.rev > last && p.CanOn(api.SessionRead, k.Tenant, r.rec.Owner) {
					rows = append(rows, r)
				}
			}
		}
		catchUp = false
		rows = slices.DeleteFunc(rows, func(r *row) bool {
			if r.rev > head {
				reader.notify(r.key)
				return true
			}
			return false
		})
		slices.SortFunc(rows, func(a, b *row) int { return cmp.Compare(a.rev, b.rev) })
		for i, r := range rows {
			data, err := feedData(r)
			if err != nil {
				return err
			}
			last = r.rev
			if err := out.send(feedID(last, lastTask), "session", data, i == len(rows)-1); err != nil {
				return err
			}
		}
		for i, t := range taskItems {
			lastTask = t.rev
			if err := out.send(feedID(last, lastTask), "task", t.data, i == len(taskItems)-1); err != nil {
				return err
			}
		}
		if !start.follow {
			return errAtHead
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-reader.wake:
		}
	}
}

// feedItem is one task's event of the feed.
type feedItem struct {
	rev  uint64
	data []byte
}

func feedID(session, task uint64) []byte {
	return strconv.AppendUint(append(strconv.AppendUint(nil, session, 10), '.'), task, 10)
}

// feedData is a change as clients see it: the public part of the record only.
func feedData(r *row) ([]byte, error) {
	return json.Marshal(api.Change[api.Session]{
		Rev: r.rev, At: r.last.At, Actor: r.last.Actor, Verb: r.last.Verb, Reason: r.last.Reason, State: r.rec.Session,
	})
}

// errorEvent is the last event of a stream that the server ends.
func errorEvent(e *api.Error) []byte {
	safe := api.Redact(e)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	_ = enc.Encode(struct {
		Type   api.EventType `json:"type"`
		Code   api.Code      `json:"code"`
		Detail string        `json:"detail"`
	}{api.EventError, safe.Code, safe.Detail})
	return bytes.TrimSpace(b.Bytes())
}
