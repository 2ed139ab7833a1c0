package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// flushBytes is how much of a catch-up is gathered before it is written.
	flushBytes = 32 << 10
	// maxSSESessions bounds ?session= of GET /sse: each has its place in the event id. A WebSocket takes more.
	maxSSESessions = 64
)

// sseStream writes one SSE response. Between writes it holds no buffer; a write that takes too long ends the stream.
type sseStream struct {
	w     *recorder
	beat  *time.Timer
	count *metrics

	mu  sync.Mutex
	buf *[]byte // what is not written yet; nil: nothing
	err error   // the first that a write met, or errClosed
}

var (
	errClosed  = errors.New("stream closed")
	errAtHead  = errors.New("at the head")
	sseBuffers = sync.Pool{New: func() any { b := make([]byte, 0, flushBytes+4096); return &b }}
)

// openSSE registers a stream of c, sends the head of its response and begins the heartbeats. With ok the caller closes both; else the request is
// answered: it was refused, or asked for the head only.
func (g *Gateway) openSSE(w *recorder, r *http.Request, kind string, c *caller) (ctx context.Context, st *stream, out *sseStream, ok bool) {
	ctx, st, err := g.streams.open(r.Context(), kind, c)
	if err != nil {
		fail(w, r, err)
		return nil, nil, nil, false
	}
	out = g.newSSE(w)
	if r.Method == http.MethodHead {
		out.close(nil)
		st.close()
		return nil, nil, nil, false
	}
	return ctx, st, out, true
}

// newSSE sends the head of the response and begins the heartbeats.
func (g *Gateway) newSSE(w *recorder) *sseStream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	s := &sseStream{w: w, count: g.metrics}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.flush()
	// A timer costs no goroutine while it waits.
	s.beat = time.AfterFunc(heartbeatInterval, s.heartbeat)
	return s
}

func (s *sseStream) heartbeat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.append(": \n\n")
	if s.flush() == nil {
		s.beat.Reset(heartbeatInterval)
	}
}

func (s *sseStream) append(parts ...string) {
	if s.buf == nil {
		s.buf = sseBuffers.Get().(*[]byte)
	}
	for _, p := range parts {
		*s.buf = append(*s.buf, p...)
	}
}

// send writes one event; data is one line. Without now it may wait for others to be written together.
func (s *sseStream) send(id []byte, event api.EventType, data []byte, now bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if len(id) > 0 {
		s.append("id: ")
		*s.buf = append(*s.buf, id...)
		s.append("\n")
	}
	s.append("event: ", string(event), "\ndata: ")
	*s.buf = append(*s.buf, data...)
	s.append("\n\n")
	if event == api.EventGap {
		s.count.gaps.Inc()
	}
	s.count.events.Inc()
	if now || len(*s.buf) >= flushBytes {
		return s.flush()
	}
	return nil
}

// head writes what waits: a catch-up is complete.
func (s *sseStream) head() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.buf != nil {
		_ = s.flush()
	}
}

// flush needs the lock.
func (s *sseStream) flush() error {
	s.w.extend()
	var err error
	if s.buf != nil {
		_, err = s.w.Write(*s.buf)
		if cap(*s.buf) <= 4*flushBytes { // one huge event does not stay in the pool
			*s.buf = (*s.buf)[:0]
			sseBuffers.Put(s.buf)
		}
		s.buf = nil
	}
	if err == nil {
		err = s.w.flush()
	}
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.count.slow.Inc()
		}
		s.err = fmt.Errorf("write events: %w", err)
	}
	return s.err
}

// close ends the stream. cause, if it is an api.Error, is told to the client as a last event.
func (s *sseStream) close(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beat.Stop()
	var e *api.Error
	if errors.As(cause, &e) && s.err == nil {
		s.append("event: error\ndata: ", string(errorEvent(e)), "\n\n")
	}
	if s.err == nil {
		_ = s.flush()
		s.err = errClosed
	}
}

// serveEvents is GET /api/v1/sessions/{id}/events.
func (g *Gateway) serveEvents(w *recorder, r *http.Request, c *caller) {
	row, err := g.table.find(c.Principal, r.PathValue("id"), api.SessionRead)
	if err != nil {
		fail(w, r, err)
		return
	}
	g.streamEvents(w, r, c, []bus.Key{row.key})
}

// serveSSE is GET /sse: the events of the named sessions, or without any the changes of all that the caller may see.
func (g *Gateway) serveSSE(w *recorder, r *http.Request, c *caller) {
	q := r.URL.Query()
	if !q.Has("session") {
		w.class = routeFeed
		g.serveFeed(w, r, c)
		return
	}
	var keys []bus.Key
	seen := map[string]bool{}
	for _, list := range q["session"] {
		for id := range strings.SplitSeq(list, ",") {
			if seen[id] {
				continue
			}
			seen[id] = true
			if len(seen) > maxSSESessions {
				fail(w, r, api.Invalid("/session", "names more than %d sessions; use /ws", maxSSESessions))
				return
			}
			row, err := g.table.find(c.Principal, id, api.SessionRead)
			if err != nil {
				fail(w, r, err)
				return
			}
			keys = append(keys, row.key)
		}
	}
	g.streamEvents(w, r, c, keys)
}

// streamEvents follows the sessions keys. With several, the event id holds the place in each, so that a client resumes
// each where it was.
func (g *Gateway) streamEvents(w *recorder, r *http.Request, c *caller, keys []bus.Key) {
	places, follow, err := parseStart(r, keys)
	if err != nil {
		fail(w, r, err)
		return
	}
	ctx, st, out, ok := g.openSSE(w, r, "sse", c)
	if !ok {
		return
	}
	defer st.close()
	m := &merged{out: out, places: places, catchingUp: len(keys), follow: follow, end: st.end}
	one := func(i int) {
		fctx, err := st.follow(ctx, keys[i])
		if err == nil {
			err = g.follow(fctx, keys[i], places[i], m.sender(i), m.atHead)
			if cause := context.Cause(fctx); cause != nil {
				err = cause
			}
		}
		st.end(err)
	}
	if len(keys) == 1 {
		one(0) // the usual case costs no further goroutine
	} else {
		var followers sync.WaitGroup
		for i := range keys {
			followers.Go(func() { one(i) })
		}
		followers.Wait()
	}
	out.close(context.Cause(ctx))
}

// merged writes the events of several sessions to one stream. An event and the id that counts it as seen are one step, so
// whatever a client saw last is where it can resume.
type merged struct {
	out    *sseStream
	follow bool
	end    context.CancelCauseFunc

	mu         sync.Mutex
	places     []uint64 // where the client stands in each session
	catchingUp int      // sessions that have not reached their head
	text       []byte
}

func (m *merged) sender(i int) func(*bus.HubEvent) error {
	return func(ev *bus.HubEvent) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.catchingUp == 0 && !m.follow {
			return errAtHead
		}
		m.places[i] = ev.Seq
		m.text = m.text[:0]
		for j, p := range m.places {
			if j > 0 {
				m.text = append(m.text, '.')
			}
			m.text = strconv.AppendUint(m.text, p, 10)
		}
		return m.out.send(m.text, ev.Type, ev.JSON, m.catchingUp == 0)
	}
}

func (m *merged) atHead() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.catchingUp--
	m.out.head()
	if m.catchingUp == 0 && !m.follow {
		m.end(errAtHead)
	}
}
