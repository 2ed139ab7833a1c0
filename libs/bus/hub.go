package bus

import (
	"context"
	"strconv"
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

// Hub shares Follow's live subscriptions: however many clients of one process follow a session, it holds one
// subscription to that session, and prepares an event's JSON form once.
type Hub struct {
	c      *Conn
	read   readFunc
	open   func(session string, m stored) []*HubEvent
	writer api.LogWriter // "" for both
	reads  chan struct{} // places of those who read a page of the log

	mu     sync.Mutex
	topics map[topicName]*topic
}

// readFunc is Log.read of one writer's or both sides.
type readFunc func(ctx context.Context, tenant, session string, after uint64, limit int) ([]*HubEvent, bool, error)

// maxReaders bounds the pages that are being read at once: after a burst every follower of a session may
// have to catch up, and a page in flight costs a megabyte.
const maxReaders = 16

type topicName struct{ tenant, session string }

// NewHub returns a hub over the log.
func NewHub(l *Log) *Hub { return l.hub(spliced) }

func (l *Log) hub(open func(session string, m stored) []*HubEvent) *Hub {
	return newHub(l.c, "", open, func(ctx context.Context, tenant, session string, after uint64, limit int) ([]*HubEvent, bool, error) {
		return l.read(ctx, tenant, session, "", after, limit, open)
	})
}

func newHub(c *Conn, writer api.LogWriter, open func(session string, m stored) []*HubEvent, read readFunc) *Hub {
	return &Hub{c: c, read: read, open: open, writer: writer, reads: make(chan struct{}, maxReaders), topics: map[topicName]*topic{}}
}

// liveEntry is an entry of the log as it was republished.
type liveEntry struct {
	subject string // of the log
	before  uint64 // the Seq of the last event before it on subject
	events  []*HubEvent
}

// topic is one followed session: a subscription and the rings that it fills.
type topic struct {
	ready  chan struct{} // closed when the subscription is confirmed or has failed
	err    error
	cancel context.CancelFunc

	mu    sync.Mutex
	rings map[*ring]struct{}
}

// join adds r to the topic of a session, which it makes if r is the first.
func (h *Hub) join(ctx context.Context, name topicName, r *ring) (*topic, error) {
	h.mu.Lock()
	t := h.topics[name]
	first := t == nil
	var tctx context.Context
	if first {
		t = &topic{ready: make(chan struct{}), rings: map[*ring]struct{}{}}
		tctx, t.cancel = context.WithCancel(context.Background()) // ended by the last to leave
		h.topics[name] = t
	}
	t.mu.Lock()
	t.rings[r] = struct{}{}
	t.mu.Unlock()
	h.mu.Unlock()

	if first {
		t.err = h.c.Subscribe(tctx, api.LiveSubject(name.tenant, name.session, h.writer), func(_ string, header Header, data []byte) { //nolint:contextcheck // the last to leave ends it
			t.publish(h.entry(name.session, header, data))
		}, t.drop)
		close(t.ready)
	}
	select {
	case <-t.ready:
		if t.err != nil {
			h.leave(name, t, r)
			return nil, t.err
		}
		return t, nil
	case <-ctx.Done():
		h.leave(name, t, r)
		return nil, ctx.Err()
	}
}

// leave takes r out of t and ends t's subscription when nobody is left. A failed topic is
// forgotten at once, so that the next to join tries anew.
func (h *Hub) leave(name topicName, t *topic, r *ring) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.mu.Lock()
	delete(t.rings, r)
	left := len(t.rings)
	t.mu.Unlock()
	failed := false
	select {
	case <-t.ready:
		failed = t.err != nil
	default:
	}
	if left == 0 || failed {
		t.cancel()
		if h.topics[name] == t {
			delete(h.topics, name)
		}
	}
}

// entry decodes a live message; nil when it is not one of the log's.
func (h *Hub) entry(session string, header Header, data []byte) *liveEntry {
	seq, err := strconv.ParseUint(header.Get(headerSequence), 10, 64)
	if err != nil {
		return nil
	}
	before, err := strconv.ParseUint(header.Get(headerLastSequence), 10, 64)
	if err != nil {
		return nil
	}
	e := &liveEntry{subject: header.Get(headerSubject), before: before * seqStride}
	e.events = h.open(session, stored{seq: seq, header: header, data: data})
	return e
}

func (t *topic) publish(e *liveEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.rings {
		if e == nil {
			r.drop()
		} else {
			r.push(e)
		}
	}
}

// drop tells every follower that live events may be missing.
func (t *topic) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.rings {
		r.drop()
	}
}

// ringSize is how many live entries wait for one follower; with more it reads the log instead.
const ringSize = 128

// ring is a follower's bounded queue. It shares the entries with other rings, and is empty, of
// no size, while its follower keeps up.
type ring struct {
	mu      sync.Mutex
	entries []*liveEntry
	dropped bool
	wake    chan struct{}
}

func newRing() *ring { return &ring{wake: make(chan struct{}, 1)} }

func (r *ring) push(e *liveEntry) {
	r.mu.Lock()
	switch {
	case r.dropped: // the follower reads it from the log
	case len(r.entries) == ringSize:
		r.dropped, r.entries = true, nil
	default:
		r.entries = append(r.entries, e)
	}
	r.mu.Unlock()
	r.signal()
}

func (r *ring) drop() {
	r.mu.Lock()
	r.dropped, r.entries = true, nil
	r.mu.Unlock()
	r.signal()
}

func (r *ring) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take waits for entries. dropped says that some are missing, which the log has now. With neither, enough is over.
func (r *ring) take(ctx context.Context, enough <-chan time.Time) (entries []*liveEntry, dropped bool, err error) {
	for {
		r.mu.Lock()
		entries, dropped = r.entries, r.dropped
		r.entries, r.dropped = nil, false
		r.mu.Unlock()
		if len(entries) > 0 || dropped {
			return entries, dropped, nil
		}
		select {
		case <-r.wake:
		case <-enough:
			return nil, false, nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}
