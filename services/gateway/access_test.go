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
	t.Run("are read strictly", func(t *testing.T) {
		for body, want := range map[string]struct {
			status  int
			pointer string
		}{
			`{"key":"alice-key"}`:                    {200, ""},
			`{"key":"nope","key":"alice-key"}`:       {400, "/key"},
			`{"KEY":"alice-key"}`:                    {400, "/KEY"},
			`{"key":"alice-key","as":"bob"}`:         {400, "/as"},
			`{"key":["alice-key"]}`:                  {400, "/key"},
			`{"key":null}`:                           {400, "/key"},
			`["alice-key"]`:                          {400, ""},
			`null`:                                   {400, ""},
			`{"key":"alice-key"}{}`:                  {400, ""},
			`{"key":"alice-key`:                      {400, ""},
			"{\"key\":\"alice-key\xff\"}":            {400, ""},
			`{"key":"` + strings.Repeat("k", 20_000): {413, ""},
		} {
			resp, got := call(t, g, "", "POST", "/api/v1/login", strings.NewReader(body))
			if resp.StatusCode != want.status || want.pointer != "" && !strings.Contains(got, `"pointer":"`+want.pointer+`"`) || strings.Contains(got, "Go value") {
				t.Errorf("%.60s: %d %s", body, resp.StatusCode, got)
			}
		}
		if resp, got := call(t, g, "", "POST", "/api/v1/login", strings.NewReader(`{"key":"alice-key"}`), "Content-Type", "text/plain"); resp.StatusCode != 415 || len(resp.Cookies()) > 0 {
			t.Errorf("as a form sends it: %d %s", resp.StatusCode, got)
		}
		for body, want := range map[string]int{`{}`: 201, `{"x":1}`: 400, `{`: 400} {
			if resp, got := call(t, g, "alice-key", "POST", "/api/v1/tickets", strings.NewReader(body)); resp.StatusCode != want {
				t.Errorf("a ticket for %s: %d %s", body, resp.StatusCode, got)
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
	t.Run("a subscriber's many addresses are one", func(t *testing.T) {
		for ip, want := range map[string]string{
			"192.0.2.1": "addr/192.0.2.1", "::ffff:192.0.2.1": "addr/192.0.2.1", "2001:db8:0:1:a::1": "addr/2001:db8:0:1::/64",
			"2001:db8:0:1:ffff::": "addr/2001:db8:0:1::/64", "2001:db8:0:2::1": "addr/2001:db8:0:2::/64", "fe80::1%eth0": "addr/fe80::/64", "@": "addr/@",
		} {
			if got := addressBucket(ip); got != want {
				t.Errorf("%s: %s, want %s", ip, got, want)
			}
		}
		g := y.gateway(func(c *Config) {
			c.AddressRate, c.TrustedProxies = limit.Rate{PerSecond: 0.1, Burst: 100}, []string{"127.0.0.0/8"}
		})
		for i := range 10 {
			resp, _ := call(t, g, fmt.Sprintf("guess-%d", i), "GET", "/api/v1/users/me", nil, "X-Forwarded-For", fmt.Sprintf("2001:db8::%x", i+1))
			if resp.StatusCode == 429 {
				return
			}
		}
		t.Error("ten guesses from ten addresses of one network were answered")
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
		api.StateRunning: 503, api.StatePending: 503, api.StateStarting: 503, api.StateTerminated: 409, api.StateFailed: 409,
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
