package runner_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

// children lists the processes that the runner has started.
func (s *session) children() []string {
	var pids []string
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) > 1 && fields[0] != "Z" && fields[1] == strconv.Itoa(s.cmd.Process.Pid) {
			pids = append(pids, strings.Split(f, "/")[2])
		}
	}
	return pids
}

// sandboxed waits until the runner has one child, another than not, and returns it.
func (s *session) sandboxed(not string) string {
	s.t.Helper()
	for deadline := time.After(patience); ; {
		if pids := s.children(); len(pids) == 1 && pids[0] != not {
			return pids[0]
		}
		select {
		case <-deadline:
			s.t.Fatalf("the runner has the children %v", s.children())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// spare starts a runner that waits for its launch, and returns what it is told on.
func (y *yard) spare(agent string) (*session, *os.File) {
	y.t.Helper()
	s := y.session(func(l *launch.Launch) {
		l.Agent = api.Agent{Kind: agent}
		l.Sandbox.Isolation = slices.DeleteFunc(sandbox.Probe().Isolation(), func(i string) bool { return i == sandbox.Cgroup })
		if slices.Contains(l.Sandbox.Isolation, sandbox.UID) {
			l.Sandbox.UID, l.Sandbox.GID = 212346, 212346
		}
	})
	if len(s.launch.Sandbox.Isolation) == 0 {
		y.t.Fatal("this machine isolates nothing")
	}
	in, stdin, err := os.Pipe()
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() { stdin.Close() })
	s.begin(in)
	in.Close()
	doc, err := json.Marshal(launch.Launch{Spare: true, Sandbox: launch.Sandbox{Isolation: s.launch.Sandbox.Isolation}})
	if err != nil {
		y.t.Fatal(err)
	}
	if _, err := stdin.Write(doc); err != nil {
		y.t.Fatal(err)
	}
	return s, stdin
}

func TestSpare(t *testing.T) {
	y := newYard(t)
	t.Run("runs its first agent in the sandbox that it started ahead", func(t *testing.T) {
		s, stdin := y.spare("demo")
		first := s.sandboxed("")
		if _, err := stdin.Write(s.next()); err != nil {
			t.Fatal(err)
		}
		s.running()
		if got := s.answer(s.send("echo hello")); !strings.Contains(got, "hello") {
			t.Errorf("answered %q", got)
		}
		if now := s.children(); len(now) != 1 || now[0] != first {
			t.Errorf("the runner has the children %v, ahead it had %s", now, first)
		}
		// The next agent gets a sandbox of its own.
		s.send("crash")
		s.sandboxed(first)
		if got := s.answer(s.send("echo again")); !strings.Contains(got, "again") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("gives an agent in a terminal another", func(t *testing.T) {
		s, stdin := y.spare("bash")
		first := s.sandboxed("")
		if _, err := stdin.Write(s.next()); err != nil {
			t.Fatal(err)
		}
		s.running()
		s.sandboxed(first)
	})
	t.Run("ends without a launch, with what it started", func(t *testing.T) {
		s, stdin := y.spare("demo")
		first := s.sandboxed("")
		stdin.Close()
		select {
		case <-s.exited:
		case <-time.After(patience):
			t.Fatal("it lives on")
		}
		for deadline := time.After(patience); ; {
			data, err := os.ReadFile("/proc/" + first + "/cmdline")
			if err != nil || !strings.Contains(string(data), "sandbox") {
				return
			}
			select {
			case <-deadline:
				t.Fatal("its sandbox lives on")
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}
