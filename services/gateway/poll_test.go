package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"agentyard.dev/libs/api"
)

// counting answers each request with its number and what it said of itself, once it is let go.
type counting struct {
	asked atomic.Int64
	came  chan struct{}
	leave chan struct{}
}

func newCounting() *counting {
	return &counting{came: make(chan struct{}, 64), leave: make(chan struct{})}
}

func (h *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := h.asked.Add(1)
	h.came <- struct{}{}
	select {
	case <-h.leave:
	case <-r.Context().Done():
	}
	_, _ = fmt.Fprintf(w, "%d %s", n, r.Header.Get("Accept-Language"))
}

// gathering waits until n others wait with the next question of the session's runner.
func gathering(t *testing.T, g *Gateway, sid string, n int) {
	until(t, fmt.Sprint(n, " wait"), func() bool {
		row, ok := g.table.get(sessionKey("acme", sid))
		if !ok {
			return false
		}
		p := &g.proxy.upstream(row.to).polls
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.next != nil && p.next.others == n
	})
}

// TestPollsShare: while one question about a session's status is on its way, all who come share the next one, which is asked after they
// came; who says something else in their request asks for themselves.
func TestPollsShare(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	h := newCounting()
	sid := y.session(g, "alice-key", runner(t, h))
	path := "/api/v1/sessions/" + sid + "/agent/status"
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	ask := func(header ...string) {
		wg.Go(func() {
			resp, body := call(t, g, "alice-key", "GET", path, nil, header...)
			mu.Lock()
			defer mu.Unlock()
			answers[body]++
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Ratelimit-Limit") == "" || resp.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
		})
	}
	ask()
	<-h.came
	for range 8 {
		ask()
	}
	gathering(t, g, sid, 7)
	ask("Accept-Language", "eo")
	<-h.came // it did not wait for the others
	ask("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	<-h.came
	close(h.leave)
	wg.Wait()
	if answers["1 "] != 1 || answers["2 eo"] != 1 || answers["3 "] != 1 || answers["4 "] != 8 || h.asked.Load() != 4 {
		t.Fatalf("%d questions, answers %v", h.asked.Load(), answers)
	}
}

// TestPollsOfABrokenRunner: an answer that cannot be shared leaves everyone who waits with an answer of their own.
func TestPollsOfABrokenRunner(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	long := strings.Repeat("x", 1<<20)
	for name, answer := range map[string]func(http.ResponseWriter){
		"too large": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(long)))
			_, _ = w.Write([]byte(long))
		},
		"cut": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			client.CloseIdleConnections() // those that are net/http's by now
			h := newCounting()
			sid := y.session(g, "alice-key", runner(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.came <- struct{}{}
				<-h.leave
				answer(w)
			})))
			var wg sync.WaitGroup
			ask := func() {
				wg.Go(func() {
					resp, body := call(t, g, "alice-key", "GET", "/api/v1/sessions/"+sid+"/agent/status", nil)
					if name == "cut" && (resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, string(api.CodeUnavailable))) || name != "cut" && body != long {
						t.Errorf("%s, %d bytes", resp.Status, len(body))
					}
				})
			}
			ask()
			<-h.came
			for range 4 {
				ask()
			}
			gathering(t, g, sid, 3)
			close(h.leave)
			wg.Wait()
		})
	}
}
