//go:build cluster

package clustertest_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
	"agentyard.dev/services/sessions/runner/repo/repotest"
)

// origin serves a repository to pods, with the branches main and side, and returns its URL.
func origin(t *testing.T) string {
	t.Helper()
	root, work := t.TempDir(), t.TempDir()
	repotest.Git(t, work, "init", "-q", "-b", "main")
	for _, branch := range []string{"main", "side"} {
		repotest.Git(t, work, "checkout", "-q", "-B", branch)
		if err := os.WriteFile(filepath.Join(work, branch+".md"), []byte("text of "+branch+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		repotest.Git(t, work, "add", ".")
		repotest.Git(t, work, "commit", "-q", "-m", branch)
	}
	repotest.Git(t, work, "checkout", "-q", "main")
	repotest.Git(t, root, "clone", "-q", "--bare", work, "origin.git")
	l, err := net.Listen("tcp", cluster.Gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	daemon := exec.Command(filepath.Join(repotest.Git(t, root, "--exec-path"), "git-daemon"), "--export-all", "--reuseaddr",
		"--listen="+cluster.Gateway, fmt.Sprint("--port=", address.Port), "--base-path="+root, root)
	daemon.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	clustertest.Eventually(t, "the origin answers", func() bool {
		c, err := net.DialTimeout("tcp", address.String(), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return "git://" + address.String() + "/origin.git"
}

// TestRepository: a session's repository is cloned in its pod. A message that has the session begin anew finds a fresh checkout in the same pod, and of all that was before
// it what is in the home.
func TestRepository(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(c *sessions.Config, _ *kube.Config) { c.AllowPrivateRepositories = true })
	s, err := rpc.Call(y.admin, y.client, api.CreateSession, api.CreateSessionRequest{Repository: &api.Repository{URL: origin(t)}})
	if err != nil {
		t.Fatal(err)
	}
	y.reaches(s.ID, api.StateRunning)
	pod := y.pod(s.ID)
	if got := y.ask(s.ID, "run busybox ls; busybox cat main.md"); !strings.Contains(got, "text of main") || strings.Contains(got, "side.md") {
		t.Errorf("it was cloned: %q", got)
	}

	// It leaves files everywhere, a hook, and a process of nobody's that goes on writing where it is.
	y.ask(s.ID, `run echo x > left; echo x > /tmp/left; echo x > /tmp/.left; echo of the home > $HOME/cache; `+
		`printf '#!/bin/sh\necho x > "$HOME/hooked"\n' > .git/hooks/post-checkout; busybox chmod +x .git/hooks/post-checkout; `+
		`(busybox setsid busybox sh -c 'while busybox sleep 0.05; do echo x > "$PWD/leak"; echo x > /tmp/leak; done' </dev/null >/dev/null 2>&1 &)`)
	if got := y.ask(s.ID, "run busybox sleep 0.3; busybox ls -A . /tmp; busybox ps -o args"); strings.Count(got, "leak\n") < 2 || !strings.Contains(got, ".left") || !strings.Contains(got, "while busybox") {
		t.Fatalf("what it left is not there: %q", got)
	}
	got := y.say(api.SendMessageRequest{ID: s.ID, Renew: &api.Renew{Ref: "side"}, Content: "run busybox sleep 0.3; busybox ls -A . /tmp $HOME; busybox cat side.md $HOME/cache; busybox ps -o args"})
	for _, want := range []string{"main.md\n", "text of side", "of the home"} {
		if !strings.Contains(got, want) {
			t.Errorf("anew it has no %q: %q", want, got)
		}
	}
	for _, old := range []string{"left", "leak", "hooked", "while busybox"} {
		if strings.Contains(got, old) {
			t.Errorf("anew there is still %q: %q", old, got)
		}
	}
	if p := y.pod(s.ID); p.UID != pod.UID {
		t.Error("it has another pod")
	}
	if got := y.ask(s.ID, "run busybox ls"); !strings.Contains(got, "side.md") {
		t.Errorf("a message that comes after it: %q", got)
	}
	y.end(s.ID)
}
