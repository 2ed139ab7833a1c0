package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// restartWait is how long a component that ended stays away.
const restartWait = time.Second

// component is a process that is kept running.
type component struct {
	name string // its pid is in dir/<name>.pid, and what it says in dir/<name>.log
	argv []string
	user int // 0: the program's own
	env  []string
}

// keep runs p, and runs it again when it ends, until ctx does; then it is killed. The state of a cluster is thrown away anyway, and an
// API server waits for minutes for an etcd that is gone.
func keep(ctx context.Context, dir string, p component) error {
	logFile, err := os.OpenFile(filepath.Join(dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	pidFile := filepath.Join(dir, p.name+".pid")
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
		cmd.Stdout, cmd.Stderr = logFile, logFile
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), p.env...)
		cmd.SysProcAttr = attributes(p.user)
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(logFile, "== it cannot be started:", err)
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		_ = os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
		err := cmd.Wait()
		_ = os.Remove(pidFile)
		if ctx.Err() != nil {
			return nil
		}
		fmt.Fprintf(logFile, "== it ended (%v) and is started again\n", err)
		select {
		case <-ctx.Done():
		case <-time.After(restartWait):
		}
	}
	return nil
}

// tail returns the end of a component's log, for an error about it.
func tail(dir, name string) string {
	data, err := os.ReadFile(filepath.Join(dir, name+".log"))
	if errors.Is(err, os.ErrNotExist) {
		return "it was not started"
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}

// await asks until ok, and at the latest ends with what the component last said.
func (c *Cluster) await(ctx context.Context, what, name string, ok func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready: %w; the end of its log:\n%s", what, ctx.Err(), tail(c.Dir, name))
		case <-tick.C:
		}
	}
	c.logf("%s is ready", what)
	return nil
}

// startWithin is how long a part may take on a machine that has much else to do.
const startWithin = 10 * time.Minute
