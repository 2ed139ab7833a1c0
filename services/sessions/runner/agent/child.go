package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	stderrTail = 4 << 10         // of what a dead agent said, enough for the usual "error: …"
	closeGrace = 5 * time.Second // between SIGTERM and SIGKILL where the caller sets no deadline
	waitDelay  = 2 * time.Second // for grandchildren that hold a pipe open after the agent is gone
)

// Child is a started program with pipes. Its Stdout must be read to the end.
type Child struct {
	Stdin  io.WriteCloser
	Stdout io.Reader

	cmd    *exec.Cmd
	stderr tail
	done   chan struct{}
	err    error // after done
}

// StartChild starts cmd in a process group of its own, with pipes.
func StartChild(cmd *exec.Cmd) (*Child, error) {
	c := &Child{cmd: cmd, done: make(chan struct{})}
	c.stderr.limit = stderrTail
	cmd.Stderr = &c.stderr
	cmd.WaitDelay = waitDelay
	OwnGroup(cmd)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	// An own pipe rather than StdoutPipe: Wait would close that one under its reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("start agent: %w", err)
	}
	c.Stdin, c.Stdout = stdin, r
	go func() {
		c.err = cmd.Wait()
		KillGroup(cmd) // what the agent left behind
		// A reader may still find what the agent had written; a grandchild that
		// outlives it must not keep the reader for ever.
		time.AfterFunc(waitDelay, func() { r.Close() })
		close(c.done)
	}()
	return c, nil
}

// Done is closed when the process is gone.
func (c *Child) Done() <-chan struct{} { return c.done }

// Death waits for the process to be gone and says how it ended.
func (c *Child) Death() *DiedError {
	<-c.done
	return &DiedError{Detail: describe(c.err, c.stderr.String())}
}

// Kill ends the process and its group at once.
func (c *Child) Kill() { KillGroup(c.cmd) }

// Close closes the child's input, asks it to end, and after ctx (at the latest a few
// seconds) kills its group. It returns when the process is gone.
func (c *Child) Close(ctx context.Context) error {
	_ = c.Stdin.Close()
	return Terminate(ctx, c.cmd, c.done)
}

// Terminate sends cmd's process SIGTERM and, when ctx or the grace period ends before
// done is closed, kills its group. It returns when done is closed.
func Terminate(ctx context.Context, cmd *exec.Cmd, done <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-ctx.Done():
		KillGroup(cmd)
		<-done
	}
	return nil
}

// OwnGroup makes cmd the leader of a process group, unless it starts a session, which
// is one too.
func OwnGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if !cmd.SysProcAttr.Setsid {
		cmd.SysProcAttr.Setpgid = true
	}
}

// KillGroup kills the group that the started cmd leads. A group that is gone is success.
func KillGroup(cmd *exec.Cmd) {
	if cmd.Process != nil && cmd.Process.Pid > 1 {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

// describe says how a process ended and what it last wrote to its error output.
func describe(err error, said string) string {
	text := "it ended with exit status 0"
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		text = "it ended with " + exit.ProcessState.String()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		text = err.Error()
	}
	if said = strings.TrimSpace(said); said != "" {
		text += ": " + said
	}
	return text
}

// tail keeps the last bytes that are written to it.
type tail struct {
	mu    sync.Mutex
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-t.limit):]...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.buf), "")
}
