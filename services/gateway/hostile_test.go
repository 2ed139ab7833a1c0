package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"agentyard.dev/libs/api"
)

// secrets are what no answer to a refused request may hold.
var secrets = []string{"runner-secret", "gw", ".sock", "goroutine", "/tmp", "nats", "yard.v1"}

func wantRefused(t *testing.T, what string, status int, body string) {
	t.Helper()
	if status < 400 || status > 499 {
		t.Errorf("%s: answered %d %.200s", what, status, body)
	}
	for _, s := range secrets {
		if strings.Contains(body, s) {
			t.Errorf("%s: the answer holds %q: %.300s", what, s, body)
		}
	}
}

// TestOtherTenant: on every route, another tenant's ids do not exist.
func TestOtherTenant(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	var touched atomic.Int64
	end := runner(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { touched.Add(1) }))
	mine := y.session(g, "alice-key", end)
	y.say("alice-key", mine, 0, 1)
	routes := []string{
		"GET /api/v1/sessions/{id}", "GET /api/v1/sessions/{id}/events", "GET /sse?session={id}", "GET /sse?session={id}&follow=false",
		"GET /api/v1/sessions/{id}/files?path=x", "PUT /api/v1/sessions/{id}/files?path=x", "POST /api/v1/sessions/{id}/messages",
	}
	for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"} {
		routes = append(routes, m+" /api/v1/sessions/{id}/agent/status", m+" /api/v1/sessions/{id}/ports/3000/")
	}
	for _, cred := range []string{"evil-key", "bob-key"} { // another tenant's admin, a member of the same tenant
		for _, route := range routes {
			if cred == "bob-key" && strings.HasSuffix(route, "/messages") {
				continue // the stand-in of the sessions service does not look at owners
			}
			method, path, _ := strings.Cut(route, " ")
			var body io.Reader
			if method == "POST" || method == "PUT" {
				body = strings.NewReader(`{"content":"x"}`)
			}
			resp, text := call(t, g, cred, method, strings.ReplaceAll(path, "{id}", mine), body)
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s as %s: %d %s", route, cred, resp.StatusCode, text)
			}
			wantRefused(t, route, resp.StatusCode, text)
		}
	}
	// Only the session's real owner, and a reader of the tenant, get through.
	if resp, _ := call(t, g, "alice-key", "GET", "/api/v1/sessions/"+mine+"/agent/status", nil); resp.StatusCode != 200 {
		t.Errorf("its owner: %d", resp.StatusCode)
	}
	if resp, _ := call(t, g, "view-key", "GET", "/api/v1/sessions/"+mine+"/agent/status", nil); resp.StatusCode != 200 {
		t.Errorf("a viewer reading: %d", resp.StatusCode)
	}
	if resp, _ := call(t, g, "view-key", "POST", "/api/v1/sessions/"+mine+"/agent/message", strings.NewReader("{}")); resp.StatusCode != 403 {
		t.Errorf("a viewer writing: %d", resp.StatusCode)
	}
	if n := touched.Load(); n != 2 {
		t.Errorf("the runner was asked %d times, want 2", n)
	}
}

