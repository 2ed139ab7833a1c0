package repo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/repo/repotest"
)

func TestPush(t *testing.T) {
	o := newOrigin(t)
	bare := filepath.Join(o.root, "origin.git")
	repotest.Git(t, bare, "config", "http.receivepack", "true")
	req := request(t, o.httpServer(t, "").URL+"/origin.git")
	req.HeadFile = filepath.Join(req.Scratch, "head")
	if err := Clone(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	head, err := os.ReadFile(req.HeadFile)
	if err != nil || string(head) != o.second {
		t.Fatalf("the clone's head is %q, want %s (%v)", head, o.second, err)
	}
	if err := os.Remove(req.HeadFile); err != nil {
		t.Fatal(err)
	}
	push := PushRequest{
		Request: req, Base: o.second, Branch: "task/one", Author: "Ada", Email: "ada@example.org", Message: "Change the README\n\nTask t1",
		At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(req.Dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("pushes nothing when nothing has changed", func(t *testing.T) {
		got, err := Push(t.Context(), push)
		if err != nil || got.Commit != "" {
			t.Errorf("%+v, %v", got, err)
		}
		settled(t, req)
	})

	// What an agent may leave to have the runner run it.
	marker := filepath.Join(t.TempDir(), "ran")
	write(".git/config", "[core]\n\tfsmonitor = touch "+marker+"\n[filter \"evil\"]\n\tclean = touch "+marker+"\n")
	write(".git/hooks/pre-commit", "#!/bin/sh\ntouch "+marker+"\n")
	write(".git/hooks/pre-push", "#!/bin/sh\ntouch "+marker+"\n")
	write("README", "changed\n")
	write("new/file.txt", "new\n")
	repotest.Git(t, req.Dir, "init", "-q", "inner")
	write("inner/.git/config", "[core]\n\tfsmonitor = touch "+marker+"\n")
	if err := os.Symlink("/etc/passwd", filepath.Join(req.Dir, "link")); err != nil {
		t.Fatal(err)
	}

	var first Pushed
	t.Run("pushes the changes as one commit", func(t *testing.T) {
		var err error
		if first, err = Push(t.Context(), push); err != nil {
			t.Fatal(err)
		}
		if got := repotest.Git(t, bare, "rev-parse", "task/one"); got != first.Commit || repotest.Git(t, bare, "rev-parse", got+"^") != o.second {
			t.Errorf("the branch is at %s, pushed %+v", got, first)
		}
		if got := repotest.Git(t, bare, "show", "-s", "--format=%an <%ae> %s", first.Commit); got != "Ada <ada@example.org> Change the README" {
			t.Errorf("the commit is %q", got)
		}
		if got := repotest.Git(t, bare, "show", first.Commit+":README"); got != "changed" {
			t.Errorf("README is %q", got)
		}
		if got := repotest.Git(t, bare, "ls-tree", first.Commit, "link"); !strings.HasPrefix(got, "120000 blob") {
			t.Errorf("the link is %q", got)
		}
		settled(t, req)
	})
	t.Run("runs nothing of the workspace", func(t *testing.T) {
		if _, err := os.Stat(marker); err == nil {
			t.Error("a program of the workspace ran")
		}
	})
	t.Run("meets itself when asked again", func(t *testing.T) {
		again, err := Push(t.Context(), push)
		if err != nil || again != first {
			t.Errorf("%+v, %v, want %+v", again, err, first)
		}
	})
	t.Run("never moves a branch", func(t *testing.T) {
		write("README", "changed once more\n")
		_, err := Push(t.Context(), push)
		if api.CodeOf(err) != api.CodeConflict {
			t.Errorf("got %v, want conflict", err)
		}
		if got := repotest.Git(t, bare, "rev-parse", "task/one"); got != first.Commit {
			t.Errorf("the branch moved to %s", got)
		}
	})
	t.Run("says that the server refuses", func(t *testing.T) {
		repotest.Git(t, bare, "config", "http.receivepack", "false")
		other := push
		other.Branch = "task/two"
		if _, err := Push(t.Context(), other); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("got %v, want invalid", err)
		}
	})
}
