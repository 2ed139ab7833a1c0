package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL, "the-key")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8080", "ftp://x", "http://", "http://user:pw@host", "http://a b"} {
		if _, err := New(bad, ""); err == nil {
			t.Errorf("New(%q) takes it", bad)
		}
	}
	c, err := New("http://host:1/base/?q#f", "")
	if err != nil || c.URL() != "http://host:1/base" {
		t.Errorf("URL is %q, %v", c.URL(), err)
	}
}

func TestDo(t *testing.T) {
	t.Run("places each field where its operation says", func(t *testing.T) {
		var got, body string
		var header http.Header
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			data, _ := io.ReadAll(r.Body)
			got, body, header = r.Method+" "+r.URL.RequestURI(), string(data), r.Header
			fmt.Fprint(w, `{}`)
		})
		ctx := t.Context()
		check := func(err error, want, wantBody string) {
			t.Helper()
			if err != nil || got != want || body != wantBody {
				t.Errorf("got %s %s, %v; want %s %s", got, body, err, want, wantBody)
			}
		}
		_, err := Do(ctx, c, api.ListSessions, api.ListSessionsRequest{Label: []string{"a=b", "c=d"}, List: api.List{Limit: 7}})
		check(err, "GET /api/v1/sessions?label=a%3Db&label=c%3Dd&limit=7", "")
		if header.Get("Authorization") != "Bearer the-key" {
			t.Error("the key was not presented")
		}
		_, err = Do(ctx, c, api.CreateSession, api.CreateSessionRequest{Title: "x", Wait: "running", TTL: api.Duration(time.Minute), IdempotencyKey: "i"})
		check(err, "POST /api/v1/sessions?wait=running", `{"title":"x","ttl":"1m0s"}`)
		if header.Get("Idempotency-Key") != "i" {
			t.Error("no idempotency key")
		}
		_, err = Do(ctx, c, api.AnswerApproval, api.AnswerApprovalRequest{ID: "s1", ApprovalID: "a/1", Option: "yes"})
		check(err, "POST /api/v1/sessions/s1/approvals/a%2F1", `{"option":"yes"}`)
		_, err = Do(ctx, c, api.UpdateProfile, api.UpdateProfileRequest{Name: "p", IfMatch: 5, Profile: api.Profile{Name: "p", Description: "d"}})
		if header.Get("If-Match") != `"5"` {
			t.Errorf("If-Match is %s", header.Get("If-Match"))
		}
		check(err, "PUT /api/v1/profiles/p", `{"name":"p","description":"d","agent":{},"rev":0}`)
		_, err = Do(ctx, c, api.PauseSession, api.SessionRef{ID: "s1"})
		check(err, "POST /api/v1/sessions/s1/pause", "")
	})
	t.Run("a name cannot leave its place in the path", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) })
		for _, id := range []string{"", ".", ".."} {
			if _, err := Do(t.Context(), c, api.GetSession, api.SessionRef{ID: id}); err == nil {
				t.Errorf("id %q was sent", id)
			}
		}
	})
	t.Run("returns the server's problem", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(409)
			fmt.Fprint(w, `{"title":"Conflict","detail":"it is paused","code":"conflict"}`)
		})
		_, err := Do(t.Context(), c, api.GetSession, api.SessionRef{ID: "s"})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeConflict || e.Detail != "it is paused" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("follows no redirect", func(t *testing.T) {
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the key went elsewhere") }))
		defer other.Close()
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
		if _, err := Do(t.Context(), c, api.GetMe, api.None{}); err == nil {
			t.Error("a redirect is taken for an answer")
		}
	})
	t.Run("repeats what may be repeated and nothing else", func(t *testing.T) {
		var asked atomic.Int32
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) < 3 {
				w.WriteHeader(503)
				return
			}
			fmt.Fprint(w, `{"id":"x"}`)
		})
		if _, err := Do(t.Context(), c, api.GetMe, api.None{}); err != nil || asked.Load() != 3 {
			t.Errorf("a read: %d requests, %v", asked.Load(), err)
		}
		asked.Store(0)
		if _, err := Do(t.Context(), c, api.SendMessage, api.SendMessageRequest{ID: "s", IdempotencyKey: "k"}); err != nil || asked.Load() != 3 {
			t.Errorf("a write with an idempotency key: %d requests, %v", asked.Load(), err)
		}
		asked.Store(0)
		if _, err := Do(t.Context(), c, api.SendMessage, api.SendMessageRequest{ID: "s"}); err == nil || asked.Load() != 1 {
			t.Errorf("a write without: %d requests, %v", asked.Load(), err)
		}
	})
}

// eventServer serves a log of n events and breaks each connection after cut events.
func eventServer(t *testing.T, n, cut int) (*Client, *atomic.Int32) {
	var connections atomic.Int32
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		connections.Add(1)
		var after int
		_, _ = fmt.Sscan(r.Header.Get("Last-Event-ID"), &after)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, ": hello\r\n\r\n")
		// One step back: an event that was seen comes again, as from a server that is not sure.
		for seq, sent := max(after-1, 0)+1, 0; seq <= n; seq, sent = seq+1, sent+1 {
			if sent == cut && r.URL.Query().Get("follow") != "false" {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			data, _ := json.Marshal(api.Event{Seq: uint64(seq), Type: api.EventAgentMessage, Content: fmt.Sprint(seq)})
			fmt.Fprintf(w, "id: %d\nevent: agent_message\ndata: %s\n\n", seq, data)
		}
		if r.URL.Query().Get("follow") != "false" {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}), &connections
}

