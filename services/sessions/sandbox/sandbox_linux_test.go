package sandbox

import (
	"bufio"
	"bytes"
	"errors"
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

	"golang.org/x/sys/unix"

	"agentyard.dev/services/sessions/launch"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	MaybeInit()
	if len(os.Args) > 2 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2], os.Args[3:]))
	}
	if len(os.Args) > 3 && os.Args[1] == "runner" { // runner DIR VERB ARGS…: a process that owns a sandbox
		os.Exit(runnerMain(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// TestUnprivileged runs the other tests again as a user that is not root.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("already unprivileged: the other tests are this test")
		return
	}
	dir := openDir(t)
	exe := filepath.Join(dir, "sandbox.test")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(exe, data, 0o755)
	}
	home := filepath.Join(dir, "home")
	if err == nil {
		err = os.Mkdir(home, 0o755)
	}
	if err == nil {
		err = os.Chown(home, probeUID, probeUID)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.v", "-test.timeout=120s")
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "PATH=/usr/bin:/bin", "RUNNER_SECRET=" + secret}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: probeUID, Gid: probeUID}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestEscape/mounts")) {
		t.Fatalf("as uid %d: %v\n%s", probeUID, err, out)
	}
}

const secret = "s3cr3t-of-the-runner"

// openDir returns a temporary directory that every user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/" && d != "."; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	return dir
}

// session makes a session's directory in dir and returns the strongest sandbox that this machine gives.
func session(t *testing.T, dir string) launch.Sandbox {
	t.Helper()
	caps := Probe()
	spec := launch.Sandbox{Isolation: []string{User, Mount, PID}, Dir: filepath.Join(dir, "sessions", "one")}
	if os.Geteuid() == 0 {
		spec.Isolation = []string{UID, Mount, PID}
		spec.UID, spec.GID = 212345, 212345
	}
	if lacks := caps.Lacks(spec.Isolation); len(lacks) > 0 {
		t.Fatalf("this machine cannot isolate %v: %v", lacks, caps.Missing)
	}
	for _, name := range []string{"workspace", "home", "tmp"} {
		d := filepath.Join(spec.Dir, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if spec.UID != 0 {
			if err := os.Chown(d, spec.UID, spec.GID); err != nil {
				t.Fatal(err)
			}
		}
	}
	return spec
}

func start(t *testing.T, spec launch.Sandbox, argv ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	work, env := filepath.Join(spec.Dir, "workspace"), []string{"PATH=/usr/bin:/bin", "ONLY=this"}
	if startAhead {
		a, err := Prepare(spec)
		if err != nil {
			t.Fatal(err)
		}
		lines := begin(t, a.Cmd)
		if err := a.Order(spec, work, argv, env); err != nil {
			t.Fatal(err)
		}
		return a.Cmd, lines
	}
	cmd, err := Command(spec, work, argv, env)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, begin(t, cmd)
}

// begin starts cmd and returns its output.
func begin(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Kill(cmd) })
	timer := time.AfterFunc(patience, func() { _ = Kill(cmd) })
	t.Cleanup(func() { timer.Stop() })
	return bufio.NewScanner(out)
}

// run runs the test binary as an agent and returns its output.
func run(t *testing.T, spec launch.Sandbox, argv ...string) (string, int) {
	t.Helper()
	cmd, lines := start(t, spec, argv...)
	var out strings.Builder
	for lines.Scan() {
		out.WriteString(lines.Text() + "\n")
	}
	_ = cmd.Wait()
	return out.String(), cmd.ProcessState.ExitCode()
}

func self(t *testing.T, argv ...string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{exe, "agent"}, argv...)
}

func TestEscape(t *testing.T) {
	escape(t)
	t.Run("started ahead", func(t *testing.T) {
		ahead(t)
		escape(t)
	})
}

func escape(t *testing.T) {
	t.Setenv("RUNNER_SECRET", secret)
	dir := openDir(t)
	spec := session(t, dir)
	other := filepath.Join(dir, "sessions", "two", "workspace")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	// Outside the temporary directory too, which the sandbox replaces as a whole.
	away, err := os.MkdirTemp("/var/tmp", "hidden")
	if os.Geteuid() == 0 {
		away, err = os.MkdirTemp("/", "hidden")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(away) })
	_ = os.Chmod(away, 0o755)
	paths := []string{filepath.Join(dir, "secret"), filepath.Join(other, "secret"), filepath.Join(spec.Dir, "secret"), filepath.Join(away, "secret")}
	for _, p := range paths {
		if err := os.WriteFile(p, []byte(secret), 0o644); err != nil { // anybody could read it, if it were visible
			t.Fatal(err)
		}
	}
	single, err := os.MkdirTemp(filepath.Dir(away), "single")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(single) })
	_ = os.Chmod(single, 0o755)
	lone := filepath.Join(single, "secret")
	if err := os.WriteFile(lone, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	paths = append(paths, lone)
	spec.Hide = []string{dir, away, lone}

	for name, argv := range map[string][]string{
		"processes":  {"spy", strconv.Itoa(os.Getpid()), secret},
		"files":      append([]string{"files", secret}, paths...),
		"mounts":     {"mounts", secret, away},
		"privileges": {"privileges"},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := run(t, spec, self(t, argv...)...)
			if strings.Contains(out, "escaped") || !strings.HasSuffix(out, "done\n") || status != 0 {
				t.Errorf("status %d:\n%s", status, out)
			}
			switch name {
			case "files": // a private directory of the same name may hold it
				for _, p := range paths {
					if _, err := os.Stat(filepath.Join(filepath.Dir(p), "planted")); err == nil {
						t.Errorf("the agent wrote beside %s", p)
					}
				}
			case "processes":
				if !strings.Contains(out, "sees 2\n") || !strings.Contains(out, "alive") {
					t.Errorf("the agent sees others than init and itself, or killed init:\n%s", out)
				}
			case "mounts":
				if !strings.Contains(out, "nested: <nil>") {
					t.Errorf("the nested attempt did not run:\n%s", out)
				}
			case "privileges":
				uid := cmpOr(spec.UID, os.Getuid())
				if !strings.Contains(out, fmt.Sprintf("uid %d %d ", uid, uid)) || !strings.Contains(out, "environment [PATH=/usr/bin:/bin ONLY=this]") {
					t.Errorf("identity or environment:\n%s", out)
				}
			}
		})
	}
	t.Run("the attempts succeed without a sandbox", func(t *testing.T) { // or they would prove nothing
		out, err := exec.Command(self(t)[0], append([]string{"agent", "files", secret}, paths...)...).CombinedOutput()
		if err != nil || bytes.Count(out, []byte("escaped: read "+dir)) < 3 {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("a shell works where it should", func(t *testing.T) {
		out, status := run(t, spec, "/bin/sh", "-c",
			`pwd; echo a >f && cat f && echo b >/tmp/t && cat "$0/tmp/t" 2>&1; echo c >/dev/shm/s && cat /dev/shm/s; echo d >/dev/stderr; ls -d "$0"/home`, spec.Dir)
		want := spec.Dir + "/workspace\na\n"
		if status != 0 || !strings.HasPrefix(out, want) || !strings.Contains(out, "c\nd\n"+spec.Dir+"/home\n") {
			t.Errorf("status %d:\n%s", status, out)
		}
	})
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func TestEnd(t *testing.T) {
	end(t)
	t.Run("started ahead", func(t *testing.T) {
		ahead(t)
		end(t)
	})
}

func end(t *testing.T) {
	base := func(t *testing.T) map[string]launch.Sandbox {
		full := session(t, openDir(t))
		plain := full
		plain.Isolation = nil
		return map[string]launch.Sandbox{"namespaces": full, "no namespaces": plain}
	}
	for _, how := range []string{"the agent exits", "the sandbox is killed", "the runner is killed"} {
		for name, spec := range base(t) {
			t.Run(how+", "+name, func(t *testing.T) {
				mark := fmt.Sprintf("mark-%d-%s", os.Getpid(), strings.ReplaceAll(how+name, " ", "-"))
				switch how {
				case "the agent exits":
					cmd, lines := start(t, spec, self(t, "daemon", mark, "exit")...)
					waitLine(t, lines, "done")
					if err := cmd.Wait(); err != nil {
						t.Error(err)
					}
				case "the sandbox is killed":
					cmd, lines := start(t, spec, self(t, "daemon", mark)...)
					waitLine(t, lines, "ready")
					if err := Kill(cmd); err != nil {
						t.Error(err)
					}
					_ = cmd.Wait()
				case "the runner is killed":
					cmd := exec.Command("/proc/self/exe", append([]string{"runner", spec.Dir, strings.Join(spec.Isolation, ",")}, "daemon", mark)...)
					out, err := cmd.StdoutPipe()
					if err == nil {
						err = cmd.Start()
					}
					if err != nil {
						t.Fatal(err)
					}
					waitLine(t, bufio.NewScanner(out), "ready")
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
					_ = cmd.Wait()
				}
				waitGone(t, mark)
			})
		}
	}
}

// runnerMain is a process that starts a sandbox and waits, to be killed. Like the real runner it cannot be dumped.
func runnerMain(dir string, args []string) int {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if args[0] == "prepare" {
		return prepareMain(args[1])
	}
	spec := launch.Sandbox{Dir: dir}
	if args[0] != "" {
		spec.Isolation = strings.Split(args[0], ",")
	}
	if os.Geteuid() == 0 {
		spec.UID, spec.GID = 212345, 212345
	}
	exe, _ := os.Executable()
	cmd, err := Command(spec, dir, append([]string{exe, "agent"}, args[1:]...), []string{"PATH=/usr/bin:/bin"})
	if err == nil {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = cmd.Run()
	}
	fmt.Println("ended:", err)
	return 1
}

func TestStatus(t *testing.T) {
	spec := session(t, openDir(t))
	for _, c := range []struct {
		name, script string
		want         int
	}{{"its own", "exit 7", 7}, {"a signal's", "kill -9 $$", 137}, {"an orphan does not disturb it", "(sleep 30 &) ; exit 3", 3}} {
		t.Run(c.name, func(t *testing.T) {
			if out, status := run(t, spec, "/bin/sh", "-c", c.script); status != c.want {
				t.Errorf("status %d, want %d:\n%s", status, c.want, out)
			}
		})
	}
	t.Run("a missing command", func(t *testing.T) {
		if _, err := Command(spec, "/", []string{"no-such-agent"}, []string{"PATH=/usr/bin"}); err == nil || !strings.Contains(err.Error(), "no-such-agent") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a sandbox that cannot be made never runs the agent", func(t *testing.T) {
		bad := spec
		bad.Dir = filepath.Join(spec.Dir, "none")
		cmd, err := Command(bad, "/", []string{"/bin/echo", "ran"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 125 || strings.Contains(string(out), "ran") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("signals reach the agent", func(t *testing.T) {
		cmd, lines := start(t, spec, self(t, "signals")...)
		waitLine(t, lines, "ready")
		_ = cmd.Process.Signal(syscall.SIGINT)
		waitLine(t, lines, "got interrupt")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		waitLine(t, lines, "got terminated")
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("ended with %v", cmd.ProcessState)
		}
	})
}

func TestTerminal(t *testing.T) {
	spec := session(t, openDir(t))
	master, slave := openPTY(t)
	cmd, err := Command(spec, filepath.Join(spec.Dir, "workspace"), []string{"/bin/sh"}, []string{"PATH=/usr/bin:/bin", "PS1=> "})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	timer := time.AfterFunc(patience, func() { _ = Kill(cmd) })
	defer timer.Stop()
	lines := bufio.NewScanner(master)
	if _, err := io.WriteString(master, "echo on-$((40+2))-tty >/dev/tty\n"); err != nil {
		t.Fatal(err)
	}
	waitLine(t, lines, "on-42-tty")
	if _, err := io.WriteString(master, "sh -c 'echo off-$((40+2)); exec sleep 50'\n"); err != nil {
		t.Fatal(err)
	}
	waitLine(t, lines, "off-42")
	// The interrupt key works, so the shell has job control over this terminal.
	if _, err := io.WriteString(master, "\x03"); err != nil {
		t.Fatal(err)
	}
	waitLine(t, lines, "^C")
	if _, err := io.WriteString(master, "exit 9\n"); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // until the agent's end closes the terminal
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("ended with %v", cmd.ProcessState)
	}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		// Here /dev/ptmx may be reserved for root, while devpts has its own.
		t.Fatalf("no terminal: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestProbe(t *testing.T) {
	c := Probe()
	t.Logf("%+v", c)
	if c.UID != (os.Geteuid() == 0) {
		t.Errorf("uid isolation: %v", c.UID)
	}
	for _, name := range Known {
		if slices.Contains(c.Isolation(), name) == (c.Missing[name] != "") {
			t.Errorf("%s: in %v, yet missing because %q", name, c.Isolation(), c.Missing[name])
		}
	}
	if got := (Capabilities{PID: true, User: true}).Lacks([]string{User, Mount, "moon"}); !slices.Equal(got, []string{Mount, "moon"}) {
		t.Errorf("Lacks: %v", got)
	}
}

func waitLine(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	var seen []string
	for lines.Scan() {
		seen = append(seen, lines.Text())
		if strings.Contains(lines.Text(), want) {
			return
		}
	}
	t.Fatalf("ended without %q: %q", want, seen)
}

// waitGone waits until no process carries mark in its arguments.
func waitGone(t *testing.T, mark string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := 0
		cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range cmdlines {
			if data, _ := os.ReadFile(f); bytes.Contains(data, []byte(mark)) {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes of %s are left", left, mark)
		}
		<-time.After(10 * time.Millisecond)
	}
}
