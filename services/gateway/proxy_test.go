package gateway

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
)

// TestPassthrough: bodies, streams and upgrades pass as they are.
func TestPassthrough(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	release := make(chan struct{})
	var stored []byte
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sized", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		_, _ = w.Write(big)
	})
	mux.HandleFunc("GET /chunked", func(w http.ResponseWriter, _ *http.Request) {
		for part := range slices.Chunk(big, 100_000) {
			_, _ = w.Write(part)
			_ = http.NewResponseController(w).Flush()
		}
	})
	mux.HandleFunc("GET /close", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end")
		_ = conn.Close()
	})
	mux.HandleFunc("GET /cut", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all")
		_ = conn.Close()
	})
	mux.HandleFunc("GET /bad/{how}", func(w http.ResponseWriter, r *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(conn, map[string]string{
			"both": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "junk": "hello\r\n\r\n", "nothing": "",
			"fold": "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n", "long": "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", maxResponseHead) + "\r\n\r\n",
			"101": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		}[r.PathValue("how")])
		_ = conn.Close()
	})
	mux.HandleFunc("GET /status204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "event: a\ndata: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = io.WriteString(w, "event: b\ndata: 2\n\n")
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /socket", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		for {
			typ, data, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			_ = conn.Write(r.Context(), typ, append([]byte("echo "), data...))
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	mux.HandleFunc("PUT /_yard/files", func(w http.ResponseWriter, r *http.Request) {
		stored, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /_yard/files", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write(stored)
	})
	sid := y.session(g, "alice-key", runner(t, mux))
	base := "/api/v1/sessions/" + sid

	t.Run("bodies", func(t *testing.T) {
		for _, p := range []string{"/sized", "/chunked", "/sized"} {
			resp, body := call(t, g, "alice-key", "GET", base+"/agent"+p, nil)
			if resp.StatusCode != 200 || body != string(big) {
				t.Errorf("%s: %d, %d bytes", p, resp.StatusCode, len(body))
			}
		}
		if _, body := call(t, g, "alice-key", "GET", base+"/agent/close", nil); body != "to the end" {
			t.Errorf("until close: %q", body)
		}
		if resp, body := call(t, g, "alice-key", "GET", base+"/agent/status204", nil); resp.StatusCode != 204 || body != "" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
		if resp, body := call(t, g, "alice-key", "HEAD", base+"/agent/sized", nil); resp.ContentLength != int64(len(big)) || body != "" {
			t.Errorf("HEAD: %d, %d bytes", resp.ContentLength, len(body))
		}
		if _, body := call(t, g, "alice-key", "POST", base+"/agent/echo", bytes.NewReader(big)); body != string(big) {
			t.Errorf("POST: %d bytes came back", len(body))
		}
	})
	t.Run("broken answers are not taken for whole ones", func(t *testing.T) {
		req, _ := http.NewRequestWithContext(timeout(t), "GET", g.URL()+base+"/agent/cut", nil)
		req.Header.Set("Authorization", "Bearer alice-key")
		resp, err := client.Do(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if err == nil {
			t.Error("a cut answer was whole")
		}
		for _, how := range []string{"both", "junk", "nothing", "fold", "long", "101"} {
			if resp, body := call(t, g, "alice-key", "GET", base+"/agent/bad/"+how, nil); resp.StatusCode != 503 {
				t.Errorf("%s: %d %.100s", how, resp.StatusCode, body)
			}
		}
	})
	t.Run("event streams come as they are written", func(t *testing.T) {
		s := openSSE(t, g, "alice-key", base+"/agent/events")
		if ev := s.want(1)[0]; ev.data != "1" {
			t.Errorf("%+v", ev)
		}
		close(release)
		if ev := s.want(1)[0]; ev.data != "2" {
			t.Errorf("%+v", ev)
		}
	})
	t.Run("a WebSocket passes and ends with the session", func(t *testing.T) {
		conn, _, err := websocket.Dial(timeout(t), g.URL()+base+"/agent/socket", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer alice-key"}}})
		must(t, err)
		must(t, conn.Write(timeout(t), websocket.MessageText, []byte("hi")))
		if _, data, err := conn.Read(timeout(t)); err != nil || string(data) != "echo hi" {
			t.Fatalf("%s %v", data, err)
		}
		g.streams.endSession(sessionKey("acme", sid), errGone)
		if _, _, err := conn.Read(timeout(t)); err == nil || errors.Is(err, timeout(t).Err()) {
			t.Errorf("after the session's end: %v", err)
		}
	})
	t.Run("files are stored, and come back as downloads", func(t *testing.T) {
		page := "<script>alert(1)</script>"
		if resp, body := call(t, g, "alice-key", "PUT", base+"/files?path=a/page.html", strings.NewReader(page)); resp.StatusCode != 204 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		resp, body := call(t, g, "alice-key", "GET", base+"/files?path=a/page.html", nil)
		if body != page || resp.Header.Get("Content-Disposition") != "attachment; filename=page.html" ||
			resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Content-Security-Policy") != sandbox {
			t.Errorf("%s %v", body, resp.Header)
		}
		if resp, _ := call(t, g, "view-key", "PUT", base+"/files?path=x", strings.NewReader("x")); resp.StatusCode != 403 {
			t.Errorf("a viewer writes: %d", resp.StatusCode)
		}
	})
	t.Run("many at once, each its own answer, over runners that come and go", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for k := range 50 {
					want := fmt.Sprintf("%d-%d", i, k)
					if _, body := call(t, g, "alice-key", "POST", base+"/agent/echo", strings.NewReader(want)); body != want {
						t.Errorf("%q, want %q", body, want)
					}
				}
			})
		}
		wg.Wait()
		again := runner(t, statusHandler())
		y.setState(g, "alice-key", sid, func(r *api.SessionRecord) { r.Endpoint = again })
		if resp, body := call(t, g, "alice-key", "GET", base+"/agent/status", nil); resp.StatusCode != 200 || !strings.Contains(body, "stable") {
			t.Errorf("the next incarnation: %d %s", resp.StatusCode, body)
		}
	})
}