func TestHostilePaths(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	var asked atomic.Pointer[string]
	end := runner(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s := r.Method + " " + r.RequestURI
		asked.Store(&s)
	}))
	sid := y.session(g, "alice-key", end)
	base := "/api/v1/sessions/" + sid
	t.Run("never reach the runner", func(t *testing.T) {
		for _, p := range []string{
			"/agent/_yard/files?path=x", "/agent/%5fyard/files", "/agent/%255fyard/files", "/agent//_yard/files", "/agent/./_yard/files",
			"/agent/x/../_yard/files", "/agent/x/%2e%2e/_yard/files", "/agent/x/%252e%252e/_yard/files", "/agent/x/..%2f_yard/files",
			"/agent/x%2f..%2f..%2fetc", "/agent/..", "/agent/../..", "/agent/x/..;/y", "/agent/..%5c_yard", `/agent/..\_yard`, "/agent/%5c..",
			"/agent/x%00y", "/agent/x%0d%0aX-Evil:1", "/agent/%25252525252e%252e/", "/agent/_YARD/files", "/agent/_yard",
			"/ports/0/", "/ports/65536/", "/ports/-1/", "/ports/+80/", "/ports/080/", "/ports/80a/", "/ports/", "/ports/3000/../../files",
			"/ports/3000/%2e%2e/4000/", "/ports/3000%2f..%2f4000/", "/ports/1e3/", "/ports/127.0.0.1:80/",
			"/files?path=../x", "/files?path=a/../../x", "/files?path=/etc/passwd", "/files?path=..%5cx", "/files?path=x%00", "/files?path=" + strings.Repeat("a", 5000),
		} {
			asked.Store(nil)
			status, body := raw(t, g, "GET "+base+p+" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\nConnection: close\r\n\r\n")
			wantRefused(t, p, status, body)
			if got := asked.Load(); got != nil {
				t.Errorf("%s reached the runner as %s", p, *got)
			}
		}
	})
	t.Run("harmless ones arrive as they are", func(t *testing.T) {
		for p, want := range map[string]string{
			"/agent/status?a=%20b&c": "/status?a=%20b&c", "/agent": "/", "/agent/": "/", "/agent/a%20b/c%2Fd": "/a%20b/c%2Fd", "/agent/100%25": "/100%25",
			"/agent/.well-known/x": "/.well-known/x", "/agent/x..y": "/x..y", "/agent/yard_/": "/yard_/",
			"/ports/3000/": "/_yard/ports/3000/", "/ports/3000": "/_yard/ports/3000/", "/ports/65535/a/b?x=1": "/_yard/ports/65535/a/b?x=1",
			"/ports/3000/lab?token=its-own": "/_yard/ports/3000/lab?token=its-own",
			"/files?path=a/b%20c&x=1":       "/_yard/files?path=a%2Fb+c", "/files": "/_yard/files?path=",
		} {
			asked.Store(nil)
			status, body := raw(t, g, "GET "+base+p+" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\nConnection: close\r\n\r\n")
			if got := asked.Load(); status != 200 || got == nil || *got != "GET "+want {
				t.Errorf("%s: %d, reached the runner as %v, want %s: %s", p, status, got, want, body)
			}
		}
	})
	t.Run("bad ids", func(t *testing.T) {
		for _, id := range []string{"x", "..", "s", sid + "a", strings.ToUpper(sid), "%2e%2e", sid[:16] + "*", sid[:16] + ">", "%00", sid + "%00"} {
			for _, p := range []string{"/agent/status", "/events", "/files", "", "/ports/1/"} {
				status, body := raw(t, g, "GET /api/v1/sessions/"+id+p+" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\nConnection: close\r\n\r\n")
				wantRefused(t, id+p, status, body)
			}
		}
	})
}

// TestFraming: requests that two servers could read differently are refused.
func TestFraming(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	var asked atomic.Int64
	end := runner(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked.Add(1)
	}))
	sid := y.session(g, "alice-key", end)
	head := "POST /api/v1/sessions/" + sid + "/agent/message HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\n"
	smuggled := "GET /api/v1/sessions/" + sid + "/agent/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\n\r\n"
	for name, text := range map[string]string{
		"length and chunks":    head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunks and length":    head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + smuggled,
		"two lengths":          head + "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
		"equal lengths":        head + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"signed length":        head + "Content-Length: +5\r\n\r\nhello",
		"folded header":        head + "X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n",
		"tab-folded header":    head + "X-A: b\r\n\tc\r\n\r\n",
		"space before colon":   head + "Content-Length : 0\r\n\r\n",
		"other encoding":       head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"encoding twice":       head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"odd encoding":         head + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
		"bare LF":              strings.ReplaceAll(head, "\r\n", "\n") + "Content-Length: 0\n\n",
		"bare CR":              head + "X-A: b\rTransfer-Encoding: chunked\r\n\r\n",
		"NUL in a value":       head + "X-A: b\x00c\r\nContent-Length: 0\r\n\r\n",
		"bad header name":      head + "X A: b\r\nContent-Length: 0\r\n\r\n",
		"no colon":             head + "nonsense\r\n\r\n",
		"space in the target":  "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"two hosts":            "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
		"no host":              "GET /health HTTP/1.1\r\n\r\n",
		"a large head":         "GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("a", 2*maxHeader) + "\r\n\r\n",
		"two authorizations":   "GET /api/v1/users/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\nAuthorization: Bearer bob-key\r\n\r\n",
		"smuggled after reset": "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nAuthorization: Bearer alice-key\r\n\r\n" + head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before := asked.Load()
			status, body := raw(t, g, text)
			wantRefused(t, name, status, body)
			if strings.HasPrefix(text, head) && asked.Load() != before {
				t.Error("the runner was asked")
			}
		})
	}
	t.Run("bad chunk size", func(t *testing.T) { // the last: its head may have reached the runner, which counts it late
		status, body := raw(t, g, head+"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n")
		wantRefused(t, "bad chunk size", status, body)
	})
	t.Run("plain ones pass, however they are cut", func(t *testing.T) {
		var f framing
		text := head + "Content-Length: 5\r\n\r\nhello" + head + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nTrailer: x\r\n\r\n\r\n" + smuggled
		for i := range len(text) {
			if !f.follow([]byte(text[i : i+1])) {
				t.Fatalf("refused at byte %d", i)
			}
		}
		if f.state != inHead || f.first {
			t.Errorf("not between requests at the end: %+v", f)
		}
	})
}

