package sessions_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

// TestAgentSees asks a real session's agent for what it must not have.
func TestAgentSees(t *testing.T) {
	const secret = "s3cr3t-of-the-service"
	t.Setenv("YARD_SECRET", secret)
	y := newYard(t, nil)
	ana := y.as("ana")
	other := y.create(y.as("ben"), api.CreateSessionRequest{Wait: "running"})
	y.answer(y.as("ben"), other.ID, y.send(y.as("ben"), other.ID, "write diary.txt\n"+secret).ID)
	if err := os.WriteFile(filepath.Join(y.dir, "admin.key"), []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	for _, need := range []string{"mount", "pid"} {
		if !slices.Contains(s.Isolation, need) {
			t.Fatalf("this machine cannot isolate %s: %v", need, s.Isolation)
		}
	}
	run := func(command string, args ...any) string {
		t.Helper()
		m := y.send(ana, s.ID, "run "+fmt.Sprintf(command, args...))
		return y.answer(ana, s.ID, m.ID)
	}
	runner := y.runnerPID(s.ID)
	for name, out := range map[string]string{
		"environments":       run("cat /proc/[0-9]*/environ"),
		"the data directory": run("find %s -type f -exec cat {} +; ls -laR %s", y.dir, y.dir),
		"its runner's files": run("cat %s/sessions/%s/instance.json %s/sessions/%s/runner.log", y.dir, s.ID, y.dir, s.ID),
		"another session":    run("cat %s/sessions/%s/workspace/diary.txt 2>/dev/null; ls %s/sessions", y.dir, other.ID, y.dir),
		"the runner":         run("cat /proc/%d/environ; kill -9 %d; ls /proc/%d/fd", runner, runner, runner),
		"the sockets":        run("ls -la %s/s; find / -name '*.sock' -path '*agentyard*' 2>/dev/null", y.dir),
	} {
		for _, bad := range []string{secret, other.ID, ".sock", "incarnation", "admin.key", "NATS USER JWT"} {
			if strings.Contains(out, bad) {
				t.Errorf("%s: the agent sees %q:\n%s", name, bad, out)
			}
		}
	}
	if !alive(runner) || y.runnerPID(s.ID) != runner {
		t.Error("the agent ended its runner")
	}
	if out := run("echo $HOME; pwd; touch /usr/x || echo read-only; touch ~/h /tmp/t f && echo writable"); !strings.Contains(out, "writable") || !strings.Contains(out, "read-only") ||
		!strings.Contains(out, filepath.Join(y.dir, "sessions", s.ID, "home")) {
		t.Errorf("where it works:\n%s", out)
	}
	if out := run("grep -c . /proc/self/status; grep -E '^(Cap|NoNew)' /proc/self/status"); strings.Count(out, "0000000000000000") != 5 || !strings.Contains(out, "NoNewPrivs:\t1") {
		t.Errorf("privileges:\n%s", out)
	}
}
