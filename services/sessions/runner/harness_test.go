package runner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/sandbox"
)

// TestMain lets the test's own binary be the runner, its sandbox and the demo agent.
func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	if len(os.Args) == 2 && (os.Args[1] == "runner" || os.Args[1] == runner.DemoVerb) {
		args := os.Args[1:]
		if args[0] == "runner" {
			args = nil
		}
		os.Exit(runner.Main(args, os.Stdin, os.Stderr))
	}
	os.Exit(m.Run())
}

const (
	tenant   = "default"
	patience = 30 * time.Second
	key      = "the-key"
)

// yard is the sessions service's side of runners, on a real bus.
type yard struct {
	t     *testing.T
	srv   *bus.Server
	ring  *bus.Keyring
	log   *bus.Log
	store string

	mu      sync.Mutex
	reports map[string]api.RunnerReportRequest // newest by session
	stop    map[string]int                     // incarnations below this are told to stop
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{t: t, reports: map[string]api.RunnerReportRequest{}, stop: map[string]int{}}
	var err error
	if y.ring, err = bus.OpenKeyring(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	y.store = t.TempDir()
	y.srv = bustest.Start(t, y.ring, y.store, "127.0.0.1:0")
	y.serve()
	return y
}

// serve answers the runners' operations as the sessions service does.
func (y *yard) serve() {
	t := y.t
	conn := bustest.Connect(t, y.srv, y.ring, "sessions")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if y.log, err = bus.OpenLog(ctx, conn, bus.LogConfig{}); err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(conn, rpc.ServerConfig{Service: "sessions"})
	who := func(ctx context.Context) string { p, _ := api.PrincipalFrom(ctx); return p.ID }
	rpc.Handle(s, api.RunnerReport, func(ctx context.Context, req api.RunnerReportRequest) (api.RunnerReportResponse, error) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.reports[who(ctx)] = req
		return api.RunnerReportResponse{Stop: req.Incarnation < y.stop[who(ctx)]}, nil
	})
	rpc.Handle(s, api.RunnerInbox, func(ctx context.Context, req api.RunnerInboxRequest) (api.RunnerInboxResponse, error) {
		evs, more, err := y.log.Read(ctx, tenant, who(ctx), api.WriterUser, req.After, 3) // small pages: they are followed
		return api.RunnerInboxResponse{Events: evs, More: more}, err
	})
	rpc.Handle(s, api.RunnerResume, func(ctx context.Context, _ api.None) (api.RunnerResumeResponse, error) {
		return y.position(ctx, who(ctx))
	})
	run, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(run) }()
	t.Cleanup(func() { stop(); <-done })
}

func (y *yard) position(ctx context.Context, session string) (api.RunnerResumeResponse, error) {
	var res api.RunnerResumeResponse
	evs, err := y.all(ctx, session)
	if err != nil {
		return res, err
	}
	for _, ev := range evs {
		if ev.Type == api.EventStatus && len(ev.Raw) > 0 {
			var mark api.RunnerMark
			if err := json.Unmarshal(ev.Raw, &mark); err != nil {
				return res, err
			}
			res.DoneSeq, res.InterruptSeq, res.AgentSession = mark.DoneSeq, mark.InterruptSeq, mark.AgentSession
		}
	}
	res.LastSeq, res.LastWriter, err = y.log.Position(ctx, tenant, session)
	return res, err
}

// all returns the session's whole log.
func (y *yard) all(ctx context.Context, session string) (out []api.Event, err error) {
	after := uint64(0)
	for {
		evs, more, err := y.log.Read(ctx, tenant, session, "", after, 1000)
		if err != nil {
			return nil, err
		}
		out = append(out, evs...)
		if !more || len(evs) == 0 {
			return out, nil
		}
		after = evs[len(evs)-1].Seq
	}
}

// session is one session whose runner is started and killed at will.
type session struct {
	y      *yard
	t      *testing.T
	launch launch.Launch
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	exited chan struct{}
}

func (y *yard) session(edit func(*launch.Launch)) *session {
	t := y.t
	t.Helper()
	id := api.NewID(api.KindSession)
	creds, err := y.ring.SessionIssuer().Credentials(tenant, id)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sockets, err := os.MkdirTemp("", "yard") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	s := &session{y: y, t: t, launch: launch.Launch{
		Tenant: tenant, Session: id, BusURL: y.srv.URL(), Credentials: creds, Agent: api.Agent{Kind: "demo"},
		Dir: dir, Listen: "unix:" + filepath.Join(sockets, "s"), EndpointKey: key, Sandbox: launch.Sandbox{Dir: dir},
	}}
	if edit != nil {
		edit(&s.launch)
	}
	return s
}

