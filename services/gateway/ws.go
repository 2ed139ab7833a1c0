package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

const (
	maxFrame     = 3 << 19 // bytes: a message of 1 MiB and its attachments in base64
	pingInterval = 20 * time.Second
	opTimeout    = 10 * time.Second
	// maxBadFrames in a row end a connection: whoever sends them is not listening.
	maxBadFrames = 100
)

// frameRate bounds one connection's frames; the burst lets a client subscribe to all it may at once.
var frameRate = limit.Rate{PerSecond: 500, Burst: 20_000}

// socket is one client on GET /ws. Each subscription writes its events itself; a write that waits makes its follower fall
// back to reading the log, so what a slow client costs does not grow.
type socket struct {
	g    *Gateway
	conn *websocket.Conn
	st   *stream
	subs sync.WaitGroup

	heard atomic.Uint64 // frames that were read
}

// serveWS is GET /ws.
func (g *Gateway) serveWS(w *recorder, r *http.Request, c *caller) {
	if err := g.guard.checkOrigin(r); err != nil {
		fail(w, r, err)
		return
	}
	if !isUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		failStatus(w, r, http.StatusUpgradeRequired, "this is a WebSocket endpoint; connect with ws:// or wss://")
		return
	}
	ctx, st, err := g.streams.open(r.Context(), "ws", c)
	if err != nil {
		fail(w, r, err)
		return
	}
	defer st.close()
	g.sockets.Add(1)
	defer g.sockets.Done()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // checkOrigin did
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxFrame)
	s := &socket{g: g, conn: conn, st: st}
	s.serve(ctx, pingInterval)
}

// serve answers the client until the stream or the connection ends.
func (s *socket) serve(ctx context.Context, ping time.Duration) {
	var helpers sync.WaitGroup
	helpers.Go(func() { s.keepAlive(ctx, ping) })
	s.read(ctx)
	s.st.end(errClosed)
	helpers.Wait() // it closes the connection, with the stream's reason
	s.subs.Wait()
}

func (s *socket) closeWith(cause error) {
	var e *api.Error
	code, reason := websocket.StatusNormalClosure, ""
	if errors.As(cause, &e) {
		code, reason = websocket.StatusPolicyViolation, api.Redact(e).Detail
		if e.Code == api.CodeUnavailable {
			code = websocket.StatusGoingAway
		}
	}
	_ = s.conn.Close(code, reason)
}

// keepAlive pings the client, and closes the connection with the reason when the stream ends. A client that neither answers a ping nor is heard
// otherwise is gone; an answer may stand behind thousands of frames that the client sent before it.
func (s *socket) keepAlive(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.closeWith(context.Cause(ctx))
			return
		case <-tick.C:
		}
		heard := s.heard.Load()
		pctx, cancel := context.WithTimeout(ctx, every)
		err := s.conn.Ping(pctx)
		cancel()
		if err != nil && ctx.Err() == nil && s.heard.Load() == heard {
			s.st.end(errClosed)
			_ = s.conn.CloseNow()
			return
		}
	}
}

// frame is what a client sends.
type frame struct {
	Op             string           `json:"op"`
	Ref            string           `json:"ref"` // the client's own mark, which the answer repeats
	Session        string           `json:"session"`
	After          uint64           `json:"after"`
	Task           string           `json:"task"`   // in the place of Session: its changes and what its sessions say
	Feed           string           `json:"feed"`   // likewise: the changes of all "tasks", "sessions", or "all"
	Cursor         string           `json:"cursor"` // of the last change of Task or Feed that the client has
	Content        string           `json:"content"`
	Attachments    []api.Attachment `json:"attachments"`
	ApprovalID     string           `json:"approval_id"`
	Option         string           `json:"option"`
	IdempotencyKey string           `json:"idempotency_key"`
}

// reply is an ack, an error or a pong.
type reply struct {
	Op      string   `json:"op,omitempty"`
	Ref     string   `json:"ref,omitempty"`
	Session string   `json:"session,omitempty"`
	Task    string   `json:"task,omitempty"`
	Feed    string   `json:"feed,omitempty"`
	ID      string   `json:"id,omitempty"`
	Seq     uint64   `json:"seq,omitempty"`
	Code    api.Code `json:"code,omitempty"`
	Detail  string   `json:"detail,omitempty"`
}

