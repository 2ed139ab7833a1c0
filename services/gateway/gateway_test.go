package gateway

import (
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestOperations(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	sid := y.session(g, "alice-key", "")

	t.Run("an API key costs one exchange", func(t *testing.T) {
		before := y.exchanges.Load()
		for range 5 {
			resp, body := call(t, g, "bob-key", "GET", "/api/v1/users/me", nil)
			if resp.StatusCode != 200 || !strings.Contains(body, id("u", "bob")) {
				t.Fatalf("%d %s", resp.StatusCode, body)
			}
		}
		if n := y.exchanges.Load() - before; n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
	})
	t.Run("the answer says its revision, id and limits", func(t *testing.T) {
		resp, _ := call(t, g, "alice-key", "GET", "/api/v1/users/me", nil, "X-Request-Id", "mine-1")
		for k, want := range map[string]string{"ETag": `"7"`, "X-Request-Id": "mine-1", "RateLimit-Limit": "1000000", "X-Content-Type-Options": "nosniff"} {
			if got := resp.Header.Get(k); got != want {
				t.Errorf("%s is %q, want %q", k, got, want)
			}
		}
	})
	t.Run("an access token is taken as it is", func(t *testing.T) {
		_, body := call(t, g, "", "POST", "/api/v1/tokens", strings.NewReader(`{"key":"alice-key"}`))
		tok := between(body, `"access_token":"`, `"`)
		if tok == "" {
			t.Fatal(body)
		}
		resp, body := call(t, g, tok, "GET", "/api/v1/sessions/"+sid, nil)
		if resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		if strings.Contains(body, "runner-secret") {
			t.Error("the answer shows the runner's key")
		}
	})
	t.Run("health and readiness need no credential", func(t *testing.T) {
		for _, p := range []string{"/health", "/ready", "/openapi.json", "/docs"} {
			if resp, body := call(t, g, "", "GET", p, nil); resp.StatusCode != 200 {
				t.Errorf("%s: %d %s", p, resp.StatusCode, body)
			}
		}
	})
	t.Run("what does not exist is a problem", func(t *testing.T) {
		for _, c := range []struct {
			method, path string
			status       int
		}{
			{"GET", "/", 404},
			{"GET", "/api/v1/nothing", 404},
			{"GET", "/api//v1/sessions", 404},
			{"GET", "/api/v1/x/../sessions", 404},
			{"DELETE", "/api/v1/sessions", 405},
			{"POST", "/ws", 405},
			{"POST", "/health", 405},
			{"GET", "/ws", 426},
			{"GET", "/api/v1/sessions/" + id("s", "none") + "/events", 404},
			{"GET", "/api/v1/sessions/" + id("s", "none") + "/agent/status", 404},
			{"GET", "/api/v1/users/me?token=x", 400},
		} {
			resp, body := call(t, g, "alice-key", c.method, c.path, nil)
			if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: %d %s %s", c.method, c.path, resp.StatusCode, resp.Header.Get("Content-Type"), body)
			}
			if id := resp.Header.Get("X-Request-Id"); id == "" || between(body, `"request_id":"`, `"`) != id {
				t.Errorf("%s %s: request %q, but %s", c.method, c.path, id, body)
			}
		}
	})
}

func between(s, from, to string) string {
	_, tail, _ := strings.Cut(s, from)
	mid, _, _ := strings.Cut(tail, to)
	return mid
}

func TestEvents(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	sid := y.session(g, "alice-key", "")
	y.say("alice-key", sid, 0, 10)
	path := "/api/v1/sessions/" + sid + "/events"

	t.Run("ends at the head without follow", func(t *testing.T) {
		s := openSSE(t, g, "alice-key", path+"?follow=false")
		evs := s.want(10)
		if _, more := s.next(); more {
			t.Error("the stream goes on")
		}
		for i, ev := range evs {
			if got := ev.decode(t); ev.event != "user_message" || got.Content != "m"+string(rune('0'+i)) || got.Session != sid {
				t.Errorf("event %d is %+v", i, ev)
			}
		}
	})
	t.Run("goes on live and resumes", func(t *testing.T) {
		s := openSSE(t, g, "alice-key", path)
		s.want(10)
		y.say("alice-key", sid, 10, 3)
		evs := s.want(3)
		r := openSSE(t, g, "alice-key", path+"?after=1", "Last-Event-ID", evs[0].id)
		if got := r.want(2); got[0] != evs[1] || got[1] != evs[2] {
			t.Errorf("resumed with %+v, want %+v", got, evs[1:])
		}
	})
	t.Run("refuses a bad place", func(t *testing.T) {
		for _, after := range []string{"x", "-1", "1.2", "1,2", "99999999999999999999999", id("s", "x") + ":1"} {
			if resp, body := call(t, g, "alice-key", "GET", path+"?after="+after, nil); resp.StatusCode != 400 {
				t.Errorf("after=%s: %d %s", after, resp.StatusCode, body)
			}
		}
		if resp, _ := call(t, g, "alice-key", "GET", path, nil, "Last-Event-ID", "7;DROP"); resp.StatusCode != 400 {
			t.Errorf("bad Last-Event-ID: %d", resp.StatusCode)
		}
	})
	t.Run("ends when the session is gone", func(t *testing.T) {
		other := y.session(g, "alice-key", "")
		s := openSSE(t, g, "alice-key", "/api/v1/sessions/"+other+"/events")
		key := sessionKey("acme", other)
		must(t, y.records.Purge(timeout(t), key))
		ev, ok := s.next()
		if !ok || ev.event != "error" || !strings.Contains(ev.data, string(api.CodeNotFound)) {
			t.Errorf("last event is %+v", ev)
		}
		if _, more := s.next(); more {
			t.Error("the stream goes on")
		}
	})
	t.Run("several sessions resume each at its place", func(t *testing.T) {
		a, b := y.session(g, "alice-key", ""), y.session(g, "alice-key", "")
		y.say("alice-key", a, 0, 3)
		y.say("alice-key", b, 0, 3)
		s := openSSE(t, g, "alice-key", "/sse?session="+a+","+b)
		seen := map[uint64]bool{}
		var id string
		for _, ev := range s.want(4) {
			seen[ev.decode(t).Seq] = true
			id = ev.id
		}
		r := openSSE(t, g, "alice-key", "/sse?session="+a+","+b+"&follow=false", "Last-Event-ID", id)
		for _, ev := range r.want(2) {
			if seq := ev.decode(t).Seq; seen[seq] {
				t.Errorf("%d came twice", seq)
			}
		}
		if _, more := r.next(); more {
			t.Error("more than the six events")
		}
	})
}
