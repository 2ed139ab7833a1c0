package gateway

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/limit"
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
			"/files?path=a/b%20c&x=1": "/_yard/files?path=a%2Fb+c", "/files": "/_yard/files?path=",
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
		"bad chunk size":       head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
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
			if strings.HasPrefix(text, head) && asked.Load() != before && name != "bad chunk size" {
				t.Error("the runner was asked")
			}
		})
	}
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

func TestCredentials(t *testing.T) {
	y := newYard(t)
	g := y.gateway(func(c *Config) { c.AllowedOrigins = []string{"https://ide.example"} })
	t.Run("are refused where they do not belong", func(t *testing.T) {
		for _, p := range []string{"/api/v1/users/me?token=alice-key", "/sse?access_token=alice-key", "/ws?token=x"} {
			resp, body := call(t, g, "alice-key", "GET", p, nil)
			if resp.StatusCode != 400 || !strings.Contains(body, "URL") {
				t.Errorf("%s: %d %s", p, resp.StatusCode, body)
			}
		}
		for _, h := range []string{"", "Basic YTpi", "Bearer", "Bearer ", "Bearer nope", "Bearer a.b.c", "Bearer " + strings.Repeat("k", 9000)} {
			resp, body := call(t, g, "", "GET", "/api/v1/users/me", nil, "Authorization", h)
			if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%.30q: %d %s", h, resp.StatusCode, body)
			}
		}
	})
	t.Run("in a cookie read, and write from the same origin only", func(t *testing.T) {
		resp, body := call(t, g, "", "POST", "/api/v1/login", strings.NewReader(`{"key":"alice-key"}`))
		cookies := resp.Cookies()
		if resp.StatusCode != 200 || len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || strings.Contains(body, "alice-key") {
			t.Fatalf("%d %s %v", resp.StatusCode, body, cookies)
		}
		cookie := cookies[0].Name + "=" + cookies[0].Value
		if resp, _ := call(t, g, "", "GET", "/api/v1/users/me", nil, "Cookie", cookie); resp.StatusCode != 200 {
			t.Errorf("reading: %d", resp.StatusCode)
		}
		for _, c := range []struct {
			name, value string
			status      int
		}{
			{"Sec-Fetch-Site", "cross-site", 403}, {"Sec-Fetch-Site", "same-site", 403}, {"Origin", "https://evil.example", 403}, {"Origin", "null", 403},
			{"Sec-Fetch-Site", "same-origin", 201}, {"Origin", g.URL(), 201}, {"X-None", "x", 201},
		} {
			if resp, body := call(t, g, "", "POST", "/api/v1/tickets", nil, "Cookie", cookie, c.name, c.value); resp.StatusCode != c.status {
				t.Errorf("%s: %s: %d %s", c.name, c.value, resp.StatusCode, body)
			}
		}
		if resp, _ := call(t, g, "", "POST", "/api/v1/login", strings.NewReader(`{"key":"alice-key"}`), "Sec-Fetch-Site", "cross-site"); resp.StatusCode != 403 {
			t.Errorf("another site signs a browser in: %d", resp.StatusCode)
		}
		resp, _ = call(t, g, "", "POST", "/api/v1/logout", nil, "Cookie", cookie)
		if c := resp.Cookies(); resp.StatusCode != 204 || len(c) != 1 || c[0].MaxAge >= 0 {
			t.Errorf("signing out: %d %v", resp.StatusCode, c)
		}
	})
	t.Run("a foreign host name is refused", func(t *testing.T) {
		for host, ok := range map[string]bool{"evil.example": false, "localhost.evil.example": false, "127.0.0.1.nip.io": false, "localhost": true, "127.0.0.1:99": true, "[::1]:1": true, "x.localhost": true} {
			resp, body := call(t, g, "alice-key", "GET", "/api/v1/users/me", nil, "Host", host)
			if ok != (resp.StatusCode == 200) || !ok && resp.StatusCode != 403 {
				t.Errorf("%s: %d %s", host, resp.StatusCode, body)
			}
		}
	})
	t.Run("cross-origin access is off but for the named origins", func(t *testing.T) {
		for origin, want := range map[string]string{"https://evil.example": "", "null": "", "https://ide.example": "https://ide.example"} {
			resp, _ := call(t, g, "", "OPTIONS", "/api/v1/sessions", nil, "Origin", origin, "Access-Control-Request-Method", "POST")
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != want || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: %q", origin, got)
			}
		}
	})
}

