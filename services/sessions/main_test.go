package sessions_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/demo"
	"agentyard.dev/services/sessions/process"
	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/repo"
	"agentyard.dev/services/sessions/sandbox"
)

const patience = 30 * time.Second

// The test binary is also the sessions' sandbox, runner and agent.
func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			os.Exit(runner.Main(os.Args[2:], os.Stdin, os.Stderr))
		case runner.DemoVerb:
			os.Exit(demo.Run())
		}
	}
	os.Exit(m.Run())
}

// yard is a sessions service on a real bus with the process runtime and the real runner.
type yard struct {
	t      *testing.T
	dir    string // of sessions
	store  string // of the bus
	srv    *bus.Server
	ring   *bus.Keyring
	key    token.SigningKey
	client *rpc.Client
	log    *bus.Log
	cfg    sessions.Config

	logs         io.Writer             // gets a copy of what the service and its runtime log, if set
	metrics      prometheus.Registerer // of the service; nil: none
	did          func(tenant, action, object, detail string)
	declarations sessions.Declarations // nil: none

	stop func()
}

type keys map[string]ed25519.PublicKey

func (k keys) VerifyingKeys() map[string]ed25519.PublicKey { return k }

func newYard(t *testing.T, change func(*sessions.Config)) *yard {
	t.Helper()
	y := emptyYard(t, change)
	y.start()
	t.Cleanup(func() {
		y.removeAll()
		y.stop()
	})
	return y
}

// emptyYard is a yard in which no sessions service runs.
func emptyYard(t *testing.T, change func(*sessions.Config)) *yard {
	t.Helper()
	y := &yard{t: t, dir: t.TempDir(), cfg: sessions.DefaultConfig()}
	y.cfg.Sweep, y.cfg.StopGrace = 50*time.Millisecond, 5*time.Second
	y.cfg.AllowPrivateRepositories = true
	if change != nil {
		change(&y.cfg)
	}
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	y.ring, y.store = ring, t.TempDir()
	y.srv = bustest.Start(t, ring, y.store, "127.0.0.1:0")
	if y.key, err = token.NewSigningKey(time.Now(), time.Now(), time.Now().Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	gateway := bustest.Connect(t, y.srv, y.ring, "gateway")
	y.client = rpc.NewClient(gateway, rpc.ClientConfig{Name: "gateway", Timeout: patience})
	y.log = bus.ReadLog(gateway)
	return y
}

// start runs the service and its runtime until y.stop.
func (y *yard) start() {
	y.t.Helper()
	runtime := y.runtime()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := runtime.Run(ctx); err != nil {
			y.t.Error(err)
		}
	}()
	r := y.serve(runtime, runtime.Info())
	y.stop = func() {
		r.stop()
		cancel()
		<-ended
		y.stop = func() {}
	}
}

// runtime returns a process runtime on the yard's directory.
func (y *yard) runtime() *process.Runtime {
	y.t.Helper()
	cfg := process.DefaultConfig()
	exe, err := os.Executable()
	if err != nil {
		y.t.Fatal(err)
	}
	cfg.DataDir, cfg.Runner, cfg.SocketDir = y.dir, []string{exe, "runner"}, filepath.Join(y.dir, "s")
	return process.New(cfg, y.logger())
}

func (y *yard) logger() *slog.Logger {
	if y.logs == nil {
		return slog.New(slog.NewTextHandler(y.t.Output(), nil))
	}
	return slog.New(slog.NewTextHandler(io.MultiWriter(y.t.Output(), y.logs), nil))
}

// replica is one sessions service of a yard.
type replica struct {
	svc  *sessions.Service
	stop func() // as SIGTERM does
	kill func() // as SIGKILL does: the bus hears nothing from it any more
}

// serve runs a sessions service on a runtime until it is stopped or killed, and returns when it answers.
func (y *yard) serve(runtime sessions.Runtime, info sessions.RuntimeInfo) *replica {
	y.t.Helper()
	// Closed by stop, which may come before or after the test's own cleanups.
	creds, err := y.ring.ServiceCredentials("sessions")
	if err != nil {
		y.t.Fatal(err)
	}
	conn, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: creds, Name: "sessions"})
	if err != nil {
		y.t.Fatal(err)
	}
	svc := sessions.New(y.cfg, sessions.Deps{
		Conn: conn, Auth: token.NewVerifier(keys{y.key.ID: y.key.Private.Public().(ed25519.PublicKey)}, nil, nil),
		Issuer: y.ring.SessionIssuer(), BusURL: y.srv.URL(), Runtime: runtime, Info: info,
		Kind: func(name string) bool { _, ok := agent.LookupKind(name); return ok },
		CheckURL: func(ctx context.Context, url string) error {
			return repo.CheckURL(ctx, url, repo.Policy{AllowPrivate: y.cfg.AllowPrivateRepositories})
		},
		Logger: y.logger(), Metrics: y.metrics, Did: y.did, Declarations: y.declarations,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var killed atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := svc.Run(ctx); err != nil && !killed.Load() {
			y.t.Error(err)
		}
	}()
	end := func() {
		cancel()
		<-ended
		_ = conn.Close(context.Background())
	}
	r := &replica{svc: svc, stop: sync.OnceFunc(end)}
	r.kill = func() {
		killed.Store(true)
		gone, now := context.WithCancel(context.Background())
		now()
		_ = conn.Close(gone)
		r.stop()
	}
	y.eventually("the service is ready", func() bool { return svc.Ready(y.t.Context()) == nil })
	return r
}

