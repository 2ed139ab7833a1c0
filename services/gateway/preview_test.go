package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// browser is a real headless Chromium, driven over the DevTools protocol.
type browser struct {
	t    testing.TB
	conn *websocket.Conn
	ctx  context.Context
	n    int
}

func openBrowser(t testing.TB) *browser {
	t.Helper()
	bin, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("this test needs a real browser (apt-get install chromium): %v", err)
	}
	dir, err := os.MkdirTemp("", "gwchrome")
	must(t, err)
	cmd := exec.Command(bin, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir="+dir, "--remote-debugging-port=0", "about:blank")
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.RemoveAll(dir) })
	var at string
	sc := bufio.NewScanner(stderr)
	for at == "" && sc.Scan() {
		if _, url, ok := strings.Cut(sc.Text(), "DevTools listening on "); ok {
			at = url
		}
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	if at == "" {
		t.Fatal("chromium did not start")
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(at, "ws://"), "/")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	var page string
	until(t, "chromium has a page", func() bool {
		resp, err := http.Get("http://" + host + "/json")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		var tabs []struct {
			Type string `json:"type"`
			URL  string `json:"webSocketDebuggerUrl"`
		}
		_ = json.NewDecoder(resp.Body).Decode(&tabs)
		for _, tab := range tabs {
			if tab.Type == "page" {
				page = tab.URL
			}
		}
		return page != ""
	})
	conn, _, err := websocket.Dial(ctx, page, nil)
	must(t, err)
	conn.SetReadLimit(16 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	b := &browser{t: t, conn: conn, ctx: ctx}
	b.do("Page.enable", nil)
	b.do("Network.enable", nil)
	return b
}

// do calls a method of the protocol and returns its result.
func (b *browser) do(method string, params any) json.RawMessage {
	b.t.Helper()
	b.n++
	req, err := json.Marshal(map[string]any{"id": b.n, "method": method, "params": params})
	must(b.t, err)
	must(b.t, b.conn.Write(b.ctx, websocket.MessageText, req))
	for {
		_, data, err := b.conn.Read(b.ctx)
		must(b.t, err)
		var m struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		must(b.t, json.Unmarshal(data, &m))
		if m.ID == b.n {
			if m.Error != nil {
				b.t.Fatalf("%s: %s", method, m.Error)
			}
			return m.Result
		}
	}
}

// eval runs an expression in the page and returns its value as a string; an exception is "throws <name>".
func (b *browser) eval(expr string) string {
	b.t.Helper()
	wrapped := fmt.Sprintf(`(async()=>{try{return String(await (%s))}catch(e){return "throws "+e.name}})()`, expr)
	var r struct {
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
	}
	must(b.t, json.Unmarshal(b.do("Runtime.evaluate", map[string]any{"expression": wrapped, "awaitPromise": true}), &r))
	return r.Result.Value
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("Page.navigate", map[string]any{"url": url})
	until(b.t, "the page is loaded", func() bool {
		return b.eval(`document.readyState+" "+(location.href!="about:blank")`) == "complete true"
	})
}

// app is a web server that an agent might start, with a page that tries to reach what is not its own.
func app(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" {
		http.Error(w, "a credential reached the session", http.StatusTeapot)
		return
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/app.js"):
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = io.WriteString(w, "window.ran = true")
	case strings.HasSuffix(r.URL.Path, "/data"):
		_, _ = io.WriteString(w, "own data")
	default:
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Set-Cookie", "agentyard=fixed; Path=/")
		_, _ = io.WriteString(w, `<!doctype html><title>app</title><script src="app.js"></script>`)
	}
}

