//go:build !linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"agentyard.dev/services/sessions/launch"
)

func probe() Capabilities {
	c := Capabilities{Missing: map[string]string{}}
	for _, name := range Known {
		c.Missing[name] = "only Linux has it"
	}
	return c
}

func runInit(config) int {
	fmt.Fprintln(os.Stderr, "sandbox: only Linux isolates")
	return 2
}

// Command returns a command that runs argv as the leader of a session of its own, in the working directory dir, with the
// environment env and no other. It refuses a spec that asks for isolation.
func Command(spec launch.Sandbox, dir string, argv, env []string) (*exec.Cmd, error) {
	if len(argv) == 0 {
		return nil, errors.New("sandbox: no command")
	}
	if len(spec.Isolation) > 0 {
		return nil, fmt.Errorf("sandbox: this system cannot isolate %v", spec.Isolation)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append([]string{}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// Kill ends the process group of the sandbox that cmd started. A process that made a group of its own survives.
func Kill(cmd *exec.Cmd) error {
	if cmd.Process == nil {
		return nil
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill sandbox: %w", err)
	}
	return nil
}

// Ahead is a sandbox that is started before anybody knows what for; there are none here.
type Ahead struct{ Cmd *exec.Cmd }

// Prepare fails: only Linux isolates, and what does not isolate takes no time.
func Prepare(launch.Sandbox) (*Ahead, error) {
	return nil, errors.New("sandbox: this system starts nothing ahead")
}

// Order fails.
func (a *Ahead) Order(launch.Sandbox, string, []string, []string) error {
	return errors.New("sandbox: this system starts nothing ahead")
}

// Drop does nothing.
func (a *Ahead) Drop() {}
