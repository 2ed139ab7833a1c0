package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit statuses of init that are not the agent's own (as in docker run and env(1)).
const (
	exitSetup = 125
	exitStart = 127
)

// runInit makes the sandbox, runs the agent and returns its exit status.
func runInit(cfg config) int {
	// Privileges belong to threads: this goroutine keeps the thread on which it drops them until it has forked.
	runtime.LockOSThread()
	cfg, err := setup(cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sandbox: %v\n", err)
		return exitSetup
	}
	if cfg.Probe == probeSetup {
		return 0
	}
	if isTerminal(0) {
		releaseTerminal()
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	pid, err := startAgent(cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sandbox: start %s: %v\n", cfg.Argv[0], err)
		return exitStart
	}
	go func() { // ends with the process
		for s := range signals {
			if s == syscall.SIGTERM && !cfg.has(PID) && os.Getppid() != cfg.parent() {
				killDescendants(os.Getpid()) // the runner died
				continue
			}
			if n, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(-pid, n)
			}
		}
	}()
	status := reap(pid)
	if !cfg.has(PID) {
		killDescendants(os.Getpid())
	}
	return status
}

var forwarded = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// parentAtStart is taken before the parent can have changed unnoticed in a way that matters: a parent that
// died before is noticed by the kernel's parent-death signal.
var parentAtStart = os.Getppid()

func (config) parent() int { return parentAtStart }

// setup does everything that needs privileges and returns cfg, or the orders that it waited for.
func setup(cfg config) (config, error) {
	if err := joinCgroup(cfg); err != nil {
		return cfg, err
	}
	if err := cfg.enter(); err != nil {
		return cfg, err
	}
	if cfg.has(User) {
		if err := mapIDs(cfg.MapUID, cfg.MapGID); err != nil {
			return cfg, err
		}
	}
	// A keyring of its own: the caller's session keyring may hold keys.
	_, _ = unix.KeyctlJoinSessionKeyring("agentyard")
	if !cfg.has(PID) {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return cfg, fmt.Errorf("become subreaper: %w", err)
		}
	}
	// When memory is short, an agent goes before the yard.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	if cfg.Ahead {
		orders, err := cfg.await()
		if err != nil {
			return cfg, err
		}
		cfg = orders
	}
	if cfg.has(Mount) {
		return cfg, buildView(cfg)
	}
	return cfg, nil
}

// mapIDs gives uid and gid, which are the caller's, the same meaning inside the new user namespace.
// See user_namespaces(7): an unprivileged process may map exactly its own ids, after giving up setgroups(2).
func mapIDs(uid, gid int) error {
	for _, f := range []struct{ path, text string }{
		{"/proc/self/setgroups", "deny"},
		{"/proc/self/uid_map", fmt.Sprintf("%d %d 1", uid, uid)},
		{"/proc/self/gid_map", fmt.Sprintf("%d %d 1", gid, gid)},
	} {
		if err := os.WriteFile(f.path, []byte(f.text), 0); err != nil {
			return fmt.Errorf("map user ids: %w", err)
		}
	}
	return nil
}

func joinCgroup(cfg config) error {
	if !cfg.has(Cgroup) || cfg.Cgroup == "" {
		return nil
	}
	for _, dir := range strings.Split(cfg.Cgroup, ":") {
		// "0" is the writing process, whatever its number here.
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// startAgent forks the agent without any privilege and gives up init's own.
func startAgent(cfg config) (int, error) {
	switchUID := cfg.has(UID) && os.Geteuid() == 0
	sys := &syscall.SysProcAttr{Setsid: true}
	if isTerminal(0) {
		sys.Setctty, sys.Ctty = true, 0
	}
	if switchUID {
		giveStreams(cfg.UID, cfg.GID)
		sys.Credential = &syscall.Credential{Uid: uint32(cfg.UID), Gid: uint32(cfg.GID)}
	}
	path, err := exec.LookPath(cfg.Argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, err
	}
	if err := os.Chdir(orRoot(cfg.Work)); err != nil {
		return 0, err
	}
	if err := dropForAgent(switchUID); err != nil {
		return 0, err
	}
	var was unix.Rlimit
	nproc := processLimit(cfg)
	if nproc > 0 { // the agent starts with the soft limit; init itself needs room for its threads
		_ = unix.Getrlimit(unix.RLIMIT_NPROC, &was)
		nproc = min(nproc, was.Max)
		_ = unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: nproc, Max: was.Max})
	}
	syscall.Umask(0o022)
	pid, err := syscall.ForkExec(path, cfg.Argv, &syscall.ProcAttr{
		Dir: orRoot(cfg.Work), Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: sys,
	})
	if err != nil {
		return 0, err
	}
	if nproc > 0 {
		_ = unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: nproc, Max: nproc}, nil)
		_ = unix.Setrlimit(unix.RLIMIT_NPROC, &was)
	}
	dropInit(switchUID)
	return pid, nil
}

// processLimit is RLIMIT_NPROC for the agent, where that counts the sandbox's processes and no others:
// with a uid of its own, or per user namespace since Linux 5.14. 0: none.
func processLimit(cfg config) uint64 {
	if cfg.Resources.Processes <= 0 || !cfg.has(UID) && (!cfg.has(User) || !kernelAtLeast(5, 14)) {
		return 0
	}
	return uint64(cfg.Resources.Processes)
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, _ := strconv.Atoi(parts[0])
	b, _ := strconv.Atoi(parts[1])
	return a > major || a == major && b >= minor
}

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// reap waits for every child that comes its way until the agent ends, and returns the agent's exit status.
func reap(agent int) int {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return exitSetup // no children left, yet the agent's end was not seen: cannot happen
		case pid == agent && ws.Exited():
			return ws.ExitStatus()
		case pid == agent && ws.Signaled():
			return 128 + int(ws.Signal())
		}
	}
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// releaseTerminal gives up the controlling terminal, so that the agent can take it. Doing so hangs up the
// foreground process group, which is init's own: that signal is caught here.
func releaseTerminal() {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if unix.IoctlSetInt(0, unix.TIOCNOTTY, 0) != nil {
		return // it was not the controlling terminal
	}
	select {
	case <-hup:
	case <-time.After(time.Second): // it has been sent by now; only this process's own delivery remains
	}
}

// giveStreams lets the agent open its own standard streams again (/dev/stdin, /dev/stderr) when they are pipes
// or a terminal.
func giveStreams(uid, gid int) {
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFIFO || isTerminal(fd)) {
			_ = unix.Fchown(fd, uid, gid)
		}
	}
}