// TestPreviewInBrowser: in a signed-in browser, a page that a session serves runs but reaches nothing of the gateway's.
func TestPreviewInBrowser(t *testing.T) {
	y := newYard(t)
	g := y.gateway(func(c *Config) { c.PreviewListen = "127.0.0.1:0" })
	sid := y.session(g, "alice-key", runner(t, http.HandlerFunc(app)))
	at := strings.Replace(g.URL(), "127.0.0.1", "localhost", 1)
	b := openBrowser(t)
	b.open(at + "/docs")
	// A page of the gateway's own may sign in and act, else the test would show nothing. (/docs allows no
	// connections, so the cookie is set the way a sign-in sets it.)
	b.do("Network.setCookie", map[string]any{"name": "agentyard", "value": "alice-key", "url": at, "httpOnly": true, "sameSite": "Lax"})
	b.do("Network.setCookie", map[string]any{"name": "readable", "value": "yes", "url": at})
	b.open(at + "/api/v1/users/me")
	if got := b.eval(`document.body.innerText`); !strings.Contains(got, id("u", "alice")) {
		t.Fatalf("the browser is not signed in: %s", got)
	}
	if got := b.eval(`document.cookie`); got != "readable=yes" {
		t.Fatalf("the gateway's page sees the cookies %q", got)
	}

	t.Run("on the gateway's address it is sandboxed", func(t *testing.T) {
		b.t = t
		b.open(at + "/api/v1/sessions/" + sid + "/ports/3000/")
		for expr, want := range map[string]string{
			`document.title`:      "app",
			`self.origin`:         "null",
			`document.cookie`:     "throws SecurityError",
			`localStorage.length`: "throws SecurityError",
			`fetch("/api/v1/users/me").then(r=>r.text())`:                                                                            "throws TypeError",
			`fetch("/api/v1/users/me",{credentials:"include"}).then(r=>r.text())`:                                                    "throws TypeError",
			`fetch("/api/v1/tickets",{method:"POST",credentials:"include",mode:"no-cors"})`:                                          "throws TypeError",
			`navigator.serviceWorker.register("app.js")`:                                                                             "throws SecurityError",
			`new Promise(f=>{const w=new WebSocket("ws://"+location.host+"/ws");w.onopen=()=>f("open");w.onerror=()=>f("refused")})`: "refused",
		} {
			if got := b.eval(expr); got != want {
				t.Errorf("%s: %s, want %s", expr, got, want)
			}
		}
		t.Logf("its script ran: %s", b.eval(`window.ran`))
	})
	t.Run("on the preview address it has an origin of its own", func(t *testing.T) {
		b.t = t
		_, body := call(t, g, "alice-key", "POST", "/api/v1/tickets", nil)
		host := "3000-" + sid + ".localhost:" + g.PreviewURL()[strings.LastIndexByte(g.PreviewURL(), ':')+1:]
		b.open("http://" + host + "/sub/?ticket=" + between(body, `"ticket":"`, `"`))
		for expr, want := range map[string]string{
			`document.title`:                   "app",
			`location.href`:                    "http://" + host + "/sub/",
			`window.ran`:                       "true",
			`document.cookie`:                  "",
			`localStorage.length`:              "0",
			`fetch("/data").then(r=>r.text())`: "own data",
			`fetch("` + at + `/api/v1/users/me",{credentials:"include"}).then(r=>r.text())`:        "throws TypeError",
			`fetch("http://3001-` + host[5:] + `/data",{credentials:"include"}).then(r=>r.text())`: "throws TypeError",
		} {
			if got := b.eval(expr); got != want {
				t.Errorf("%s: %s, want %s", expr, got, want)
			}
		}
	})
}

func TestPreviewAddress(t *testing.T) {
	y := newYard(t)
	g := y.gateway(func(c *Config) { c.PreviewListen = "127.0.0.1:0" })
	sid := y.session(g, "alice-key", runner(t, http.HandlerFunc(app)))
	ask := func(cred, host, path string, header ...string) (int, string) {
		req, err := http.NewRequestWithContext(timeout(t), "GET", g.PreviewURL()+path, nil)
		must(t, err)
		req.Host = host
		if cred != "" {
			req.Header.Set("Authorization", "Bearer "+cred)
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(req)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		data, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(data)
	}
	own := "3000-" + sid + ".localhost"
	for _, c := range []struct {
		cred, host, path string
		header           []string
		status           int
	}{
		{"alice-key", own, "/data", nil, 200},
		{"", own, "/data", nil, 401},
		{"", own, "/data", []string{"Cookie", "agentyard=alice-key"}, 401}, // the gateway's cookie is not the preview's
		{"evil-key", own, "/data", nil, 404},
		{"alice-key", "0-" + sid + ".localhost", "/", nil, 400},
		{"alice-key", "3000-" + sid, "/", nil, 404},
		{"alice-key", "localhost", "/api/v1/users/me", nil, 404},
		{"", own, "/?ticket=x", nil, 401},
	} {
		if status, body := ask(c.cred, c.host, c.path, c.header...); status != c.status {
			t.Errorf("%s %s%s %v: %d %s", c.cred, c.host, c.path, c.header, status, body)
		}
	}
}