// removeAll ends every session, so that no process outlives the test.
func (y *yard) removeAll() {
	admin := y.as("admin", api.RoleAdmin)
	page, err := rpc.Call(admin, y.client, api.ListSessions, api.ListSessionsRequest{List: api.List{Limit: 500}})
	if err != nil {
		y.t.Error(err)
	}
	for _, s := range page.Items {
		if !s.State.Final() || s.State == api.StateFailed {
			_, _ = rpc.Call(admin, y.client, api.DeleteSession, api.SessionRef{ID: s.ID})
		}
	}
	for _, s := range page.Items {
		y.eventually("session ended", func() bool { return y.get(admin, s.ID).State.Final() })
	}
}

// as returns a context with the token of a user of the default tenant; "tenant/name" is one of another.
func (y *yard) as(name string, roles ...api.Role) context.Context {
	y.t.Helper()
	tenant := api.HomeTenant
	if t, n, ok := strings.Cut(name, "/"); ok {
		tenant, name = t, n
	}
	if len(roles) == 0 {
		roles = []api.Role{api.RoleMember}
	}
	raw, err := token.Mint(y.key, api.Principal{ID: api.DeriveID(api.KindUser, tenant, name), Tenant: tenant, Name: name, Roles: roles}, time.Now(), 30*time.Minute)
	if err != nil {
		y.t.Fatal(err)
	}
	return token.WithRaw(context.Background(), raw)
}

func userID(name string) string { return api.DeriveID(api.KindUser, api.HomeTenant, name) }

func (y *yard) create(ctx context.Context, req api.CreateSessionRequest) api.Session {
	y.t.Helper()
	s, err := rpc.Call(ctx, y.client, api.CreateSession, req)
	if err != nil {
		y.t.Fatalf("create: %v", err)
	}
	return s
}

func (y *yard) get(ctx context.Context, id string) api.Session {
	y.t.Helper()
	var s api.Session
	y.eventually("the service answers", func() (ok bool) {
		var err error
		if s, err = rpc.Call(ctx, y.client, api.GetSession, api.SessionRef{ID: id}); err != nil && api.CodeOf(err) != api.CodeUnavailable {
			y.t.Fatalf("get: %v", err)
		}
		return err == nil
	})
	return s
}

func (y *yard) eventually(what string, ok func() bool) {
	y.t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			y.t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// reaches waits for a state and fails at once for a final one that is not it.
func (y *yard) reaches(ctx context.Context, id string, want api.State) api.Session {
	y.t.Helper()
	var s api.Session
	y.eventually(id+" is "+string(want), func() bool {
		if s = y.get(ctx, id); s.State != want && s.State.Final() {
			y.t.Fatalf("%s is %s (%s), not %s", id, s.State, s.Reason, want)
		}
		return s.State == want
	})
	return s
}

func (y *yard) send(ctx context.Context, id, content string) api.Accepted {
	y.t.Helper()
	a, err := rpc.Call(ctx, y.client, api.SendMessage, api.SendMessageRequest{ID: id, Content: content})
	if err != nil {
		y.t.Fatalf("send: %v", err)
	}
	return a
}

// answer waits for the final answer to a message.
func (y *yard) answer(ctx context.Context, id, message string) string {
	y.t.Helper()
	var text string
	y.eventually("an answer to "+message, func() bool {
		page, err := rpc.Call(ctx, y.client, api.ListMessages, api.ListMessagesRequest{ID: id, List: api.List{Limit: 500}})
		if err != nil {
			y.t.Fatal(err)
		}
		for _, m := range page.Items {
			if m.ReplyTo == message && strings.Contains(m.Content, "[done "+message+"]") {
				text = m.Content
			}
		}
		return text != ""
	})
	return text
}

// runnerPID returns the process of a session's runner.
func (y *yard) runnerPID(id string) int {
	y.t.Helper()
	var i struct {
		PID int `json:"pid"`
	}
	data, err := os.ReadFile(filepath.Join(y.dir, "sessions", id, "instance.json"))
	if err != nil || json.Unmarshal(data, &i) != nil || i.PID <= 1 {
		y.t.Fatalf("no runner of %s: %v", id, err)
	}
	return i.PID
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(data, []byte(") Z ")) && syscall.Kill(pid, 0) == nil
}

func wantCode(t *testing.T, err error, want api.Code, contains string) {
	t.Helper()
	if api.CodeOf(err) != want || err == nil || !strings.Contains(err.Error(), contains) {
		t.Errorf("got %v, want %s with %q", err, want, contains)
	}
}
