package process

import (
	"context"
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

// child is a runner that this process started.
type child struct {
	cmd     *exec.Cmd
	stdin   *os.File // both ways: what it is told, and its end when the runner closes it
	started string   // startedAt
}

// startRunner starts a runner that knows nothing yet and appends what it says to the file log.
func (r *Runtime) startRunner(log string) (*child, error) {
	argv, err := r.runner()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open runner log: %w", err)
	}
	defer out.Close()
	in, stdin, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start runner: %w", err)
	}
	defer in.Close()
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // it outlives who starts it
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + r.path()} // and nothing of the service's own environment
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		stdin.Close()
		return nil, fmt.Errorf("start runner: %w", err)
	}
	c := &child{cmd: cmd, stdin: stdin}
	if c.started, err = startedAt(cmd.Process.Pid); err != nil {
		stdin.Close()
		c.kill()
		_ = c.reap()
		return nil, fmt.Errorf("start runner: %w", err)
	}
	return c, nil
}

// tell writes a document to the runner. That it is dead is no error: its watcher tells.
func (c *child) tell(text []byte) error {
	_ = c.stdin.SetWriteDeadline(time.Now().Add(launchTimeout))
	_, err := c.stdin.Write(text)
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("give runner its launch: %w", err)
	}
	return nil
}

// watch waits until the runner has ended, and reports false when ctx ends first.
func (c *child) watch(ctx context.Context) bool {
	return (&instance{PID: c.cmd.Process.Pid, Started: c.started}).wait(ctx)
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

// reap collects the exit status. What is left of the runner's process group goes first, while its number cannot be another's.
func (c *child) reap() string {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	_ = c.cmd.Wait()
	return "it ended with " + c.cmd.ProcessState.String()
}

// socketPair returns two connected sockets that no child inherits by accident.
func socketPair() (a, b *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	if err := syscall.SetNonblock(fds[1], true); err != nil { // for deadlines; the runner's own stays as programs expect it
		syscall.Close(fds[0])
		syscall.Close(fds[1])
		return nil, nil, os.NewSyscallError("setnonblock", err)
	}
	return os.NewFile(uintptr(fds[0]), "stdin"), os.NewFile(uintptr(fds[1]), "stdin"), nil
}

// spawn gives l to the spare runner, or to one that it starts.
func (r *Runtime) spawn(l launch.Launch) (*instance, *child, error) {
	dir := r.dir(l.Session)
	l.Dir = dir
	i := &instance{Tenant: l.Tenant, Session: l.Session, Incarnation: l.Incarnation, seen: true}
	if err := r.isolate(&l); err != nil {
		return nil, nil, err
	}
	if err := r.makeSession(l.Session, l.Sandbox.UID, l.Sandbox.GID); err != nil {
		return nil, nil, err
	}
	i.Socket = filepath.Join(r.socketDir(), l.Session+"-"+strconv.Itoa(l.Incarnation)+".sock")
	l.Listen = "unix:" + i.Socket
	_ = os.Remove(i.Socket) // of an attempt that came to nothing
	var c *child
	abandon := func(err error) (*instance, *child, error) {
		if c != nil {
			c.stdin.Close()
			c.kill()
			_ = c.reap()
		}
		r.cleanUp(i)
		return nil, nil, err
	}
	cgroup := "agentyard-" + l.Session
	s := r.takeSpare()
	if s != nil {
		defer close(s.used)
		c = s.child
		if s.cgroup != "" {
			cgroup = s.cgroup
		}
		l.Sandbox.Network = s.net
	} else {
		var err error
		if l.Sandbox.Network, err = r.network.take(); err != nil {
			return abandon(err)
		}
	}
	i.Address = l.Sandbox.Network.Address
	if slices.Contains(l.Sandbox.Isolation, sandbox.Cgroup) {
		g, err := sandbox.MakeGroup(cgroup, l.Sandbox.Resources)
		if err != nil {
			return abandon(fmt.Errorf("make cgroup: %w", err))
		}
		l.Sandbox.Cgroup, i.Cgroup = g.String(), g.String()
	}
	text, err := json.Marshal(l)
	if err != nil {
		return abandon(fmt.Errorf("encode launch: %w", err))
	}
	log := filepath.Join(dir, runnerLog)
	if s != nil {
		err = os.Rename(s.log, log)
	} else if c, err = r.startRunner(log); err == nil {
		defer c.stdin.Close() // nobody waits for the agent to be up
	}
	if err != nil {
		return abandon(err)
	}
	i.PID, i.Started = c.cmd.Process.Pid, c.started
	if err := i.write(dir); err != nil {
		return abandon(fmt.Errorf("write instance: %w", err))
	}
	if s != nil {
		if err := r.forgetSpare(); err != nil {
			return abandon(err)
		}
	}
	// Not before the instance file is there: until it has its launch a runner does nothing.
	if err := c.tell(text); err != nil {
		return abandon(err)
	}
	return i, c, nil
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
func (r *Runtime) isolate(l *launch.Launch) error {
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
