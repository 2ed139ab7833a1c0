package runner_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

func TestKey(t *testing.T) {
	s := newYard(t).session(nil)
	s.start()
	s.running()
	for _, path := range []string{"/status", "/messages", "/events", "/_yard/files", "/_yard/ports/80/", "/nowhere"} {
		for _, wrong := range []string{"", "wrong", key + "x"} {
			if code, body, _ := s.do("GET", path, "", api.RunnerKeyHeader, wrong); code != http.StatusUnauthorized {
				t.Errorf("%s with key %q: %d %s", path, wrong, code, body)
			}
		}
	}
	info, err := os.Stat(strings.TrimPrefix(s.launch.Listen, "unix:"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
}

func TestAgentAPI(t *testing.T) {
	s := newYard(t).session(nil)
	s.start()
	s.running()
	if code, body, _ := s.do("GET", "/status", ""); code != 200 || body != `{"status":"stable","agent_type":"demo"}`+"\n" && body != `{"status":"stable","agent_type":"demo"}` {
		t.Errorf("status: %d %s", code, body)
	}
	events := follow(t, s)

	if code, body, _ := s.do("POST", "/message", `{"content":"sleep 300ms","type":"user"}`); code != 200 || !strings.Contains(body, `"ok":true`) {
		t.Fatalf("message: %d %s", code, body)
	}
	if _, body, _ := s.do("GET", "/status", ""); !strings.Contains(body, `"running"`) {
		t.Errorf("status after a message: %s", body)
	}
	if code, body, _ := s.do("POST", "/message", `{"content":"echo too early","type":"user"}`); code != http.StatusConflict {
		t.Errorf("a message to a running agent: %d %s", code, body)
	}
	final := s.until("the answer", func(ev api.Event) bool { return ev.Final })
	asked := s.until("the message in the log", func(ev api.Event) bool { return ev.Type == api.EventUserMessage })
	if asked.Actor != "agentapi" || final.ReplyTo != asked.MessageID {
		t.Errorf("the log has %+v answered by %+v", asked, final)
	}
	s.answer(s.send("echo over the log"))

	var list struct {
		Messages []struct {
			ID            int
			Role, Content string
			Time          time.Time
		}
	}
	_, body, _ := s.do("GET", "/messages", "")
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, m := range list.Messages {
		if m.ID != i || m.Time.IsZero() {
			t.Errorf("message %+v at %d", m, i)
		}
		line, _, _ := strings.Cut(m.Content, "\n")
		got = append(got, m.Role+": "+line)
	}
	if want := []string{"user: sleep 300ms", "agent: slept 300ms", "user: echo over the log", "agent: over the log"}; !slices.Equal(got, want) {
		t.Errorf("the conversation is %q, want %q", got, want)
	}
	t.Run("events", func(t *testing.T) {
		var seen []string
		deadline := time.After(patience)
		for !slices.Contains(seen, "over the log") {
			select {
			case ev := <-events:
				var data struct {
					Message, Status, Role string
					AgentType             string `json:"agent_type"`
				}
				if err := json.Unmarshal([]byte(ev.data), &data); err != nil {
					t.Fatalf("%q: %v", ev.data, err)
				}
				line, _, _ := strings.Cut(data.Message, "\n")
				seen = append(seen, line+data.Status)
			case <-deadline:
				t.Fatalf("the events were %q", seen)
			}
		}
		for _, want := range []string{"stable", "running", "sleep 300ms", "slept 300ms"} {
			if !slices.Contains(seen, want) {
				t.Errorf("%q is not among the events %q", want, seen)
			}
		}
	})
	t.Run("bad messages", func(t *testing.T) {
		for _, body := range []string{"", "{", `{}`, `{"content":"x"}`, `{"content":"x","type":"other"}`, `{"content":"","type":"user"}`, `{"content":" ","type":"user"}`, `{"content":"x","type":"raw"}`, `[]`, strings.Repeat("x", 2<<20)} {
			if code, answer, h := s.do("POST", "/message", body); code != http.StatusBadRequest || h.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%.40q: %d %s", body, code, answer)
			}
		}
	})
	t.Run("upload", func(t *testing.T) {
		var buf bytes.Buffer
		form := multipart.NewWriter(&buf)
		part, err := form.CreateFormFile("file", "../../etc/a b.txt")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write([]byte("uploaded"))
		form.Close()
		code, body, _ := s.do("POST", "/upload", buf.String(), "Content-Type", form.FormDataContentType())
		var res struct {
			OK       bool
			FilePath string
		}
		if err := json.Unmarshal([]byte(body), &res); err != nil || code != 200 || !res.OK {
			t.Fatalf("upload: %d %s", code, body)
		}
		if data, err := os.ReadFile(res.FilePath); err != nil || string(data) != "uploaded" || !strings.HasPrefix(res.FilePath, s.launch.Dir) {
			t.Errorf("%s holds %q, %v", res.FilePath, data, err)
		}
		if code, body, _ := s.do("POST", "/upload", "x", "Content-Type", "text/plain"); code != http.StatusBadRequest {
			t.Errorf("no form: %d %s", code, body)
		}
	})
}

type sse struct{ event, data string }

// follow reads /events until the test ends.
func follow(t *testing.T, s *session) <-chan sse {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://runner/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(api.RunnerKeyHeader, key)
	res, err := s.client().Do(req)
	if err != nil || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("events: %v", err)
	}
	out := make(chan sse, 1000)
	go func() {
		defer res.Body.Close()
		var ev sse
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
			case "event":
				ev.event = value
			case "data":
				ev.data = value
			case "":
				if ev.data != "" {
					out <- ev
				}
				ev = sse{}
			}
		}
	}()
	return out
}

