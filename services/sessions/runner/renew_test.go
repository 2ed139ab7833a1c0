package runner_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

// renewable is a session with a repository whose default branch is main and which has a branch side.
func renewable(t *testing.T, isolation []string) *session {
	t.Helper()
	origin := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", origin, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q", "-b", "main")
	for _, branch := range []string{"main", "side"} {
		if branch != "main" {
			git("checkout", "-q", "-b", branch)
		}
		if err := os.WriteFile(filepath.Join(origin, "README"), []byte(branch+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", ".")
		git("commit", "-q", "-m", branch)
	}
	git("checkout", "-q", "main")
	return newYard(t).session(func(l *launch.Launch) {
		l.Repository = &api.Repository{URL: "file://" + origin}
		l.RepositoryPolicy = launch.RepositoryPolicy{AllowPrivate: true}
		l.Sandbox.Isolation, l.Sandbox.UID, l.Sandbox.GID = isolation, 59_321, 59_321
		if os.Geteuid() != 0 {
			l.Sandbox.UID, l.Sandbox.GID = os.Geteuid(), os.Getegid()
		}
	})
}

// anew sends a message with which the session begins anew.
func (s *session) anew(ref, content string) string {
	s.t.Helper()
	id := api.NewID(api.KindMessage)
	s.append(api.Event{Type: api.EventUserMessage, MessageID: id, Content: content, Renew: &api.Renew{Ref: ref}})
	return id
}

// fileAppears waits for a file in the session's directory.
func (s *session) fileAppears(name string) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		if _, err := os.Stat(filepath.Join(s.launch.Dir, name)); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("there is no %s", name)
		}
	}
}

func TestRenew(t *testing.T) {
	isolation := slices.DeleteFunc(sandbox.Probe().Isolation(), func(s string) bool { return s == sandbox.Cgroup })
	if !slices.Contains(isolation, sandbox.PID) {
		t.Skipf("this machine does not isolate processes: %v", sandbox.Probe().Missing)
	}
	s := renewable(t, isolation)
	s.start()
	s.running()
	// What is left: a file, a commit, a hook, a directory that cannot be written to, a process that goes on writing, and what the home is for.
	leave := `run echo mine > left; mkdir -p ro/in; touch ro/in/f; chmod 500 ro ro/in; printf '#!/bin/sh\ntouch hooked' > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout; ` +
		`git -c user.name=x -c user.email=x@y commit -q --allow-empty -m mine; echo cached > "$HOME/cache"; touch "$TMPDIR/tmpfile"; ` +
		`(while sleep 0.02; do echo x >> "$PWD/grows"; done) </dev/null >/dev/null 2>&1 & echo left behind`
	s.answer(s.send(leave))

	look := `run ls -A; cat README; git log --format=%s; git status --porcelain; ls -A .git/hooks "$TMPDIR"; cat "$HOME/cache"; ls /proc | grep -c '^[0-9]'`
	check := func(got, branch string) {
		t.Helper()
		want := []string{".git", "README", branch, branch} // the second is the commit
		lines := strings.Split(got, "\n")
		if len(lines) < 5 || !slices.Equal(lines[:4], want) || !slices.Contains(lines, "cached") || strings.Contains(got, "left") || strings.Contains(got, "mine") ||
			strings.Contains(got, "post-checkout") || strings.Contains(got, "tmpfile") || strings.Contains(got, "grows") {
			t.Errorf("on %s: %q", branch, got)
		}
	}
	check(s.answer(s.anew("side", look)), "side")
	if got := s.answer(s.send("run sleep 0.2; ls")); !strings.HasPrefix(got, "README\nexit 0") {
		t.Errorf("something goes on writing: %q", got)
	}
	head, err := os.ReadFile(filepath.Join(s.launch.Dir, "head"))
	if got := s.answer(s.send("run git rev-parse HEAD")); err != nil || !strings.HasPrefix(got, string(head)+"\n") || len(head) != 40 {
		t.Errorf("the commit is %q, and %q is remembered (%v)", got, head, err)
	}
	check(s.answer(s.anew("", look)), "main")

	t.Run("again, when its runner dies meanwhile", func(t *testing.T) {
		s.answer(s.send(leave))
		// The first time it leaves something and hangs.
		id := s.anew("side", `run ls -A; test -e "$HOME/again" || { touch "$HOME/again" left; sleep 600; }`)
		s.fileAppears("home/again")
		s.kill()
		s.start()
		if got := s.answer(id); !strings.HasPrefix(got, ".git\nREADME\nexit 0") {
			t.Errorf("the workspace is %q", got)
		}
	})
	t.Run("not with a ref that is not there", func(t *testing.T) {
		id := s.anew("nowhere", "run echo driven")
		if got := s.answer(id); strings.Contains(got, "driven") || !strings.Contains(got, "nowhere") {
			t.Errorf("answered %q", got)
		}
		s.until("an error of its turn", func(ev api.Event) bool { return ev.Type == api.EventError && ev.ReplyTo == id })
		check(s.answer(s.anew("", look)), "main")
	})
	if left, _ := filepath.Glob(filepath.Join(s.launch.Dir, "renewed-*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestRenewUnisolated: where an agent's processes may outlive it, a session does not begin anew.
func TestRenewUnisolated(t *testing.T) {
	s := renewable(t, nil)
	s.start()
	s.running()
	s.answer(s.send("run touch left"))
	if got := s.answer(s.anew("", "run echo driven")); strings.Contains(got, "driven") || !strings.Contains(got, "isolation") {
		t.Errorf("answered %q", got)
	}
	if got := s.answer(s.send("run ls")); !strings.HasPrefix(got, "README\nleft\n") {
		t.Errorf("the workspace is %q", got)
	}
}