// start starts the next incarnation as a process of its own.
func (s *session) start() {
	s.t.Helper()
	s.begin(bytes.NewReader(s.next()))
}

// next returns the launch of the next incarnation.
func (s *session) next() []byte {
	s.t.Helper()
	s.launch.Incarnation++
	doc, err := json.Marshal(s.launch)
	if err != nil {
		s.t.Fatal(err)
	}
	return doc
}

// begin starts a runner that is told what stdin holds.
func (s *session) begin(stdin io.Reader) {
	s.t.Helper()
	s.stderr = &bytes.Buffer{}
	s.cmd = exec.Command(os.Args[0], "runner")
	s.cmd.Stdin = stdin
	s.cmd.Stderr = s.stderr
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SECRET_OF_THE_SERVER=1"}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, exited := s.cmd, make(chan struct{})
	s.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if s.t.Failed() {
			s.t.Logf("runner said: %s", s.stderr)
		}
	})
}

// kill is kill -9 of the runner.
func (s *session) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// end is SIGTERM, and what the runner's exit status was.
func (s *session) end() int {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.t.Fatal("the runner does not end")
	}
	return s.cmd.ProcessState.ExitCode()
}

func (s *session) send(content string) string {
	s.t.Helper()
	id := api.NewID(api.KindMessage)
	s.append(api.Event{Type: api.EventUserMessage, MessageID: id, Content: content})
	return id
}

func (s *session) append(ev api.Event) uint64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ev.At = time.Now()
	seq, _, err := s.y.log.AppendUser(ctx, tenant, s.launch.Session, "", ev)
	if err != nil {
		s.t.Fatal(err)
	}
	return seq
}

func (s *session) events() []api.Event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	evs, err := s.y.all(ctx, s.launch.Session)
	if err != nil {
		s.t.Fatal(err)
	}
	return evs
}

// until follows the log until ok answers true for an event, which it returns.
func (s *session) until(what string, ok func(api.Event) bool) api.Event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var found api.Event
	enough := errors.New("found")
	err := s.y.log.Follow(ctx, tenant, s.launch.Session, 0, func(ev api.Event) error {
		if ok(ev) {
			found = ev
			return enough
		}
		return nil
	}, nil)
	if !errors.Is(err, enough) {
		s.t.Fatalf("%s did not come (%v); the log has %s", what, err, types(s.events()))
	}
	return found
}

func types(evs []api.Event) string {
	var b strings.Builder
	for _, ev := range evs[max(0, len(evs)-50):] {
		b.WriteString(string(ev.Type) + " ")
	}
	return b.String()
}

// answer waits for the final message to a user message.
func (s *session) answer(id string) string {
	s.t.Helper()
	return s.until("the answer to "+id, func(ev api.Event) bool {
		return ev.Type == api.EventAgentMessage && ev.ReplyTo == id && ev.Final
	}).Content
}

// report waits for a report that ok accepts.
func (s *session) report(what string, ok func(api.RunnerReportRequest) bool) api.RunnerReportRequest {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s.y.mu.Lock()
		now := s.y.reports[s.launch.Session]
		s.y.mu.Unlock()
		if ok(now) {
			return now
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no report of %s; the last is %+v", what, now)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-s.t.Context().Done():
		}
	}
}

func (s *session) running() {
	s.t.Helper()
	s.report("running", func(r api.RunnerReportRequest) bool {
		return r.Incarnation == s.launch.Incarnation && r.State == api.StateRunning
	})
}

// client talks to the runner's endpoint.
func (s *session) client() *http.Client {
	path := strings.TrimPrefix(s.launch.Listen, "unix:")
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do makes a request and returns the status and the body.
func (s *session) do(method, path, body string, header ...string) (int, string, http.Header) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://runner"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set(api.RunnerKeyHeader, key)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.client().Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, string(data), res.Header
}

// restart stops the bus and starts it again on the same address and store.
func (y *yard) restart() {
	y.t.Helper()
	addr := strings.TrimPrefix(y.srv.URL(), "nats://")
	y.srv.Close()
	y.srv = bustest.Start(y.t, y.ring, y.store, addr)
}

func runGit(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
