package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
)

// wsServer speaks GET /ws for one session and breaks the connection whenever lose says so, before it answers.
type wsServer struct {
	mu     sync.Mutex
	log    []api.Event
	keys   map[string]uint64 // idempotency key → sequence
	lose   func(clientFrame) bool
	denied bool
}

func (s *wsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	for {
		_, data, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		var f clientFrame
		_ = json.Unmarshal(data, &f)
		s.mu.Lock()
		out, lost := s.answer(f)
		s.mu.Unlock()
		if lost {
			return
		}
		for _, msg := range out {
			if conn.Write(r.Context(), websocket.MessageText, []byte(msg)) != nil {
				return
			}
		}
	}
}

func (s *wsServer) answer(f clientFrame) (out []string, lost bool) {
	switch f.Op {
	case "subscribe":
		if s.denied {
			return []string{fmt.Sprintf(`{"error":{"op":"subscribe","ref":%q,"code":"not_found","detail":"no such session"}}`, f.Ref)}, false
		}
		out = append(out, fmt.Sprintf(`{"ack":{"op":"subscribe","ref":%q}}`, f.Ref))
		for _, ev := range s.log {
			if ev.Seq > f.After {
				data, _ := json.Marshal(map[string]api.Event{"event": ev})
				out = append(out, string(data))
			}
		}
		return out, false
	case "message":
		seq, again := s.keys[f.IdempotencyKey]
		if !again {
			seq = uint64(len(s.log) + 1)
			s.keys[f.IdempotencyKey] = seq
			s.log = append(s.log, api.Event{Seq: seq, Type: api.EventUserMessage, Content: f.Content})
			data, _ := json.Marshal(map[string]api.Event{"event": s.log[seq-1]})
			out = append(out, string(data))
		}
		out = append(out, fmt.Sprintf(`{"ack":{"op":"message","ref":%q,"id":"m","seq":%d}}`, f.Ref, seq))
	case "interrupt":
		out = append(out, fmt.Sprintf(`{"error":{"op":"interrupt","ref":%q,"code":"conflict","detail":"nothing to interrupt"}}`, f.Ref))
	}
	return out, s.lose != nil && s.lose(f)
}

func TestAttach(t *testing.T) {
	t.Run("a message survives the connection and is said once", func(t *testing.T) {
		losses := 3
		s := &wsServer{keys: map[string]uint64{}, lose: func(clientFrame) bool { losses--; return losses >= 0 }}
		c := serve(t, s.ServeHTTP)
		a := c.Attach(EventsConfig{Session: "s"})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		done := errors.New("done")
		var seen []string
		ran := make(chan error, 1)
		go func() {
			ran <- a.Run(ctx, func(ev api.Event) error {
				if seen = append(seen, ev.Content); len(seen) == 3 {
					return done
				}
				return nil
			})
		}()
		for i := range 3 {
			got, err := a.Send(ctx, fmt.Sprint("message ", i))
			if i < 2 && (err != nil || got.Seq != uint64(i+1)) {
				t.Fatalf("message %d: %+v, %v", i, got, err)
			}
		}
		if err := <-ran; !errors.Is(err, done) {
			t.Fatal(err)
		}
		if fmt.Sprint(seen) != "[message 0 message 1 message 2]" || len(s.log) != 3 || losses > 0 {
			t.Errorf("seen %q, log %d, losses left %d", seen, len(s.log), losses)
		}
		if _, err := a.Send(ctx, "late"); err == nil {
			t.Error("a message is taken after the end")
		}
	})
	t.Run("what must not be repeated fails with the connection", func(t *testing.T) {
		lose := true
		s := &wsServer{keys: map[string]uint64{}, lose: func(clientFrame) bool { was := lose; lose = false; return was }}
		c := serve(t, s.ServeHTTP)
		a := c.Attach(EventsConfig{Session: "s"})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- a.Run(ctx, func(api.Event) error { return nil }) }()
		if err := a.Interrupt(ctx); !errors.Is(err, errLost) {
			t.Errorf("got %v", err)
		}
		if err := a.Interrupt(ctx); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("got %v", err)
		}
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("a refusal is final", func(t *testing.T) {
		c := serve(t, (&wsServer{denied: true}).ServeHTTP)
		if err := c.Attach(EventsConfig{Session: "s"}).Run(t.Context(), nil); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("got %v", err)
		}
		c = serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
		if err := c.Attach(EventsConfig{Session: "s"}).Run(t.Context(), nil); api.CodeOf(err) != api.CodeUnauthenticated {
			t.Errorf("got %v", err)
		}
	})
}