func TestTickets(t *testing.T) {
	y := newYard(t)
	g, g2 := y.gateway(), y.gateway()
	sid := y.session(g, "alice-key", "")
	y.known(g2, sessionKey("acme", sid))
	y.say("alice-key", sid, 0, 2)
	issue := func(cred string) string {
		resp, body := call(t, g, cred, "POST", "/api/v1/tickets", nil)
		if resp.StatusCode != 201 || !strings.Contains(body, `"expires_in":30`) {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		return between(body, `"ticket":"`, `"`)
	}
	path := "/api/v1/sessions/" + sid + "/events?follow=false&ticket="
	t.Run("opens one stream, on any replica", func(t *testing.T) {
		ticket := issue("alice-key")
		if resp, body := call(t, g2, "", "GET", path+ticket, nil); resp.StatusCode != 200 || strings.Count(body, "event: user_message") != 2 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		for _, at := range []*Gateway{g, g2} {
			if resp, _ := call(t, at, "", "GET", path+ticket, nil); resp.StatusCode != 401 {
				t.Errorf("a used ticket: %d", resp.StatusCode)
			}
		}
	})
	t.Run("opens one stream when many use it at once", func(t *testing.T) {
		ticket := issue("alice-key")
		const n = 8
		codes := make(chan int, n)
		for i := range n {
			go func() {
				resp, _ := call(t, []*Gateway{g, g2}[i%2], "", "GET", path+ticket, nil)
				codes <- resp.StatusCode
			}()
		}
		count := map[int]int{}
		for range n {
			count[<-codes]++
		}
		if count[200] != 1 || count[401] != n-1 {
			t.Errorf("%v", count)
		}
	})
	t.Run("gives what its principal may, and no more", func(t *testing.T) {
		if resp, _ := call(t, g, "", "GET", path+issue("bob-key"), nil); resp.StatusCode != 404 {
			t.Errorf("another's ticket: %d", resp.StatusCode)
		}
		if resp, _ := call(t, g, "", "GET", "/api/v1/users/me?ticket="+issue("alice-key"), nil); resp.StatusCode != 401 {
			t.Errorf("a ticket on a route without streams: %d", resp.StatusCode)
		}
		for _, bad := range []string{"x", strings.Repeat("A", 43), url.QueryEscape("../../x"), ""} {
			if resp, body := call(t, g, "", "GET", path+bad, nil); resp.StatusCode != 401 {
				t.Errorf("%q: %d %s", bad, resp.StatusCode, body)
			}
		}
	})
}

func TestLimits(t *testing.T) {
	y := newYard(t)
	g := y.gateway(func(c *Config) { c.PrincipalRate = limit.Rate{PerSecond: 0.5, Burst: 3} })
	t.Run("a principal that asks too often waits", func(t *testing.T) {
		var resp *http.Response
		for range 4 {
			resp, _ = call(t, g, "alice-key", "GET", "/api/v1/users/me", nil)
		}
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("RateLimit-Remaining") != "0" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		if resp, _ := call(t, g, "bob-key", "GET", "/api/v1/users/me", nil); resp.StatusCode != 200 {
			t.Errorf("another principal: %d", resp.StatusCode)
		}
	})
	t.Run("guessing ends soon", func(t *testing.T) {
		g := y.gateway(func(c *Config) { c.AddressRate = limit.Rate{PerSecond: 0.1, Burst: 100} })
		for i := range 10 {
			resp, _ := call(t, g, fmt.Sprintf("guess-%d", i), "GET", "/api/v1/users/me", nil)
			if resp.StatusCode == 429 {
				return
			}
		}
		t.Error("ten guesses were answered")
	})
	t.Run("a body of 1 GiB is refused early", func(t *testing.T) {
		sid := y.session(g, "bob-key", runner(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })))
		for _, path := range []string{"/api/v1/sessions/" + sid + "/messages", "/api/v1/login"} {
			for _, sized := range []bool{true, false} {
				zeros := &counted{r: io.LimitReader(zero{}, 1<<30)}
				req, err := http.NewRequestWithContext(timeout(t), "POST", g.URL()+path, zeros)
				must(t, err)
				req.Header.Set("Authorization", "Bearer view-key")
				req.Header.Set("Content-Type", "application/json")
				if sized {
					req.ContentLength = 1 << 30
				}
				resp, err := client.Do(req)
				if err == nil {
					_ = resp.Body.Close()
					if resp.StatusCode != 413 {
						t.Errorf("%s sized %v: %d", path, sized, resp.StatusCode)
					}
				}
				if n := zeros.n.Load(); n > 16<<20 {
					t.Errorf("%s sized %v: %d MiB were taken", path, sized, n>>20)
				}
			}
		}
	})
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestIdempotency(t *testing.T) {
	y := newYard(t)
	y.hold = make(chan struct{})
	g, g2 := y.gateway(), y.gateway()
	profile := func(g *Gateway, cred, key, name string) (*http.Response, string) {
		return call(t, g, cred, "POST", "/api/v1/profiles", strings.NewReader(`{"name":"`+name+`","agent":{}}`), "Idempotency-Key", key)
	}
	y.key("admin-key", api.Principal{ID: id("u", "ada"), Tenant: "acme", Roles: []api.Role{api.RoleAdmin}})
	y.key("admin2-key", api.Principal{ID: id("u", "ann"), Tenant: "acme", Roles: []api.Role{api.RoleAdmin}})
	first := make(chan string, 1)
	go func() {
		_, body := profile(g, "admin-key", "k1", "a")
		first <- body
	}()
	<-y.entered
	if resp, body := profile(g2, "admin-key", "k1", "a"); resp.StatusCode != 409 {
		t.Errorf("while the first is at work: %d %s", resp.StatusCode, body)
	}
	close(y.hold)
	want := <-first
	resp, body := profile(g2, "admin-key", "k1", "a")
	if resp.StatusCode != 201 || body != want || resp.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the repeat: %d %s, want %s", resp.StatusCode, body, want)
	}
	if resp, _ := profile(g, "admin-key", "k1", "b"); resp.StatusCode != 409 {
		t.Errorf("another request under the key: %d", resp.StatusCode)
	}
	if resp, body := profile(g, "admin2-key", "k1", "a"); resp.StatusCode != 201 || body == want {
		t.Errorf("another principal's key: %d %s", resp.StatusCode, body)
	}
	t.Run("a secret is kept sealed", func(t *testing.T) {
		one := func() (*http.Response, string) {
			return call(t, g, "admin-key", "POST", "/api/v1/keys", strings.NewReader(`{"name":"n"}`), "Idempotency-Key", "k2")
		}
		_, a := one()
		_, b := one()
		if a != b || !strings.Contains(a, "secret-") {
			t.Errorf("%s then %s", a, b)
		}
	})
}

