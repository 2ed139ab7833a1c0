package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"agentyard.dev/libs/api"
)

// TestWake: a request to a session that was put aside brings it back and is held until it runs.
func TestWake(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "awake "+r.Method+" "+r.URL.Path+" "+string(body))
	})
	up := runner(t, mux)
	sid := y.session(g, "alice-key", up)
	base := "/api/v1/sessions/" + sid
	set := func(state api.State) {
		y.setState(g, "alice-key", sid, func(r *api.SessionRecord) {
			r.State, r.Endpoint = state, ""
			if state == api.StateRunning {
				r.Endpoint = up
			}
		})
	}
	state := func() api.State {
		row, _ := g.table.get(sessionKey("acme", sid))
		return row.rec.State
	}
	type reply struct {
		status int
		body   string
	}
	// ask sends a request that is held, and returns how to wait for its answer.
	ask := func(method, path, body string) func() reply {
		got := make(chan reply, 1)
		go func() {
			var b io.Reader
			if body != "" {
				b = strings.NewReader(body)
			}
			req, _ := http.NewRequestWithContext(timeout(t), method, g.URL()+base+path, b)
			req.Header.Set("Authorization", "Bearer alice-key")
			resp, err := client.Do(req)
			if err != nil {
				got <- reply{body: err.Error()}
				return
			}
			defer func() { _ = resp.Body.Close() }()
			text, _ := io.ReadAll(resp.Body)
			got <- reply{resp.StatusCode, string(text)}
		}()
		return func() reply { return <-got }
	}

	t.Run("each kind of request", func(t *testing.T) {
		for _, tc := range []struct{ method, path, body, want string }{
			{"GET", "/agent/status", "", "awake GET /status "},
			{"POST", "/agent/message", `{"content":"hi"}`, `awake POST /message {"content":"hi"}`},
			{"GET", "/ports/3000/x", "", "awake GET /_yard/ports/3000/x "},
			{"GET", "/files?path=a", "", "awake GET /_yard/files "},
		} {
			set(api.StatePaused)
			before := y.resumes.Load()
			answer := ask(tc.method, tc.path, tc.body)
			until(t, "it was resumed", func() bool { return state() == api.StateResuming })
			set(api.StateRunning)
			if got := answer(); got.status != http.StatusOK || got.body != tc.want {
				t.Errorf("%s %s: %+v", tc.method, tc.path, got)
			}
			if n := y.resumes.Load() - before; n != 1 {
				t.Errorf("%s %s: resumed %d times", tc.method, tc.path, n)
			}
		}
	})
	t.Run("many at once, from before it is aside until it is back", func(t *testing.T) {
		set(api.StatePausing)
		var answers []func() reply
		for range 4 {
			answers = append(answers, ask("POST", "/agent/message", `{"content":"early"}`))
		}
		until(t, "they are held", func() bool { return len(g.held) == 4 })
		set(api.StatePaused)
		until(t, "it was resumed", func() bool { return state() == api.StateResuming })
		for range 4 {
			answers = append(answers, ask("GET", "/agent/status", ""))
		}
		until(t, "they are held too", func() bool { return len(g.held) == 8 })
		set(api.StateRunning)
		var wg sync.WaitGroup
		for _, answer := range answers {
			wg.Go(func() {
				if got := answer(); got.status != http.StatusOK {
					t.Errorf("%+v", got)
				}
			})
		}
		wg.Wait()
	})
	t.Run("one that fails meanwhile says so", func(t *testing.T) {
		set(api.StatePaused)
		answer := ask("GET", "/agent/status", "")
		until(t, "it was resumed", func() bool { return state() == api.StateResuming })
		set(api.StateFailed)
		if got := answer(); got.status != http.StatusConflict || !strings.Contains(got.body, "failed") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("who may only read wakes nobody", func(t *testing.T) {
		set(api.StatePaused)
		before := y.resumes.Load()
		resp, body := call(t, g, "view-key", "GET", base+"/agent/status", nil)
		if resp.StatusCode != http.StatusConflict || y.resumes.Load() != before || state() != api.StatePaused {
			t.Errorf("%d %s; it is %s", resp.StatusCode, body, state())
		}
		resp, _ = call(t, g, "bob-key", "GET", base+"/agent/status", nil)
		if resp.StatusCode != http.StatusNotFound || state() != api.StatePaused {
			t.Errorf("a stranger: %d; it is %s", resp.StatusCode, state())
		}
	})
	t.Run("no more are held than there are places", func(t *testing.T) {
		set(api.StatePaused)
		before := y.resumes.Load()
		for range cap(g.held) {
			g.held <- struct{}{}
		}
		resp, body := call(t, g, "alice-key", "GET", base+"/agent/status", nil)
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || y.resumes.Load() != before {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		for range cap(g.held) {
			<-g.held
		}
	})
}
