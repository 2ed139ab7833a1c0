package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"agentyard.dev/services/sessions/launch"
)

// The capabilities that init needs to make the sandbox inside its namespaces. The agent gets none of them.
var initCapabilities = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_SETUID, unix.CAP_SETGID}

// Command returns a command that runs argv in a sandbox, in the working directory dir, with the environment env and
// no other. The caller may set standard streams (pipes or a terminal; with a terminal the agent becomes the leader of its session)
// and must Start it from a goroutine that is not locked to a thread which may end, for the sandbox ends with the thread that started it.
//
// A signal to the process reaches the agent's process group. [Kill] ends all of the sandbox at once.
// An isolation that this machine cannot give makes the sandbox end with status 125, never run without it.
func Command(spec launch.Sandbox, dir string, argv, env []string) (*exec.Cmd, error) {
	cfg, err := configure(spec, dir, argv, env)
	if err != nil {
		return nil, err
	}
	if err := cfg.checkUID(os.Geteuid()); err != nil {
		return nil, err
	}
	return command(cfg, env)
}

// configure returns what init is told to run argv in spec.
func configure(spec launch.Sandbox, dir string, argv, env []string) (config, error) {
	if len(argv) == 0 {
		return config{}, errors.New("sandbox: no command")
	}
	path, err := lookPath(argv[0], dir, env)
	if err != nil {
		return config{}, fmt.Errorf("sandbox: %w", err)
	}
	cfg := config{Sandbox: spec, Work: dir, Argv: slices.Clone(argv)}
	// The command itself stays visible even when it lies in a hidden directory.
	cfg.Show = append(slices.Clone(spec.Show), path)
	return cfg, nil
}

// checkUID reports a user id that init could not give the agent.
func (c config) checkUID(euid int) error {
	switch {
	case !c.has(UID):
		return nil
	case c.UID <= 0 || c.GID <= 0:
		return errors.New("sandbox: uid isolation needs a uid and a gid above 0")
	case euid != 0 && c.UID != euid:
		return fmt.Errorf("sandbox: uid %d cannot become %d", euid, c.UID)
	}
	return nil
}

func command(cfg config, env []string) (*exec.Cmd, error) {
	for _, want := range cfg.Isolation {
		if !slices.Contains(Known, want) {
			return nil, fmt.Errorf("sandbox: unknown isolation %q", want)
		}
	}
	euid := os.Geteuid()
	cfg.MapUID, cfg.MapGID = euid, os.Getegid()
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if cfg.has(User) {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	if cfg.has(Mount) {
		attr.Cloneflags |= syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC
	}
	if cfg.has(PID) {
		if !cfg.has(Mount) {
			return nil, errors.New("sandbox: pid isolation needs mount isolation for a /proc of its own")
		}
		attr.Cloneflags |= syscall.CLONE_NEWPID
	} else {
		attr.Pdeathsig = syscall.SIGTERM // init is no namespace's end: it must kill the agent's processes itself
	}
	if euid == 0 && cfg.has(User) {
		// In a user namespace of root the agent would still own root's files.
		return nil, errors.New("sandbox: root cannot give user isolation; run as the session's own uid")
	}
	if euid == 0 && attr.Cloneflags != 0 && !cfg.has(UID) {
		return nil, errors.New("sandbox: root cannot isolate without uid isolation")
	}
	if euid != 0 && attr.Cloneflags != 0 {
		attr.AmbientCaps = initCapabilities
	}
	var files []*os.File
	if cfg.Namespace != nil {
		files = []*os.File{cfg.Namespace}
		cfg.NetworkFD = ordersFD
		if cfg.Ahead {
			cfg.NetworkFD++
		}
	}
	arg, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	// /proc/self/exe is this binary even after its file was replaced or where the caller may not look.
	cmd := exec.Command("/proc/self/exe", initVerb, string(arg)) //nolint:noctx // Kill ends it
	cmd.Args[0] = "agentyard"
	cmd.Dir = "/"
	cmd.Env = append([]string{}, env...)
	cmd.SysProcAttr = attr
	cmd.ExtraFiles = files
	return cmd, nil
}

// Kill ends every process of the sandbox that cmd started.
func Kill(cmd *exec.Cmd) error {
	if cmd.Process == nil {
		return nil
	}
	if cmd.SysProcAttr == nil || cmd.SysProcAttr.Cloneflags&syscall.CLONE_NEWPID == 0 {
		killDescendants(cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill sandbox: %w", err)
	}
	return nil
}

// lookPath finds name as the agent would: with the PATH of env, from dir.
func lookPath(name, dir string, env []string) (string, error) {
	try := func(p string) bool {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		fi, err := os.Stat(p)
		return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
	}
	if strings.Contains(name, "/") {
		if !try(name) {
			return "", fmt.Errorf("%s is not an executable file", name)
		}
		return filepath.Join(dirIfRelative(dir, name), name), nil
	}
	for _, d := range filepath.SplitList(pathOf(env)) {
		if d != "" && try(filepath.Join(d, name)) {
			return filepath.Join(dirIfRelative(dir, d), d, name), nil
		}
	}
	return "", fmt.Errorf("%s is not on the agent's PATH", name)
}

func dirIfRelative(dir, p string) string {
	if filepath.IsAbs(p) {
		return ""
	}
	return dir
}

func pathOf(env []string) string {
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	return path
}