// TestRestart: a client that resumes at another gateway misses nothing and gets nothing twice.
func TestRestart(t *testing.T) {
	y := newYard(t)
	g, stop := y.stoppable()
	sid := y.session(g, "alice-key", "")
	y.say("alice-key", sid, 0, 5)
	path := "/api/v1/sessions/" + sid + "/events"
	s := openSSE(t, g, "alice-key", path)
	evs := s.want(3)
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("stopping took %v", took)
	}
	y.say("alice-key", sid, 5, 5)
	g2 := y.gateway()
	y.known(g2, sessionKey("acme", sid))
	r := openSSE(t, g2, "alice-key", path, "Last-Event-ID", evs[2].id)
	y.say("alice-key", sid, 10, 2)
	for i, ev := range r.want(9) {
		if want := fmt.Sprintf("m%d", i+3); ev.decode(t).Content != want {
			t.Errorf("event %d is %s, want %s", i, ev.decode(t).Content, want)
		}
	}
}

func TestNotRunning(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	sid := y.session(g, "alice-key", "unix:/nowhere/r.sock")
	path := "/api/v1/sessions/" + sid + "/agent/status"
	for state, want := range map[api.State]int{
		api.StateRunning: 503, api.StatePending: 503, api.StateStarting: 503, api.StatePaused: 409, api.StateTerminated: 409, api.StateFailed: 409,
	} {
		y.setState(g, "alice-key", sid, func(r *api.SessionRecord) { r.State = state })
		resp, body := call(t, g, "alice-key", "GET", path, nil)
		if resp.StatusCode != want || (want == 503) != (resp.Header.Get("Retry-After") != "") || strings.Contains(body, "nowhere") {
			t.Errorf("%s: %d %v %s", state, resp.StatusCode, resp.Header, body)
		}
	}
}

func TestFeed(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	mine, theirs := y.session(g, "alice-key", ""), y.session(g, "bob-key", "")
	f := openSSE(t, g, "alice-key", "/sse?after=0")
	all := openSSE(t, g, "view-key", "/sse?after=0")
	if ev := f.want(1)[0]; ev.event != "session" || !strings.Contains(ev.data, mine) || strings.Contains(ev.data, "runner-secret") {
		t.Errorf("%+v", ev)
	}
	all.want(2)
	y.setState(g, "bob-key", theirs, func(r *api.SessionRecord) { r.Title = "theirs" })
	y.setState(g, "alice-key", mine, func(r *api.SessionRecord) { r.Title = "changed" })
	ev := f.want(1)[0]
	if !strings.Contains(ev.data, "changed") {
		t.Errorf("%+v", ev)
	}
	if evs := all.want(2); !strings.Contains(evs[0].data, "theirs") || evs[1].id != ev.id {
		t.Errorf("%+v", evs)
	}
	y.setState(g, "alice-key", mine, func(r *api.SessionRecord) { r.Title = "later" })
	r := openSSE(t, g, "alice-key", "/sse?follow=false", "Last-Event-ID", ev.id)
	if evs := r.want(1); !strings.Contains(evs[0].data, "later") {
		t.Errorf("%+v", evs)
	}
	if _, more := r.next(); more {
		t.Error("more than what changed")
	}
}
