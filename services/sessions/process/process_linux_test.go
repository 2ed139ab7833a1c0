package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runtimetest"
	"agentyard.dev/services/sessions/sandbox"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			os.Exit(testRunner())
		case "agent":
			os.Exit(testAgent(os.Args[2:]))
		case "dial":
			os.Exit(testDial(os.Args[2:]))
		case "owner":
			os.Exit(testOwner(os.Args[2], len(os.Args) > 3))
		}
	}
	os.Exit(m.Run())
}

// testRunner is a runner that does what runtimetest.Env says.
func testRunner() int {
	var l launch.Launch
	documents := json.NewDecoder(os.Stdin)
	err := documents.Decode(&l)
	if err == nil && l.Spare {
		l = launch.Launch{}
		err = documents.Decode(&l)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "no launch:", err)
		return 2
	}
	if l.Sandbox.Network.Address != "" {
		n, err := sandbox.MakeNetwork(l.Sandbox.Network)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		l.Sandbox.Namespace = n.File()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if l.Env["FAIL"] != "" {
		fmt.Fprintln(os.Stderr, "line one\nline two\nit was not to be")
		return 3
	}
	if l.Env[runtimetest.Daemons] != "" {
		exe, _ := os.Executable()
		argv := []string{exe, "agent", l.Session}
		if to := l.Env["DIAL"]; to != "" {
			argv = append([]string{exe, "dial"}, strings.Fields(to)...)
		}
		cmd, err := sandbox.Command(l.Sandbox, filepath.Join(l.Dir, "workspace"), argv, []string{"PATH=/usr/bin:/bin"})
		if err == nil {
			cmd.Stderr = os.Stderr
			cmd.Stdout, err = os.Create(filepath.Join(l.Dir, "agent.out"))
		}
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
		defer func() { _ = sandbox.Kill(cmd); _ = cmd.Wait() }()
	}
	text, _ := json.Marshal(map[string]any{"pid": os.Getpid(), "env": os.Environ(), "launch": l, "args": os.Args})
	if err := os.WriteFile(filepath.Join(l.Dir, "up.new"), text, 0o600); err != nil {
		return 1
	}
	_ = os.Rename(filepath.Join(l.Dir, "up.new"), filepath.Join(l.Dir, "up"))
	for range stop {
		if l.Env[runtimetest.Stubborn] == "" {
			break
		}
	}
	return 0
}

// testAgent leaves detached processes and waits.
func testAgent(args []string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	if len(args) == 1 {
		for range 2 {
			cmd := exec.Command(os.Args[0], "agent", args[0], "daemon")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				return 1
			}
		}
		fmt.Println("ready")
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	<-ch
	return 0
}

// testOwner runs a runtime on the directory, starts the launch on its standard input and waits to be killed.
func testOwner(dir string, spare bool) int {
	var l launch.Launch
	if err := json.NewDecoder(os.Stdin).Decode(&l); err != nil {
		return 2
	}
	cfg := config(dir)
	cfg.Spare = spare
	r := New(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	go func() { _ = r.Run(context.Background()) }()
	if _, err := r.Start(context.Background(), l); err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		return 1
	}
	fmt.Println("started")
	select {}
}

func config(dir string) Config {
	cfg := DefaultConfig()
	exe, _ := os.Executable()
	cfg.DataDir, cfg.Runner = dir, []string{exe, "runner"}
	cfg.SocketDir = filepath.Join(dir, "sockets")
	cfg.Spare = false
	return cfg
}

// env implements runtimetest.Env.
type env struct{ dir string }

func newEnv(t *testing.T) runtimetest.Env { return &env{dir: t.TempDir()} }

func (e *env) New(t *testing.T) sessions.Runtime { return e.runtime(t, config(e.dir)) }

func (e *env) runtime(t *testing.T, cfg Config) *Runtime {
	t.Helper()
	r := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (e *env) Crashed(t *testing.T, l launch.Launch) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "owner", e.dir)
	text, _ := json.Marshal(l)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.Up(t, sessions.Ref{Tenant: l.Tenant, Session: l.Session}, l.Incarnation)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the whole group, as a terminal's end would
	_ = cmd.Wait()
}

type upFile struct {
	PID    int           `json:"pid"`
	Env    []string      `json:"env"`
	Args   []string      `json:"args"`
	Launch launch.Launch `json:"launch"`
}

func (e *env) up(s sessions.Ref) (up upFile, ok bool) {
	data, err := os.ReadFile(filepath.Join(e.dir, "sessions", s.Session, "up"))
	return up, err == nil && json.Unmarshal(data, &up) == nil
}

