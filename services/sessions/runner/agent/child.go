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

	program *Program
	stderr  tail
	done    chan struct{}
	err     error // after done
}

// StartChild starts p in a process group of its own, with pipes. One that was started
// ahead it returns.
func StartChild(p *Program) (*Child, error) {
	if p.child != nil {
		return p.child, nil
	}
	c, cmd := &Child{program: p, done: make(chan struct{})}, p.Cmd
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
		p.End() // what the agent left behind
		// A reader may still find what the agent had written; a grandchild that
		// outlives it must not keep the reader for ever.
		time.AfterFunc(waitDelay, func() { r.Close() })
		close(c.done)
	}()
	return c, nil
}

// Program returns the program as one that was started ahead.
func (c *Child) Program() *Program {
	return &Program{Cmd: c.program.Cmd, Kill: c.program.Kill, child: c}
}

// Done is closed when the process is gone.
func (c *Child) Done() <-chan struct{} { return c.done }

// Death waits for the process to be gone and says how it ended.
func (c *Child) Death() *DiedError {
	<-c.done
	return &DiedError{Detail: Describe(c.err, c.stderr.String())}
}

// Kill ends the process and what it started at once.
func (c *Child) Kill() { c.program.End() }

// Close closes the child's input, asks it to end, and after ctx (at the latest a few
// seconds) kills its group. It returns when the process is gone.
func (c *Child) Close(ctx context.Context) error {
	_ = c.Stdin.Close()
	return c.program.Terminate(ctx, c.done)
}

// Terminate sends the started process SIGTERM and, when ctx or the grace period ends
// before done is closed, kills it and what it started. It returns when done is closed.
func (p *Program) Terminate(ctx context.Context, done <-chan struct{}) error {
	return p.stop(ctx, syscall.SIGTERM, done)
}

// Hangup is Terminate for a program on a terminal: shells end at SIGHUP, not at SIGTERM.
func (p *Program) Hangup(ctx context.Context, done <-chan struct{}) error {
	return p.stop(ctx, syscall.SIGHUP, done)
}

func (p *Program) stop(ctx context.Context, sig syscall.Signal, done <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	_ = p.Process.Signal(sig)
	select {
	case <-done:
	case <-ctx.Done():
		p.End()
		<-done
	}
	return nil
}

// End kills the started process and what it started at once. What is gone is success.
func (p *Program) End() {
	if p.Process == nil || p.Process.Pid <= 1 {
		return
	}
	if p.Kill != nil {
		_ = p.Kill(p.Cmd) // only what is gone cannot be killed
		return
	}
	_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
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

// Describe says how a process ended and what it last wrote to its error output.
func Describe(err error, said string) string {
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
