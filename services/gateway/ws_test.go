package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// ws is a client of GET /ws.
type ws struct {
	t    testing.TB
	conn *websocket.Conn
	ctx  context.Context
}

// said is one server frame.
type said struct {
	Event  *api.Event   `json:"event"`
	Change *changeFrame `json:"change"`
	Ack    *reply       `json:"ack"`
	Error  *reply       `json:"error"`
	Pong   *reply       `json:"pong"`
	End    *reply       `json:"end"`
}

func openWS(t testing.TB, g *Gateway, cred string) *ws {
	t.Helper()
	ctx := timeout(t)
	conn, _, err := websocket.Dial(ctx, g.URL()+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + cred}}})
	must(t, err)
	conn.SetReadLimit(8 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &ws{t, conn, ctx}
}

func (w *ws) send(format string, args ...any) {
	w.t.Helper()
	must(w.t, w.conn.Write(w.ctx, websocket.MessageText, fmt.Appendf(nil, format, args...)))
}

func (w *ws) next() said {
	w.t.Helper()
	_, data, err := w.conn.Read(w.ctx)
	must(w.t, err)
	var f said
	must(w.t, json.Unmarshal(data, &f))
	return f
}

func TestWebSocket(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	a, b := y.session(g, "alice-key", ""), y.session(g, "alice-key", "")
	theirs, others := y.session(g, "bob-key", ""), y.session(g, "evil-key", "")
	y.say("alice-key", a, 0, 3)

	t.Run("follows several sessions, from the log and live", func(t *testing.T) {
		w := openWS(t, g, "alice-key")
		w.send(`{"op":"subscribe","session":%q,"ref":"r1"}`, a)
		if f := w.next(); f.Ack == nil || f.Ack.Session != a || f.Ack.Ref != "r1" {
			t.Fatalf("first is %+v", f)
		}
		for i := range 3 {
			if f := w.next(); f.Event == nil || f.Event.Session != a || f.Event.Content != fmt.Sprintf("m%d", i) {
				t.Fatalf("event %d is %+v", i, f)
			}
		}
		w.send(`{"op":"subscribe","session":%q}`, b)
		w.next()
		w.send(`{"op":"message","session":%q,"content":"hello","idempotency_key":"k1"}`, b)
		var acked, came uint64
		for acked == 0 || came == 0 {
			switch f := w.next(); {
			case f.Ack != nil:
				acked = f.Ack.Seq
			case f.Event != nil && f.Event.Content == "hello":
				came = f.Event.Seq
			default:
				t.Fatalf("unexpected %+v", f)
			}
		}
		if acked != came {
			t.Errorf("acknowledged as %d, came as %d", acked, came)
		}
		w.send(`{"op":"unsubscribe","session":%q}`, b)
		if f := w.next(); f.Ack == nil {
			t.Fatalf("unsubscribe: %+v", f)
		}
		y.say("alice-key", b, 1, 1)
		w.send(`{"op":"ping","ref":"p"}`)
		if f := w.next(); f.Pong == nil || f.Pong.Ref != "p" {
			t.Errorf("after unsubscribing came %+v", f)
		}
	})
	t.Run("answers bad frames with errors and stays", func(t *testing.T) {
		w := openWS(t, g, "alice-key")
		for _, c := range []struct{ frame, code string }{
			{`{`, "invalid"},
			{`[]`, "invalid"},
			{`{"op":"subscribe"}`, "invalid"},
			{`{"op":"steal","session":"` + a + `"}`, "invalid"},
			{`{"op":"ping","extra":1}`, "invalid"},
			{`{"op":"subscribe","op":"ping"}`, "invalid"},
			{`{"OP":"ping"}`, "invalid"},
			{`null`, "invalid"},
			{`{"op":"ping"} {"op":"ping"}`, "invalid"},
			{`{"op":"subscribe","session":"` + a + `","after":-1}`, "invalid"},
			{`{"op":"subscribe","session":"../../x"}`, "invalid"},
			{`{"op":"subscribe","session":"` + theirs + `"}`, "not_found"},
			{`{"op":"subscribe","session":"` + others + `"}`, "not_found"},
			{`{"op":"message","session":"` + others + `","content":"x"}`, "not_found"},
			{`{"op":"unsubscribe","session":"` + b + `"}`, "not_found"},
		} {
			w.send("%s", c.frame)
			if f := w.next(); f.Error == nil || string(f.Error.Code) != c.code {
				t.Errorf("%s: %+v, want %s", c.frame, f.Error, c.code)
			}
		}
		must(t, w.conn.Write(w.ctx, websocket.MessageBinary, []byte(`{"op":"ping"}`)))
		if f := w.next(); f.Error == nil {
			t.Error("a binary frame was taken")
		}
		w.send(`{"op":"subscribe","session":%q}`, b)
		w.next()
		w.send(`{"op":"subscribe","session":%q}`, b)
		for {
			f := w.next()
			if f.Event != nil {
				continue
			}
			if f.Error == nil || f.Error.Code != api.CodeConflict {
				t.Errorf("a second subscription: %+v", f)
			}
			break
		}
	})
	t.Run("ends a flood of bad frames", func(t *testing.T) {
		w := openWS(t, g, "alice-key")
		for range maxBadFrames {
			w.send(`nonsense`)
		}
		for {
			_, _, err := w.conn.Read(w.ctx)
			if err != nil {
				if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
					t.Errorf("ended with %v", err)
				}
				return
			}
		}
	})
	t.Run("ends an oversize frame", func(t *testing.T) {
		w := openWS(t, g, "alice-key")
		go func() { _ = w.conn.Write(w.ctx, websocket.MessageText, make([]byte, maxFrame+1)) }()
		if _, _, err := w.conn.Read(w.ctx); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("refuses a page of another origin", func(t *testing.T) {
		for origin, ok := range map[string]bool{"https://evil.example": false, "null": false, g.URL(): true} {
			conn, resp, err := websocket.Dial(timeout(t), g.URL()+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer alice-key"}, "Origin": {origin}}})
			if ok != (err == nil) {
				t.Errorf("%s: %v", origin, err)
			}
			if err == nil {
				_ = conn.CloseNow()
			} else if resp.StatusCode != 403 {
				t.Errorf("%s: %d", origin, resp.StatusCode)
			}
		}
	})
	t.Run("ends with its key", func(t *testing.T) {
		y.key("short-key", api.Principal{ID: id("u", "short"), Tenant: "acme", Roles: []api.Role{api.RoleAdmin}, Key: id("k", "short")})
		w := openWS(t, g, "short-key")
		w.send(`{"op":"subscribe","session":%q}`, b)
		w.next()
		s := openSSE(t, g, "short-key", "/api/v1/sessions/"+b+"/events")
		s.want(1)
		f := openSSE(t, g, "short-key", "/sse?after=0")
		f.want(1)
		begin := time.Now()
		y.mu.Lock()
		delete(y.keys, "short-key")
		y.mu.Unlock()
		y.revoke("key", "acme", id("k", "short"))
		for {
			if _, _, err := w.conn.Read(w.ctx); err != nil {
				if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
					t.Errorf("the socket ended with %v", err)
				}
				break
			}
		}
		for _, s := range []*sse{s, f} {
			for {
				if _, ok := s.next(); !ok {
					break
				}
			}
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the streams ended after %v", took)
		}
		if resp, _ := call(t, g, "short-key", "GET", "/api/v1/users/me", nil); resp.StatusCode != 401 {
			t.Errorf("the key still opens: %d", resp.StatusCode)
		}
	})
	t.Run("ends with its key, and says so, while frames are on their way", func(t *testing.T) {
		c := y.session(g, "alice-key", "")
		big := strings.Repeat("x", 64<<10)
		for range 400 { // 25 MiB: more than the sockets' buffers take
			_, _, err := y.log.AppendUser(timeout(t), "acme", c, "", api.Event{Type: api.EventUserMessage, At: time.Now(), Content: big})
			must(t, err)
		}
		y.key("brief-key", api.Principal{ID: id("u", "brief"), Tenant: "acme", Roles: []api.Role{api.RoleAdmin}, Key: id("k", "brief")})
		w := openWS(t, g, "brief-key")
		w.send(`{"op":"subscribe","session":%q}`, c)
		w.next()
		w.next() // the first of them
		y.revoke("key", "acme", id("k", "brief"))
		for {
			if _, _, err := w.conn.Read(w.ctx); err != nil {
				if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
					t.Errorf("the socket ended with %v", err)
				}
				break
			}
		}
	})
}

