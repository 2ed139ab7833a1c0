// Package yardtest runs a whole yard for tests, as real processes: the standalone
// binary, or every service as a process of its own on a bus of its own. A test takes the
// arrangement as a parameter and talks HTTP to either.
package yardtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Arrangement is how the services are spread over processes.
type Arrangement string

// The arrangements.
const (
	OneProcess Arrangement = "one process"
	Apart      Arrangement = "separate processes"
)

// Yard is a running yard.
type Yard struct {
	URL    string
	Dir    string  // its data directory
	Client *Client // with the bootstrap admin's key

	procs []*process // in the order of starting
}

// process is one process of the yard, which may be killed and started again.
type process struct {
	name string
	argv []string
	env  []string

	cmd    *exec.Cmd
	exited chan struct{}
	output *tail
}

// readyWithin bounds a start, also on a machine that is busy with other tests.
const readyWithin = 60 * time.Second

// EachArrangement runs test on a yard in each arrangement.
func EachArrangement(t *testing.T, test func(t *testing.T, y *Yard), env ...string) {
	for _, a := range []Arrangement{OneProcess, Apart} {
		t.Run(string(a), func(t *testing.T) { test(t, Start(t, a, env...)) })
	}
}

// Start starts a yard on a fresh data directory and waits until it is ready. The yard
// ends with the test; if the test failed, the processes' last output is logged.
func Start(t testing.TB, a Arrangement, env ...string) *Yard {
	t.Helper()
	// Short, because a Unix socket's path is; and not below t.TempDir, because agents
	// with a user of their own must be able to pass through its parents.
	dir, err := os.MkdirTemp("", "yard-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	y := &Yard{Dir: filepath.Join(dir, "data"), URL: "http://" + freeAddress(t)}
	env = append(baseEnv(dir), env...)
	switch a {
	case OneProcess:
		y.procs = y.oneProcess(t, env)
	case Apart:
		y.procs = y.apart(t, env)
	}
	t.Cleanup(func() {
		y.stop(t)
		y.endRunners(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the yard's data: %v", err)
		}
	})
	for _, p := range y.procs {
		p.start(t)
	}
	y.awaitReady(t)
	key, err := os.ReadFile(filepath.Join(y.Dir, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	y.Client = &Client{URL: y.URL, Key: strings.TrimSpace(string(key)), HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	y.awaitAnswer(t)
	return y
}

// baseEnv is the environment of every process: nothing of the tester's own yard, and
// limits that a test does not meet by accident.
func baseEnv(home string) []string {
	env := []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	for _, name := range []string{"PATH", "TMPDIR", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, "AGENTAPI_GATEWAY_PRINCIPAL_RATE=100000", "AGENTAPI_GATEWAY_PRINCIPAL_BURST=100000",
		"AGENTAPI_GATEWAY_ADDRESS_RATE=100000", "AGENTAPI_GATEWAY_ADDRESS_BURST=100000")
}

// Processes returns the names of the yard's processes.
func (y *Yard) Processes() []string {
	var names []string
	for _, p := range y.procs {
		names = append(names, p.name)
	}
	return names
}

// Output returns what each of the yard's processes printed last.
func (y *Yard) Output() string {
	var b strings.Builder
	for _, p := range y.procs {
		b.WriteString(p.output.String())
	}
	return b.String()
}

// PID returns the process id of the yard's first process.
func (y *Yard) PID() int { return y.procs[0].cmd.Process.Pid }

// Kill ends a process with SIGKILL and waits until it is gone. One that has ended by itself
// fails the test.
func (y *Yard) Kill(t testing.TB, name string) {
	t.Helper()
	p := y.process(t, name)
	select {
	case <-p.exited:
		t.Fatalf("%s had ended by itself, with %s:\n%s", name, p.cmd.ProcessState, p.output)
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("kill %s: %v", name, err)
	}
	<-p.exited
}

// Restart starts a killed process again, with the same arguments; it does not wait.
func (y *Yard) Restart(t testing.TB, name string) {
	t.Helper()
	y.process(t, name).start(t)
}

// Ready waits until the whole yard answers.
func (y *Yard) Ready(t testing.TB) {
	t.Helper()
	y.awaitReady(t)
	y.awaitAnswer(t)
}

// BusURL returns the address of the yard's bus.
func (y *Yard) BusURL(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(y.Dir, "bus.url"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// RunnerPID returns the process id of a session's runner.
func (y *Yard) RunnerPID(t testing.TB, session string) int {
	t.Helper()
	i, err := readInstance(filepath.Join(y.Dir, "sessions", session, "instance.json"))
	if err != nil {
		t.Fatal(err)
	}
	return i.PID
}

func (y *Yard) process(t testing.TB, name string) *process {
	t.Helper()
	i := slices.IndexFunc(y.procs, func(p *process) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("the yard has no process %q", name)
	}
	return y.procs[i]
}

func (y *Yard) awaitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, "GET", y.URL+"/ready", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the yard was not ready within %s", readyWithin)
		}
	}
}

// stop ends the processes in reverse order, gracefully, and logs their output if the
// test failed.
func (y *Yard) stop(t testing.TB) {
	if y.Client != nil {
		y.Client.HTTP.CloseIdleConnections()
	}
	for _, p := range slices.Backward(y.procs) {
		p.stop(t)
	}
}

func (p *process) start(t testing.TB) {
	t.Helper()
	if p.output == nil {
		p.output = &tail{}
	}
	p.cmd = exec.Command(p.argv[0], p.argv[1:]...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	exited := make(chan struct{})
	p.exited = exited
	go func() { defer close(exited); _ = p.cmd.Wait() }()
}

// stopWithin is the yard's own grace period and some more.
const stopWithin = 45 * time.Second

func (p *process) stop(t testing.TB) {
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stop %s: %v", p.name, err)
	}
	select {
	case <-p.exited:
	case <-time.After(stopWithin):
		t.Errorf("%s did not stop within %s", p.name, stopWithin)
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	if t.Failed() {
		t.Logf("%s printed last:\n%s", p.name, p.output)
	}
}

// tail keeps the last part of what a process prints.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailBytes = 16 << 10

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if over := w.buf.Len() - tailBytes; over > 0 {
		w.buf.Next(over)
	}
	return len(p), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// freeAddress returns a loopback address that was free a moment ago and that the yard
// keeps across restarts. It is none of those that the kernel gives to whoever asks for any:
// one of them may be another test's by the time that a killed process is back.
func freeAddress(t testing.TB) string {
	t.Helper()
	const first, count = 20_000, 12_000 // the kernel's begin at 32,768 or above
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(count))))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no address is free")
	return ""
}

// builtEnv names the directory of the binaries for a test that starts itself again, so that they are built once.
const builtEnv = "YARDTEST_BINARIES"

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(builtEnv); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "agentyard-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "agentyard.dev/services/standalone/cmd/agentyard",
		"agentyard.dev/services/auth/cmd/auth", "agentyard.dev/services/sessions/cmd/sessions", "agentyard.dev/services/gateway/cmd/gateway",
		"agentyard.dev/services/scheduler/cmd/scheduler", "agentyard.dev/services/tcagent/cmd/tcagent",
		"agentyard.dev/services/tcagent/cmd/tccontroller")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return dir, errors.Join(os.Chmod(dir, 0o755), os.Setenv(builtEnv, dir))
})

// Main is the TestMain of a package that uses yards: it removes the binaries that the
// tests built.
func Main(m *testing.M) {
	anothers := os.Getenv(builtEnv) != ""
	code := m.Run()
	if dir, err := build(); err == nil && !anothers {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

func binary(t testing.TB, name string) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}