// read answers the client's frames, one after the other, so that its messages enter a session in the order in which it
// sent them.
func (s *socket) read(ctx context.Context) {
	bad := 0
	bucket := newBucket(frameRate)
	// Reading ends with the connection, which keepAlive closes; ctx would cut it off before the reason is sent.
	rctx := context.WithoutCancel(ctx)
	for {
		typ, data, err := s.conn.Read(rctx)
		if err != nil {
			return
		}
		s.heard.Add(1)
		f, err := parseFrame(typ, data)
		if err == nil && !bucket.take(time.Now()) {
			err = &api.Error{Code: api.CodeExhausted, Detail: "too many frames; slow down"}
		}
		if err != nil {
			if bad++; bad >= maxBadFrames {
				s.st.end(api.Errorf(api.CodeInvalid, "too many bad frames"))
				return
			}
			if s.fail(ctx, f, err) != nil {
				return
			}
			continue
		}
		bad = 0
		if s.answer(ctx, f) != nil {
			return
		}
	}
}

// parseFrame reads one client frame strictly.
func parseFrame(typ websocket.MessageType, data []byte) (frame, error) {
	var f frame
	if typ != websocket.MessageText {
		return f, api.Errorf(api.CodeInvalid, "frames are text: one JSON object each")
	}
	if err := rpc.DecodeStrict(data, &f); err != nil {
		return frame{Op: clip(f.Op), Ref: clip(f.Ref)}, err
	}
	if len(f.Ref) > maxRef {
		return frame{}, api.Invalid("/ref", "is longer than %d bytes", maxRef)
	}
	switch f.Op {
	case "ping":
	case "subscribe", "unsubscribe", "message", "interrupt", "approve":
		if f.Task != "" || f.Feed != "" || f.Cursor != "" {
			if err := checkChanges(f); err != nil {
				return frame{Op: f.Op, Ref: f.Ref}, err
			}
			return f, nil
		}
		if !api.ValidID(api.KindSession, f.Session) {
			return frame{Op: f.Op, Ref: f.Ref}, api.Invalid("/session", "must be a session's id")
		}
	default:
		return frame{Ref: f.Ref}, api.Invalid("/op", "must be subscribe, unsubscribe, message, interrupt, approve or ping")
	}
	return f, nil
}

const maxRef = 128

func clip(s string) string {
	if len(s) > maxRef {
		return ""
	}
	return s
}

// answer does what f asks. Its error is the connection's.
func (s *socket) answer(ctx context.Context, f frame) error {
	var got api.Accepted
	var err error
	switch f.Op {
	case "ping":
		return s.write(ctx, "pong", reply{Ref: f.Ref})
	case "subscribe":
		if f.Session == "" {
			return s.subscribeChanges(ctx, f)
		}
		return s.subscribe(ctx, f)
	case "unsubscribe":
		if !s.st.unfollow(s.key(f.Session + f.Task + f.Feed)) { // one of them
			err = api.Errorf(api.CodeNotFound, "this connection does not follow it")
		}
	default:
		got, err = s.operate(ctx, f)
	}
	if err != nil {
		return s.fail(ctx, f, err)
	}
	return s.write(ctx, "ack", reply{Op: f.Op, Ref: f.Ref, Session: f.Session, Task: f.Task, Feed: f.Feed, ID: got.ID, Seq: got.Seq})
}

// caller returns who the client is now, if it may ask for something more.
func (s *socket) caller(ctx context.Context) (*caller, error) {
	g, c := s.g, s.st.who.Load()
	if !g.auth.fresh(ctx, c) {
		var err error
		if c, err = g.auth.caller(ctx, c.credential, ""); err != nil {
			return nil, err
		}
	}
	return c, g.allowPrincipal(ctx, http.Header{}, g.deps.Limiter, c)
}