// TestManySubscriptions: one socket follows very many sessions at a bounded cost, and nobody else is slowed.
func TestManySubscriptions(t *testing.T) {
	y := newYard(t)
	const n = 10_000
	g := y.gateway(func(c *Config) { c.MaxSubscriptions = n })
	ids := make([]string, n+1)
	p := y.keys["alice-key"]
	work := make(chan int)
	errs := make(chan error, 64)
	for range 32 {
		go func() {
			var first error
			for i := range work {
				ids[i] = api.NewID(api.KindSession)
				_, err := y.records.Create(timeout(t), bus.Key{Tenant: "acme", ID: ids[i]}, bus.Meta{Actor: p.ID, Verb: "create"},
					api.SessionRecord{Session: api.Session{ID: ids[i], Tenant: "acme", Owner: p.ID, State: api.StateRunning}})
				first = errors.Join(first, err)
			}
			errs <- first
		}()
	}
	for i := range ids {
		work <- i
	}
	close(work)
	for range 32 {
		must(t, <-errs)
	}
	y.known(g, sessionKey("acme", ids[n]))
	until(t, "all are known", func() bool { g.table.mu.RLock(); defer g.table.mu.RUnlock(); return len(g.table.rows) == n+1 })

	before := heap()
	w := openWS(t, g, "alice-key")
	acks := make(chan error, 1)
	events := make(chan *api.Event, 16)
	go func() {
		for got := 0; ; {
			_, data, err := w.conn.Read(w.ctx)
			if err != nil {
				acks <- err
				return
			}
			var f said
			_ = json.Unmarshal(data, &f)
			switch {
			case f.Ack != nil:
				if got++; got == n {
					acks <- nil
				}
			case f.Error != nil:
				events <- &api.Event{Code: f.Error.Code}
			case f.Event != nil:
				events <- f.Event
			}
		}
	}()
	for i := range n {
		w.send(`{"op":"subscribe","session":%q}`, ids[i])
	}
	must(t, <-acks)
	next := func() *api.Event {
		t.Helper()
		select {
		case ev := <-events:
			return ev
		case err := <-acks: // there is nothing more to acknowledge
			t.Fatalf("the socket ended with %v", err)
			return nil
		}
	}
	w.send(`{"op":"subscribe","session":%q}`, ids[n])
	if ev := next(); ev.Code != api.CodeExhausted {
		t.Errorf("the one above the bound: %+v", ev)
	}
	perSub := int64(heap()-before) / n
	if f := os.Getenv("GATEWAY_HEAP"); f != "" {
		o, _ := os.Create(f)
		_ = pprof.WriteHeapProfile(o)
		_ = o.Close()
	}
	t.Logf("%d bytes of heap and stack per subscription, both ends and the bus's server included", perSub)
	if perSub > 40<<10 {
		t.Errorf("%d bytes per subscription", perSub)
	}
	begin := time.Now()
	y.say("alice-key", ids[n/2], 0, 1)
	if ev := next(); ev.Session != ids[n/2] {
		t.Errorf("event of %s", ev.Session)
	}
	if resp, _ := call(t, g, "bob-key", "GET", "/api/v1/users/me", nil); resp.StatusCode != 200 {
		t.Error(resp.StatusCode)
	}
	t.Logf("event and another's request after %v", time.Since(begin))
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestClientThatNeverReads: its streams end after the write timeout, having cost a bounded amount of memory, while another client
// of the same session gets everything.
func TestClientThatNeverReads(t *testing.T) {
	y := newYard(t)
	g := y.gateway(func(c *Config) { c.WriteTimeout = 3 * time.Second }) // the reader's too, which pauses to look at the heap
	sid := y.session(g, "alice-key", "")
	reader := openSSE(t, g, "alice-key", "/api/v1/sessions/"+sid+"/events")

	const deaf = 20 // of each kind
	for range deaf {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.URL(), "http://"))
		must(t, err)
		defer func() { _ = c.Close() }()
		must(t, c.(*net.TCPConn).SetReadBuffer(4096))
		_, err = fmt.Fprintf(c, "GET /api/v1/sessions/%s/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\n\r\n", sid)
		must(t, err)
		openWS(t, g, "alice-key").send(`{"op":"subscribe","session":%q}`, sid)
	}
	open := func() int { g.streams.mu.Lock(); defer g.streams.mu.Unlock(); return len(g.streams.all) }
	until(t, "all are connected", func() bool { return open() == 2*deaf+1 })

	before := heap()
	big := strings.Repeat("x", 64<<10)
	const n = 400 // 25 MiB: more than the sockets' buffers take
	var peak uint64
	go func() {
		for range n {
			_, _, _ = y.log.AppendUser(timeout(t), "acme", sid, "", api.Event{Type: api.EventUserMessage, At: time.Now(), Content: big})
		}
	}()
	for i := range n {
		reader.want(1)
		if i%50 == 0 {
			peak = max(peak, heap())
		}
	}
	until(t, "the deaf clients' streams ended", func() bool { return open() == 1 })
	// Kept for each, it would be 1,000 MiB. The bus's server in this process keeps some of it too.
	if grew := int64(max(peak, heap())) - int64(before); grew > 100<<20 {
		t.Errorf("the heap grew by %d MiB", grew>>20)
	}
}
