package process

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/runtimetest"
	"agentyard.dev/services/sessions/sandbox"
)

// spares lists the processes that are spare runners of the data directory: their output goes where no session's does.
func (e *env) spares() []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/fd/1")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == filepath.Join(e.dir, "spare", spareLog) {
			pid, _ := strconv.Atoi(strings.Split(l, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// spare waits for the spare runner, another than not.
func (e *env) spare(t *testing.T, not int) int {
	t.Helper()
	pid := 0
	eventually(t, "there is a spare runner", func() bool {
		if pids := e.spares(); len(pids) == 1 && pids[0] != not {
			pid = pids[0]
		}
		return pid != 0
	})
	return pid
}

// noted returns the name of the spare's cgroup.
func (e *env) noted() string {
	name, _ := os.ReadFile(filepath.Join(e.dir, "spare", spareCgroup))
	return string(name)
}

// cgroups finds the directories of a cgroup.
func cgroups(name string) (found []string) {
	if name == "" {
		return nil
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() && d.Name() == name {
			found = append(found, p)
		}
		return nil
	})
	return found
}

// spareEnv is an Env whose runtimes have a spare runner before they are asked anything.
type spareEnv struct{ *env }

func (e spareEnv) New(t *testing.T) sessions.Runtime {
	cfg := config(e.dir)
	cfg.Spare = true
	r := e.runtime(t, cfg)
	waitOffered(t, r)
	return r
}

func waitOffered(t *testing.T, r *Runtime) {
	t.Helper()
	eventually(t, "a spare runner is offered", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.spare != nil
	})
}

func TestConformanceWithSpare(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Env { return spareEnv{&env{dir: t.TempDir()}} })
}

func TestSpare(t *testing.T) {
	with := func(dir string) Config {
		cfg := config(dir)
		cfg.Spare = true
		return cfg
	}
	bounded := slices.Contains(sandbox.Probe().Isolation(), sandbox.Cgroup)

	t.Run("is the next session's runner and is followed by another", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		r := e.runtime(t, with(e.dir))
		waitOffered(t, r)
		first, group := e.spare(t, 0), e.noted()
		if list, err := r.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("listed %v, %v", list, err)
		}
		l := runtimetest.Launch(runtimetest.Daemons)
		ref := sessions.Ref{Tenant: l.Tenant, Session: l.Session}
		if _, err := r.Start(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		e.Up(t, ref, 1)
		up, _ := e.up(ref)
		if up.PID != first {
			t.Errorf("process %d, the spare was %d", up.PID, first)
		}
		if bounded && !strings.HasSuffix(up.Launch.Sandbox.Cgroup, "/"+group) {
			t.Errorf("cgroup %s, the spare's was %s", up.Launch.Sandbox.Cgroup, group)
		}
		e.spare(t, first)
		if err := r.Stop(t.Context(), ref, 10*time.Second, false); err != nil {
			t.Fatal(err)
		}
		if n := e.Processes(t, ref); n != 0 {
			t.Errorf("%d processes are left", n)
		}
		if left := cgroups(group); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
	t.Run("ends with the runtime", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		r := New(with(e.dir), nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		waitOffered(t, r)
		group := e.noted()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if pids := e.spares(); len(pids) > 0 {
			t.Errorf("%v run", pids)
		}
		if left := cgroups(group); len(left) > 0 || bounded && group == "" {
			t.Errorf("of cgroup %q there is %v", group, left)
		}
	})
	t.Run("that dies is replaced", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		r := e.runtime(t, with(e.dir))
		waitOffered(t, r)
		first := e.spare(t, 0)
		if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.spare(t, first)
	})
	t.Run("does not outlive its owner, and leaves nothing to the next", func(t *testing.T) {
		e := &env{dir: t.TempDir()}
		l := runtimetest.Launch()
		ref := sessions.Ref{Tenant: l.Tenant, Session: l.Session}
		cmd := exec.Command(os.Args[0], "owner", e.dir, "spare")
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		e.Up(t, ref, 1)
		first := e.spare(t, 0)
		group := e.noted()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "the spare runner has ended", func() bool { return len(e.spares()) == 0 })
		if n := e.Processes(t, ref); n != 1 {
			t.Errorf("of the session run %d", n)
		}
		r := e.runtime(t, with(e.dir))
		t.Cleanup(func() { _ = r.Stop(context.Background(), ref, time.Second, false) })
		e.spare(t, first)
		if left := cgroups(group); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		if list, err := r.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("listed %v, %v", list, err)
		}
	})
}