func TestFiles(t *testing.T) {
	s := newYard(t).session(nil)
	s.start()
	s.running()
	work := filepath.Join(s.launch.Dir, "workspace")
	put := func(path, body string) (int, string) {
		code, answer, _ := s.do("PUT", "/_yard/files?path="+path, body)
		return code, answer
	}
	if code, body := put("a/b/c.txt", "0123456789"); code != 200 || !strings.Contains(body, `"path":"a/b/c.txt"`) || !strings.Contains(body, `"size":10`) {
		t.Fatalf("put: %d %s", code, body)
	}
	code, body, h := s.do("GET", "/_yard/files?path=a/b/c.txt", "")
	if code != 200 || body != "0123456789" || h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("get: %d %q %v", code, body, h)
	}
	if code, body, _ := s.do("GET", "/_yard/files?path=a/b/c.txt", "", "Range", "bytes=2-4"); code != http.StatusPartialContent || body != "234" {
		t.Errorf("range: %d %q", code, body)
	}
	if code, body := put("a/b/c.txt", "new"); code != 200 {
		t.Errorf("replace: %d %s", code, body)
	}
	if code, body, _ := s.do("GET", "/_yard/files", ""); code != 200 || !strings.Contains(body, `{"path":"a","type":"directory"`) {
		t.Errorf("list: %d %s", code, body)
	}

	// What leads out of the workspace.
	secret := filepath.Join(s.launch.Dir, "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(secret, filepath.Join(work, "link")), os.Symlink("..", filepath.Join(work, "up")),
		os.Symlink("/etc", filepath.Join(work, "etc")), os.Symlink("a/b/c.txt", filepath.Join(work, "inside")), syscall.Mkfifo(filepath.Join(work, "fifo"), 0o600),
		os.Truncate(filepath.Join(work, "a/b/c.txt"), 3), os.WriteFile(filepath.Join(work, "huge"), nil, 0o600), os.Truncate(filepath.Join(work, "huge"), 1<<30),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"../secret", "link", "up/secret", "etc/passwd", "/etc/passwd", "a/../../secret", "..", "%2e%2e/secret", "a%00b", `..\secret`, "fifo", "a/b/c.txt/../../../../secret"} {
		if code, body, _ := s.do("GET", "/_yard/files?path="+path, ""); code < 400 || code >= 500 || strings.Contains(body, "secret\"") || body == "secret" {
			t.Errorf("get %s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"../x", "up/x", "etc/x", "/tmp/x", "", ".", "a", "a/b/c.txt/d", "link/x"} {
		if code, body := put(path, "x"); code < 400 || code >= 500 {
			t.Errorf("put %s: %d %s", path, code, body)
		}
	}
	if code, body, _ := s.do("GET", "/_yard/files?path=inside", ""); code != 200 || body != "new" {
		t.Errorf("a link inside: %d %q", code, body)
	}
	if code, body := put("link", "mine"); code != 200 {
		t.Errorf("putting over a link: %d %s", code, body)
	}
	if data, _ := os.ReadFile(secret); string(data) != "secret" {
		t.Errorf("the link's target was written: %q", data)
	}
	if code, body, _ := s.do("GET", "/_yard/files?path=none", ""); code != http.StatusNotFound {
		t.Errorf("a missing file: %d %s", code, body)
	}
	if code, body, _ := s.do("GET", "/_yard/files?path=huge", ""); code != http.StatusBadRequest {
		t.Errorf("a huge file: %d %.100s", code, body)
	}
	if code, body, _ := s.do("GET", "/_yard/files?path=huge", "", "Range", "bytes=1000000000-1000000009"); code != http.StatusPartialContent || len(body) != 10 {
		t.Errorf("a part of a huge file: %d %d bytes", code, len(body))
	}
	t.Run("a body above the bound leaves nothing", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://runner/_yard/files?path=big/file", io.LimitReader(zeros{}, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(api.RunnerKeyHeader, key)
		res, err := s.client().Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode != http.StatusBadRequest {
				t.Errorf("status %d", res.StatusCode)
			}
		}
		entries, err := os.ReadDir(filepath.Join(work, "big"))
		if err != nil || len(entries) != 0 {
			t.Errorf("left %v, %v", entries, err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPorts(t *testing.T) {
	s := newYard(t).session(nil)
	s.start()
	s.running()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	if got := s.answer(s.send(fmt.Sprintf("serve %d", port))); !strings.HasPrefix(got, "serving on") {
		t.Fatalf("serve: %s", got)
	}
	if code, body, _ := s.do("GET", fmt.Sprintf("/_yard/ports/%d/x", port), ""); code != 200 || body != "hello from "+s.launch.Session+"\n" {
		t.Errorf("the session's server: %d %q", code, body)
	}
	t.Run("not another process's port", func(t *testing.T) {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "not yours") }))
		defer other.Close()
		for _, p := range []int{other.Listener.Addr().(*net.TCPAddr).Port, 1} {
			if code, body, _ := s.do("GET", fmt.Sprintf("/_yard/ports/%d/", p), ""); code != http.StatusNotFound || strings.Contains(body, "not yours") {
				t.Errorf("port %d: %d %s", p, code, body)
			}
		}
	})
	t.Run("not a port", func(t *testing.T) {
		for _, p := range []string{"0", "-1", "65536", "x", "080", "+80", "", "80@evil", "127.0.0.1:80"} {
			if code, body, _ := s.do("GET", "/_yard/ports/"+p+"/", ""); code < 400 || code >= 500 {
				t.Errorf("port %q: %d %s", p, code, body)
			}
		}
	})
	t.Run("what a server says and hears", func(t *testing.T) {
		// A server in Python, as an agent might start one, that shows what it got.
		script := `import http.server,sys,threading
class H(http.server.BaseHTTPRequestHandler):
  protocol_version='HTTP/1.1'
  def do_GET(self):
    if self.path.startswith('/redirect'):
      self.send_response(302); self.send_header('Location','http://169.254.169.254/'); self.send_header('Content-Length','0'); self.end_headers(); return
    if self.headers.get('Upgrade')=='echo':
      self.send_response(101); self.send_header('Upgrade','echo'); self.send_header('Connection','Upgrade'); self.end_headers()
      self.wfile.write(self.rfile.readline()); self.close_connection=True; return
    b=(self.path+'|'+'|'.join(k+'='+v for k,v in self.headers.items())).encode()
    self.send_response(200); self.send_header('Content-Length',str(len(b))); self.end_headers(); self.wfile.write(b)
  def log_message(self,*a): pass
s=http.server.ThreadingHTTPServer(('127.0.0.1',0),H)
open('port','w').write(str(s.server_port)); s.serve_forever()`
		enc := base64.StdEncoding.EncodeToString([]byte(script))
		s.answer(s.send("run echo " + enc + " | base64 -d > srv.py; (python3 srv.py >/dev/null 2>&1 &) ; while [ ! -s port ]; do sleep 0.05; done"))
		data, err := os.ReadFile(filepath.Join(s.launch.Dir, "workspace", "port"))
		if err != nil {
			t.Fatal(err)
		}
		base := "/_yard/ports/" + string(data)
		code, body, _ := s.do("GET", base+"/a//b%2Fc?q=1", "", "Cookie", "session=secret", "Authorization", "Bearer secret", "X-Other", "kept")
		if code != 200 || !strings.HasPrefix(body, "/a//b%2Fc?q=1|") || !strings.Contains(body, "X-Other=kept") {
			t.Errorf("the server saw %d %q", code, body)
		}
		if strings.Contains(body, "secret") || strings.Contains(body, key) {
			t.Errorf("a credential reached the session's server: %q", body)
		}
		if code, _, h := s.do("GET", base+"/redirect", ""); code != http.StatusFound || h.Get("Location") != "http://169.254.169.254/" {
			t.Errorf("a redirect: %d %v", code, h)
		}
		conn, err := net.Dial("unix", strings.TrimPrefix(s.launch.Listen, "unix:"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET %s/ws HTTP/1.1\r\nHost: x\r\n%s: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", base, api.RunnerKeyHeader, key)
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("upgrade: %+v, %v", res, err)
		}
		fmt.Fprint(conn, "over the socket\n")
		if line, err := r.ReadString('\n'); line != "over the socket\n" {
			t.Errorf("echoed %q, %v", line, err)
		}
	})
}

// TestIsolated runs the agent with all that this machine can isolate.
func TestIsolated(t *testing.T) {
	isolation := sandbox.Probe().Isolation()
	isolation = slices.DeleteFunc(isolation, func(s string) bool { return s == sandbox.Cgroup })
	if len(isolation) == 0 {
		t.Skipf("this machine isolates nothing: %v", sandbox.Probe().Missing)
	}
	s := newYard(t).session(func(l *launch.Launch) {
		l.Sandbox.Isolation = isolation
		l.Sandbox.UID, l.Sandbox.GID = 59_321, 59_321
		if os.Geteuid() != 0 {
			l.Sandbox.UID, l.Sandbox.GID = os.Geteuid(), os.Getegid()
		}
	})
	t.Logf("with %v", isolation)
	s.start()
	s.running()
	s.answer(s.send("write mine.txt\nx"))
	if code, body, _ := s.do("PUT", "/_yard/files?path=d/yours.txt", "y"); code != 200 {
		t.Fatalf("put: %d %s", code, body)
	}
	if got := s.answer(s.send("run echo more >> d/yours.txt; touch d/beside; cat d/yours.txt")); !strings.HasPrefix(got, "ymore\nexit 0") {
		t.Errorf("the agent cannot write what was put: %q", got)
	}
	// The credential is a JWT in the runner's memory; its endpoint key was on its standard input.
	snoop := fmt.Sprintf("run cat /proc/%d/environ /proc/%d/mem /proc/*/environ 2>/dev/null | grep -ac -e %s -e 'BEGIN NATS'; true", s.cmd.Process.Pid, s.cmd.Process.Pid, key)
	if got := s.answer(s.send(snoop)); !strings.HasPrefix(got, "0\n") {
		t.Errorf("the agent found secrets: %q", got)
	}
	s.answer(s.send("serve 0"))
	got := s.until("the address", func(ev api.Event) bool { return ev.Final && strings.HasPrefix(ev.Content, "serving on") }).Content
	addr, _, _ := strings.Cut(strings.TrimPrefix(got, "serving on "), "\n")
	_, port, _ := net.SplitHostPort(addr)
	if code, body, _ := s.do("GET", "/_yard/ports/"+port+"/", ""); code != 200 {
		t.Errorf("the session's server: %d %s", code, body)
	}
}
