package scenario

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/services/standalone/yardtest"
)

// upWithin bounds a start or a stop, also on a machine that is busy with other tests.
const upWithin = 60 * time.Second

// upped is a running "agentyard up".
type upped struct {
	t      *testing.T
	data   string
	url    string
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *bytes.Buffer
	ended  chan struct{}
}

// up starts a yard on data and waits for its ready line.
func up(t *testing.T, data string) *upped {
	t.Helper()
	u := &upped{t: t, data: data, stderr: &bytes.Buffer{}, ended: make(chan struct{})}
	u.cmd = exec.Command(yardtest.Binary(t, "agentyard"), "up", "--listen", "127.0.0.1:0", "--data", data)
	u.cmd.Stderr = u.stderr
	u.cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(data))
	// A pipe of our own: Wait must not close it before it was read to its end.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	u.cmd.Stdout = w
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	go func() { defer close(u.ended); _ = u.cmd.Wait() }()
	t.Cleanup(u.kill)
	u.stdout = bufio.NewReader(r)
	_ = r.SetReadDeadline(time.Now().Add(upWithin))
	line, err := u.stdout.ReadString('\n')
	if err != nil {
		u.kill()
		t.Fatalf("no ready line: %v\n%s", err, u.stderr)
	}
	var ok bool
	if u.url, ok = strings.CutPrefix(strings.TrimSuffix(line, "\n"), "ready "); !ok {
		t.Fatalf("the first line is %q", line)
	}
	return u
}

func (u *upped) kill() { _ = u.cmd.Process.Kill(); <-u.ended }

// stop stops the yard gracefully. It returns what it printed after the ready line.
func (u *upped) stop() string {
	u.t.Helper()
	if err := u.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		u.t.Fatal(err)
	}
	select {
	case <-u.ended:
	case <-time.After(upWithin):
		u.t.Fatalf("it does not stop\n%s", u.stderr)
	}
	if code := u.cmd.ProcessState.ExitCode(); code != 0 {
		u.t.Fatalf("exit status %d after SIGTERM\n%s", code, u.stderr)
	}
	rest, _ := io.ReadAll(u.stdout)
	return string(rest)
}

// cli runs a client command as a newcomer does: nothing says where the yard is but its data directory.
func (u *upped) cli(args ...string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), upWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, yardtest.Binary(u.t, "agentyard"), args...)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(u.data), "AGENTAPI_DATA="+u.data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		u.t.Fatalf("agentyard %q: %v\n%s%s", args, err, out, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// dataDir returns a short path that agents with a user of their own can pass through.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "up-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "data")
}

// processes returns those for which of, given a process's directory in /proc, answers true.
func processes(t *testing.T, of func(proc string) bool) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no process list: %v", err)
	}
	var pids []int
	for _, dir := range dirs {
		if of(dir) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// agents returns the processes in sessions: they have their HOME below the data directory.
func agents(t *testing.T, data string) []int {
	t.Helper()
	return processes(t, func(proc string) bool {
		env, err := os.ReadFile(filepath.Join(proc, "environ"))
		return err == nil && bytes.Contains(env, []byte("HOME="+data+"/sessions/"))
	})
}

// runners returns the runners, spare ones too: their output goes below the data directory.
func runners(t *testing.T, data string) []int {
	t.Helper()
	return processes(t, func(proc string) bool {
		out, err := os.Readlink(filepath.Join(proc, "fd", "1"))
		return err == nil && strings.HasPrefix(out, data+"/")
	})
}

func TestUp(t *testing.T) {
	data := dataDir(t)
	u := up(t, data)

	if info, err := os.Stat(filepath.Join(data, "admin.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.key: %v, %v", info, err)
	}
	second := exec.Command(yardtest.Binary(t, "agentyard"), "up", "--listen", "127.0.0.1:0", "--data", data)
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another agentyard (process "+strconv.Itoa(u.cmd.Process.Pid)+")") {
		t.Errorf("a second yard on the same data: %v, %s", err, out)
	}

	id := u.cli("session", "create", "--agent", "demo")
	answer := u.cli("session", "send", id, "run echo first > kept.txt", "-f")
	if !strings.Contains(answer, "exit 0") {
		t.Fatalf("answer: %s", answer)
	}
	if len(agents(t, data)) == 0 || len(runners(t, data)) == 0 {
		t.Fatal("the session has no process that the test could find")
	}

	// A graceful stop leaves nothing running and nothing lost.
	if rest := u.stop(); rest != "" {
		t.Errorf("printed after the ready line: %q", rest)
	}
	if left := append(agents(t, data), runners(t, data)...); len(left) > 0 {
		t.Errorf("processes %v survive a graceful stop", left)
	}
	u = up(t, data)
	if answer := u.cli("session", "send", id, "read kept.txt", "-f"); !strings.Contains(answer, "first") {
		t.Errorf("after a restart: %s", answer)
	}

	// A killed yard leaves its sessions at work, and finds them again.
	before := agents(t, data)
	u.kill()
	if now := agents(t, data); !slices.Equal(now, before) || len(now) == 0 {
		t.Fatalf("agents before kill -9 %v, after %v", before, now)
	}
	u = up(t, data)
	if answer := u.cli("session", "send", id, "read kept.txt", "-f"); !strings.Contains(answer, "first") {
		t.Errorf("after kill -9: %s", answer)
	}
	if now := agents(t, data); !slices.Equal(now, before) {
		t.Errorf("agents before kill -9 %v, after the next start %v: they were not adopted", before, now)
	}
	u.cli("session", "stop", id, "--wait")
	if left := agents(t, data); len(left) > 0 {
		t.Errorf("processes %v survive their session", left)
	}
	u.stop()
}

func TestUpRefuses(t *testing.T) {
	data := dataDir(t)
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		env    string
		status int
		says   string
	}{
		{[]string{"--data", data}, "", 1, "data directory"},
		{[]string{"--nonsense"}, "", 2, "nonsense"},
		{[]string{"extra"}, "", 2, "extra"},
		{nil, "AGENTAPI_GATEWAY_MAX_BODY=many", 2, "AGENTAPI_GATEWAY_MAX_BODY"},
		{[]string{"--listen", "256.0.0.1:1", "--data", data + "2"}, "", 1, "listen"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), upWithin)
		cmd := exec.CommandContext(ctx, yardtest.Binary(t, "agentyard"), append([]string{"up"}, c.args...)...)
		cmd.Env = append(os.Environ(), c.env, "AGENTAPI_LOG_LEVEL=error")
		out, err := cmd.CombinedOutput()
		cancel()
		if cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.says) {
			t.Errorf("up %q %s: %v, want status %d and something about %s:\n%s", c.args, c.env, err, c.status, c.says, out)
		}
	}
	help, err := exec.Command(yardtest.Binary(t, "agentyard"), "up", "--help").Output()
	if err != nil || !strings.Contains(string(help), "AGENTAPI_LISTEN") {
		t.Errorf("up --help: %v\n%s", err, fmt.Sprintf("%.300s", help))
	}
}