func (e *env) Up(t *testing.T, s sessions.Ref, incarnation int) {
	t.Helper()
	eventually(t, "the runner is up", func() bool {
		up, ok := e.up(s)
		if !ok || up.Launch.Incarnation != incarnation {
			return false
		}
		return up.Launch.Env[runtimetest.Daemons] == "" || e.Processes(t, s) >= 4 // runner, agent, two daemons
	})
}

func (e *env) Kill(t *testing.T, s sessions.Ref) {
	t.Helper()
	up, ok := e.up(s)
	if !ok {
		t.Fatal("no runner to kill")
	}
	if err := syscall.Kill(up.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// Processes counts the runner, by its id, and what carries the session's id in its arguments but for sandboxes' inits.
func (e *env) Processes(t *testing.T, s sessions.Ref) int {
	n := 0
	if up, ok := e.up(s); ok {
		if fields, err := stat(up.PID); err == nil && fields[0] != "Z" {
			n++
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, _ := os.ReadFile(f); bytes.Contains(data, []byte("\x00agent\x00"+s.Session)) {
			n++
		}
	}
	return n
}

func (e *env) kept(s sessions.Ref) string {
	return filepath.Join(e.dir, "sessions", s.Session, "workspace", "kept")
}

func (e *env) Keep(t *testing.T, s sessions.Ref) {
	t.Helper()
	if err := os.WriteFile(e.kept(s), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (e *env) Kept(t *testing.T, s sessions.Ref) bool {
	_, err := os.Stat(e.kept(s))
	return err == nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestConformance(t *testing.T) { runtimetest.Run(t, newEnv) }

// TestUnprivileged runs the other tests again as a user that is not root.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("already unprivileged: the other tests are this test")
		return
	}
	const nobody = 65534
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	exe, home := filepath.Join(dir, "process.test"), filepath.Join(dir, "home")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(exe, data, 0o755)
	}
	if err == nil {
		err = os.Mkdir(home, 0o755)
	}
	if err == nil {
		err = os.Chown(home, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.v", "-test.timeout=120s")
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestConformance/a_stop_leaves_no_process")) {
		t.Fatalf("as uid %d: %v\n%s", nobody, err, out)
	}
}

func TestLaunch(t *testing.T) {
	t.Setenv("SECRET_OF_THE_SERVICE", "s3cr3t")
	e := &env{dir: t.TempDir()}
	r := e.runtime(t, config(e.dir))
	l := runtimetest.Launch(runtimetest.Daemons)
	l.Credentials = []byte("bus-credential-of-one-session")
	ref := sessions.Ref{Tenant: l.Tenant, Session: l.Session}
	if _, err := r.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop(context.Background(), ref, time.Second, false) })
	e.Up(t, ref, 1)
	up, _ := e.up(ref)
	if len(up.Env) != 1 || !strings.HasPrefix(up.Env[0], "PATH=") {
		t.Errorf("the runner's environment is %q", up.Env)
	}
	if len(up.Args) != 2 || !bytes.Equal(up.Launch.Credentials, l.Credentials) || !strings.HasPrefix(up.Launch.Listen, "unix:"+e.dir+"/sockets/") {
		t.Errorf("args %q, listen %q", up.Args, up.Launch.Listen)
	}
	if got, can := fmt.Sprint(up.Launch.Sandbox.Isolation), fmt.Sprint(r.Info().Isolation()); got != can {
		t.Errorf("isolation %s, the machine can %s", got, can)
	}
	if os.Geteuid() == 0 && (up.Launch.Sandbox.UID < 200_000 || up.Launch.Sandbox.UID != up.Launch.Sandbox.GID) {
		t.Errorf("uid %d, gid %d", up.Launch.Sandbox.UID, up.Launch.Sandbox.GID)
	}
	for _, dir := range []string{"", "home", "tmp", "workspace"} {
		fi, err := os.Stat(filepath.Join(e.dir, "sessions", l.Session, dir))
		if err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
	// Nothing secret is on the disk.
	_ = filepath.WalkDir(e.dir, func(p string, d os.DirEntry, err error) error {
		if data, rerr := os.ReadFile(p); rerr == nil && bytes.Contains(data, l.Credentials) && filepath.Base(p) != "up" {
			t.Errorf("%s holds the credential", p)
		}
		return nil
	})
}

func TestStart(t *testing.T) {
	t.Run("says what a runner that dies at once said", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		r := e.runtime(t, config(e.dir))
		l := runtimetest.Launch("FAIL")
		if _, err := r.Start(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		select {
		case x := <-r.Exits():
			if !strings.Contains(x.Reason, "exit status 3") || !strings.Contains(x.Reason, "it was not to be") {
				t.Errorf("reason %q", x.Reason)
			}
		case <-time.After(patience):
			t.Fatal("no exit")
		}
	})
	t.Run("refuses isolation that the machine cannot give", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		r := e.runtime(t, config(e.dir))
		l := runtimetest.Launch()
		l.Sandbox.Isolation = []string{"moon"}
		if _, err := r.Start(t.Context(), l); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "moon") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a runner that cannot be started is an error and leaves nothing", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		cfg := config(e.dir)
		cfg.Runner = []string{"/no/such/runner"}
		r := e.runtime(t, cfg)
		l := runtimetest.Launch()
		if _, err := r.Start(t.Context(), l); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
		if list, err := r.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("listed %v, %v", list, err)
		}
	})
	t.Run("every session has a uid of its own, which it keeps", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Log("not root: sessions have the service's uid")
			return
		}
		e := &env{dir: t.TempDir()}
		r := e.runtime(t, config(e.dir))
		seen := map[int]bool{}
		for range 3 {
			l := runtimetest.Launch()
			ref := sessions.Ref{Tenant: l.Tenant, Session: l.Session}
			for l.Incarnation = 1; l.Incarnation <= 2; l.Incarnation++ {
				if _, err := r.Start(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				e.Up(t, ref, l.Incarnation)
			}
			t.Cleanup(func() { _ = r.Stop(context.Background(), ref, time.Second, false) })
			up, _ := e.up(ref)
			seen[up.Launch.Sandbox.UID] = true
		}
		if len(seen) != 3 {
			t.Errorf("uids %v", seen)
		}
		next := New(config(e.dir), nil)
		next.ctx = t.Context()
		if err := next.prepareDirs(); err != nil {
			t.Fatal(err)
		}
		entries, _ := os.ReadDir(next.sessionsDir())
		for _, d := range entries {
			next.reclaimUID(d.Name())
		}
		if len(next.uids) != 3 {
			t.Errorf("found again: %v", next.uids)
		}
	})
}

func TestSocketDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := ownDir(filepath.Join(dir, "link")); err == nil {
		t.Error("took a link for its own directory")
	}
	mine := filepath.Join(dir, "mine")
	if err := os.Mkdir(mine, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := ownDir(mine); err != nil {
		t.Error(err)
	}
	if fi, _ := os.Stat(mine); fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", fi.Mode())
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(mine, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if err := ownDir(mine); err == nil {
			t.Error("took another's directory")
		}
	}
	long := New(Config{DataDir: "/very/" + strings.Repeat("long/", 50)}, nil)
	if n := len(filepath.Join(long.socketDir(), api.NewID(api.KindSession)+"-"+strconv.Itoa(1000)+".sock")); n > 100 {
		t.Errorf("a socket's path has %d bytes", n)
	}
}

func TestShown(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, d := range []string{".nvm/v22/bin", ".nvm/v22/lib/node_modules/agent", ".ssh", "data", ".local/share/claude/versions", ".local/bin"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		".nvm/v22/bin/agent": ".nvm/v22/lib/node_modules/agent/cli.js", ".local/bin/claude": ".local/share/claude/versions/2",
	} {
		if err := os.WriteFile(filepath.Join(home, target), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(home, target), filepath.Join(home, link)); err != nil {
			t.Fatal(err)
		}
	}
	r := New(Config{DataDir: home + "/data", Path: home + "/.nvm/v22/bin:/usr/bin:" + home + "/.local/bin:" + home + ":" + home + "/data/bin"}, nil)
	show := strings.Join(r.shown(), "\n")
	for _, want := range []string{"/.nvm/v22/bin", "/.nvm/v22/lib", "/.local/bin", "/.local/share/claude/versions"} {
		if !strings.Contains("\n"+show+"\n", "\n"+home+want+"\n") {
			t.Errorf("%s is not shown", want)
		}
	}
	for _, path := range r.shown() {
		if path == home || strings.HasPrefix(path, home+"/.ssh") || strings.HasPrefix(path, home+"/data") {
			t.Errorf("%s is shown", path)
		}
	}
	if hidden := r.hidden(); !strings.Contains(strings.Join(hidden, "\n"), home+"/data") || !strings.Contains(strings.Join(hidden, "\n"), home) {
		t.Errorf("hidden: %q", hidden)
	}
}