// operate asks the sessions service, as the REST calls of the same names do.
func (s *socket) operate(ctx context.Context, f frame) (api.Accepted, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	g := s.g
	c, err := s.caller(ctx)
	if err != nil {
		return api.Accepted{}, err
	}
	ctx = token.WithRaw(api.WithPrincipal(ctx, c.Principal), c.raw)
	switch f.Op {
	case "message":
		return rpc.Call(ctx, g.rpc, api.SendMessage, api.SendMessageRequest{
			ID: f.Session, Content: f.Content, Attachments: f.Attachments,
			IdempotencyKey: cmp.Or(f.IdempotencyKey, rpc.FreshKey()), // with one it may be asked again
		})
	case "approve":
		return rpc.Call(ctx, g.rpc, api.AnswerApproval, api.AnswerApprovalRequest{ID: f.Session, ApprovalID: f.ApprovalID, Option: f.Option})
	}
	return rpc.Call(ctx, g.rpc, api.InterruptSession, api.SessionRef{ID: f.Session})
}

func (s *socket) key(session string) bus.Key {
	return bus.Key{Tenant: s.st.owner.Tenant, ID: session}
}

// subscribe acknowledges, then follows the session. The ack comes before the first event.
func (s *socket) subscribe(ctx context.Context, f frame) error {
	g := s.g
	if s.st.count() >= g.cfg.MaxSubscriptions {
		return s.fail(ctx, f, api.Errorf(api.CodeExhausted, "one connection follows at most %d sessions", g.cfg.MaxSubscriptions))
	}
	row, err := g.table.find(s.st.who.Load().Principal, f.Session, api.SessionRead)
	if err != nil {
		return s.fail(ctx, f, err)
	}
	fctx, err := s.st.follow(ctx, row.key)
	if err != nil {
		return s.fail(ctx, f, err)
	}
	if err := s.write(ctx, "ack", reply{Op: f.Op, Ref: f.Ref, Session: f.Session}); err != nil {
		return err
	}
	g.metrics.subs.Inc()
	s.subs.Go(func() {
		defer g.metrics.subs.Dec()
		err := g.follow(fctx, row.key, f.After, func(ev *bus.HubEvent) error {
			return s.event(ctx, ev)
		}, nil)
		if cause := context.Cause(fctx); cause != nil {
			err = cause
		}
		if ctx.Err() != nil || errors.Is(err, context.Canceled) {
			return // the connection ended, or the client unsubscribed
		}
		s.st.unfollow(row.key)
		// The session went away, or the access to it; the connection stays.
		_ = s.fail(ctx, frame{Op: "subscribe", Session: f.Session}, err)
	})
	return nil
}

func (s *socket) event(ctx context.Context, ev *bus.HubEvent) error {
	msg := make([]byte, 0, len(ev.JSON)+len(`{"event":}`))
	msg = append(msg, `{"event":`...)
	msg = append(msg, ev.JSON...)
	msg = append(msg, '}')
	if ev.Type == api.EventGap {
		s.g.metrics.gaps.Inc()
	}
	s.g.metrics.events.Inc()
	return s.send(ctx, msg)
}

func (s *socket) fail(ctx context.Context, f frame, err error) error {
	e := api.Redact(err)
	return s.write(ctx, "error", reply{Op: f.Op, Ref: f.Ref, Session: f.Session, Task: f.Task, Feed: f.Feed, Code: e.Code, Detail: e.Detail})
}

func (s *socket) write(ctx context.Context, kind string, r reply) error {
	msg, err := json.Marshal(map[string]reply{kind: r})
	if err != nil {
		return err
	}
	return s.send(ctx, msg)
}

// send writes one frame, or ends the connection when the client does not take it in time.
func (s *socket) send(ctx context.Context, msg []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Whoever ends ctx sends the reason; a frame that is on its way then would cut the connection off before.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.g.cfg.WriteTimeout)
	defer cancel()
	err := s.conn.Write(wctx, websocket.MessageText, msg)
	if err != nil && ctx.Err() == nil {
		if errors.Is(err, context.DeadlineExceeded) {
			s.g.metrics.slow.Inc()
		}
		s.st.end(errClosed)
		_ = s.conn.CloseNow()
	}
	return err
}

// bucket is a token bucket of one goroutine.
type bucket struct {
	rate   limit.Rate
	tokens float64
	last   time.Time
}

func newBucket(r limit.Rate) *bucket {
	return &bucket{rate: r, tokens: float64(r.Burst), last: time.Now()}
}

func (b *bucket) take(now time.Time) bool {
	b.tokens = min(float64(b.rate.Burst), b.tokens+now.Sub(b.last).Seconds()*b.rate.PerSecond)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