// TestForwardedHeaders: what goes on to a session, and what comes back from it.
func TestForwardedHeaders(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	var got http.Header
	var host string
	end := runner(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, host = r.Header.Clone(), r.Host
		_, _ = io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Add("Set-Cookie", "agentyard=stolen; Path=/")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Service-Worker-Allowed", "/")
		h.Set("Clear-Site-Data", `"*"`)
		h.Set("Content-Security-Policy", "default-src *")
		h.Set("X-Agentyard-Runner-Key", "runner-secret")
		h.Set("Location", "/next?x=1")
		h.Add("X-Own", "1")
		h.Add("X-Own", "2")
		h.Set("Cache-Control", "max-age=60")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "body")
	}))
	sid := y.session(g, "alice-key", end)
	for _, method := range []string{"GET", "POST"} { // the lean way and net/http's
		resp, body := call(t, g, "", method, "/api/v1/sessions/"+sid+"/ports/3000/x", nil,
			"Authorization", "Bearer alice-key", "Cookie", "agentyard=alice-key; a=b", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Host", "evil",
			"Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6", api.RunnerKeyHeader, "guess", "X-Agentyard-Tenant", "evil", "Proxy-Authorization", "x",
			"Te", "trailers", "X-Mine", "kept", "User-Agent", "test")
		for _, name := range []string{"Authorization", "Cookie", "Forwarded", "X-Real-Ip", "X-Agentyard-Tenant", "Proxy-Authorization", "Te"} {
			if v, ok := got[name]; ok {
				t.Errorf("%s: the session sees %s: %v", method, name, v)
			}
		}
		for name, want := range map[string]string{
			api.RunnerKeyHeader: "runner-secret", "X-Mine": "kept", "X-Forwarded-For": "127.0.0.1", "User-Agent": "test", "X-Forwarded-Proto": "http",
		} {
			if v := got.Values(name); len(v) != 1 || v[0] != want {
				t.Errorf("%s: the session sees %s: %v, want %s", method, name, v, want)
			}
		}
		if host != "localhost" {
			t.Errorf("%s: the session sees the host %s", method, host)
		}
		for _, name := range []string{"Set-Cookie", "Access-Control-Allow-Origin", "Service-Worker-Allowed", "Clear-Site-Data", api.RunnerKeyHeader} {
			if v, ok := resp.Header[http.CanonicalHeaderKey(name)]; ok {
				t.Errorf("%s: the client sees %s: %v", method, name, v)
			}
		}
		if csp := resp.Header["Content-Security-Policy"]; len(csp) != 2 || csp[0] != "default-src *" || csp[1] != sandbox {
			t.Errorf("%s: policies %v", method, csp)
		}
		if v := resp.Header["X-Content-Type-Options"]; len(v) != 1 {
			t.Errorf("%s: X-Content-Type-Options %v", method, v)
		}
		if own := resp.Header["X-Own"]; len(own) != 2 {
			t.Errorf("%s: X-Own %v", method, own)
		}
		if l := resp.Header.Get("Location"); l != "/api/v1/sessions/"+sid+"/ports/3000/next?x=1" {
			t.Errorf("%s: Location %s", method, l)
		}
		if cc := resp.Header["Cache-Control"]; len(cc) != 1 || cc[0] != "max-age=60" {
			t.Errorf("%s: Cache-Control %v", method, cc)
		}
		if resp.StatusCode != 302 || body != "body" {
			t.Errorf("%s: %d %s", method, resp.StatusCode, body)
		}
	}
}