// TestTaskEvents: a task's stream goes on where it was when a connection is lost, and ends when the task has.
func TestTaskEvents(t *testing.T) {
	var resumed []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		last := r.Header.Get("Last-Event-ID")
		resumed = append(resumed, r.URL.RequestURI()+" "+last)
		if last == "" {
			fmt.Fprint(w, "id: 1.0\nevent: task\ndata: {\"rev\":1,\"state\":{\"id\":\"t\",\"state\":\"running\",\"session\":\"s\"}}\n\n"+
				"id: 1.7\nevent: agent_message\ndata: {\"type\":\"agent_message\",\"seq\":7,\"content\":\"x\"}\n\n")
			return
		}
		fmt.Fprint(w, "id: 2.0\nevent: task\ndata: {\"rev\":2,\"state\":{\"id\":\"t\",\"state\":\"succeeded\"}}\n\n")
	})
	var got []string
	err := c.TaskEvents(t.Context(), TaskEventsConfig{Task: "t", Follow: true}, func(change *api.Change[api.Task], ev *api.Event) error {
		if change != nil {
			got = append(got, string(change.State.State))
		} else {
			got = append(got, ev.Content)
		}
		return nil
	})
	if err != nil || strings.Join(got, " ") != "running x succeeded" {
		t.Errorf("%q, %v", got, err)
	}
	if want := "/api/v1/tasks/t/events |/api/v1/tasks/t/events 1.7"; strings.Join(resumed, "|") != want {
		t.Errorf("asked for %q", resumed)
	}
}

func TestEvents(t *testing.T) {
	t.Run("resumes without a gap or a duplicate", func(t *testing.T) {
		c, connections := eventServer(t, 20, 6)
		want, lost := uint64(0), 0
		stop := errors.New("stop")
		err := c.Events(t.Context(), EventsConfig{Session: "s", Follow: true, Lost: func(error) { lost++ }}, func(ev api.Event) error {
			if want++; ev.Seq != want {
				t.Fatalf("got %d, want %d", ev.Seq, want)
			}
			if want == 20 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || connections.Load() < 4 || int(connections.Load()) != lost+1 {
			t.Errorf("%v after %d connections, %d told", err, connections.Load(), lost)
		}
	})
	t.Run("ends at the head", func(t *testing.T) {
		c, _ := eventServer(t, 5, 0)
		n := 0
		if err := c.Events(t.Context(), EventsConfig{Session: "s", After: 2}, func(api.Event) error { n++; return nil }); err != nil || n != 3 {
			t.Errorf("%d events, %v", n, err)
		}
	})
	t.Run("a refusal is final", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
		err := c.Events(t.Context(), EventsConfig{Session: "s", Follow: true}, nil)
		if api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the server says why it ends", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "event: error\ndata: {\"type\":\"error\",\"code\":\"unauthenticated\",\"detail\":\"revoked\"}\n\n")
		})
		err := c.Events(t.Context(), EventsConfig{Session: "s", Follow: true}, func(api.Event) error { t.Error("taken for an event"); return nil })
		if api.CodeOf(err) != api.CodeUnauthenticated {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, _ := eventServer(t, 3, 100)
		err := c.Events(ctx, EventsConfig{Session: "s", Follow: true}, func(ev api.Event) error {
			if ev.Seq == 3 {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAdvance(t *testing.T) {
	for _, c := range []struct {
		after uint64
		ev    api.Event
		next  uint64
		fresh bool
	}{
		{3, api.Event{Seq: 4}, 4, true},
		{3, api.Event{Seq: 3}, 3, false},
		{3, api.Event{Seq: 2}, 3, false},
		{3, api.Event{Type: api.EventGap, Seq: 3, From: 4, To: 9}, 3, true},
		{9, api.Event{Type: api.EventGap, Seq: 2, From: 10, To: 2}, 2, true},
		{9, api.Event{Type: api.EventGap, From: 10}, 0, true},
	} {
		if next, fresh := advance(c.after, c.ev); next != c.next || fresh != c.fresh {
			t.Errorf("after %d, %+v: %d %v", c.after, c.ev, next, fresh)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add("id: 1\nevent: x\ndata: a\ndata: b\n\n: comment\n\ndata\n\n")
	f.Add("data: a\r\n\r\ndata: b\r\rid: \x00\n")
	f.Fuzz(func(t *testing.T, s string) {
		// However the bytes come, the frames are the same.
		whole, wholeErr := all(strings.NewReader(s))
		drops, dropsErr := all(&oneByte{strings.NewReader(s)})
		if fmt.Sprint(whole) != fmt.Sprint(drops) || (wholeErr == nil) != (dropsErr == nil) {
			t.Fatalf("%q: %v and %v", s, whole, drops)
		}
		for _, fr := range whole {
			if strings.ContainsAny(fr.id+fr.event, "\r\n") || strings.Contains(string(fr.data), "\r") {
				t.Fatalf("%q: a line's end within a field: %q", s, fr)
			}
		}
	})
}

func TestFrames(t *testing.T) {
	got, err := all(strings.NewReader(": c\n\nid: 1\nevent: e\ndata: a\ndata:b\n\ndata: c\r\n\r\nevent: none\n\ndata: unfinished\n"))
	if err != nil || fmt.Sprintf("%q", got) != `[{"1" "e" "a\nb"} {"" "" "c"}]` {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := all(strings.NewReader("data: " + strings.Repeat("x", maxFrame+1) + "\n\n")); err == nil {
		t.Error("an event without end is taken")
	}
}

func all(r io.Reader) ([]frame, error) {
	fr := newFrameReader(r)
	var frames []frame
	for {
		f, err := fr.next()
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

// oneByte gives a reader's bytes one at a time.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }
