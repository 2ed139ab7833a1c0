package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

const (
	runnerLog = "runner.log"
	// launchTimeout bounds how long a new runner may take to read its launch.
	launchTimeout = 10 * time.Second
	tailBytes     = 1500 // of a runner's log that go into the reason of its end
)

// child is a process of this process's own.
type child struct{ cmd *exec.Cmd }

// reap collects the exit status. What is left of the runner's process group goes first, while its number cannot be another's.
func (c *child) reap() string {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	_ = c.cmd.Wait()
	return "it ended with " + c.cmd.ProcessState.String()
}

// spawn starts the runner of l and gives it its launch.
func (r *Runtime) spawn(l launch.Launch) (*instance, *child, error) {
	dir := r.dir(l.Session)
	l.Dir = dir
	i := &instance{Tenant: l.Tenant, Session: l.Session, Incarnation: l.Incarnation, seen: true}
	if err := r.isolate(&l, i); err != nil {
		return nil, nil, err
	}
	if err := r.makeSession(l.Session, l.Sandbox.UID, l.Sandbox.GID); err != nil {
		return nil, nil, err
	}
	i.Socket = filepath.Join(r.socketDir(), l.Session+"-"+strconv.Itoa(l.Incarnation)+".sock")
	l.Listen = "unix:" + i.Socket
	_ = os.Remove(i.Socket) // of an attempt that came to nothing
	text, err := json.Marshal(l)
	if err != nil {
		return nil, nil, fmt.Errorf("encode launch: %w", err)
	}
	argv, err := r.runner()
	if err != nil {
		return nil, nil, err
	}
	out, err := os.OpenFile(filepath.Join(dir, runnerLog), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open runner log: %w", err)
	}
	defer out.Close()
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start runner: %w", err)
	}
	defer stdin.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + r.path()} // and nothing of the service's own environment
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	in.Close()
	if err != nil {
		r.cleanUp(i)
		return nil, nil, fmt.Errorf("start runner: %w", err)
	}
	started := &child{cmd}
	abandon := func(doing string, err error) (*instance, *child, error) {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = started.reap()
		r.cleanUp(i)
		return nil, nil, fmt.Errorf("%s: %w", doing, err)
	}
	i.PID = cmd.Process.Pid
	if i.Started, err = startedAt(i.PID); err != nil {
		return abandon("start runner", err)
	}
	if err := i.write(dir); err != nil {
		return abandon("write instance", err)
	}
	// Not before the instance file is there: until it has its launch a runner does nothing.
	_ = stdin.SetWriteDeadline(time.Now().Add(launchTimeout))
	if _, err := stdin.Write(text); err != nil && !errors.Is(err, syscall.EPIPE) { // one that died is told of by its watcher
		return abandon("give runner its launch", err)
	}
	return i, started, nil
}

func (r *Runtime) runner() ([]string, error) {
	if len(r.cfg.Runner) > 0 {
		return r.cfg.Runner, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	return []string{exe, "runner"}, nil
}

func (r *Runtime) path() string {
	if r.cfg.Path != "" {
		return r.cfg.Path
	}
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return "/usr/local/bin:/usr/bin:/bin"
}

// isolate fills in the sandbox: all that the machine can do, which must be at least what the profile demands.
func (r *Runtime) isolate(l *launch.Launch, i *instance) error {
	can := sandbox.Probe()
	if lacks := can.Lacks(l.Sandbox.Isolation); len(lacks) > 0 {
		return api.Invalid("/profile", "the profile demands isolation that this machine cannot give: %s", strings.Join(lacks, ", "))
	}
	resources := l.Sandbox.Resources
	if resources.CPUs == 0 {
		resources.CPUs = r.cfg.Resources.CPUs
	}
	if resources.MemoryBytes == 0 {
		resources.MemoryBytes = r.cfg.Resources.MemoryBytes
	}
	if resources.Processes == 0 {
		resources.Processes = r.cfg.Resources.Processes
	}
	l.Sandbox = launch.Sandbox{Isolation: can.Isolation(), Dir: l.Dir, Resources: resources}
	if slices.Contains(l.Sandbox.Isolation, sandbox.UID) {
		uid, err := r.takeUID(l.Session)
		if err != nil {
			return err
		}
		l.Sandbox.UID, l.Sandbox.GID = uid, uid
	}
	if slices.Contains(l.Sandbox.Isolation, sandbox.Mount) {
		l.Sandbox.Hide, l.Sandbox.Show = r.hidden(), r.shownLately()
	}
	if slices.Contains(l.Sandbox.Isolation, sandbox.Cgroup) {
		g, err := sandbox.MakeGroup("agentyard-"+l.Session, resources)
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		l.Sandbox.Cgroup, i.Cgroup = g.String(), g.String()
	}
	return nil
}

// logTail returns what the session's runner last said, for a person.
func (r *Runtime) logTail(session string) string {
	f, err := os.Open(filepath.Join(r.dir(session), runnerLog))
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, 2); err != nil {
			return ""
		}
	}
	data := make([]byte, tailBytes)
	n, _ := f.Read(data)
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(data[:n]), "?")), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}

// trimLogs empties the logs that have grown too large; runners append, so they go on at the beginning.
func (r *Runtime) trimLogs() {
	r.mu.Lock()
	names := make([]string, 0, len(r.slots))
	for name := range r.slots {
		names = append(names, name)
	}
	r.mu.Unlock()
	for _, name := range names {
		path := filepath.Join(r.dir(name), runnerLog)
		if fi, err := os.Stat(path); err == nil && fi.Size() > maxLog {
			_ = os.Truncate(path, 0)
		}
	}
}
