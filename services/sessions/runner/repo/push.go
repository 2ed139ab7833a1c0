package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// PushRequest says what to push and where to.
type PushRequest struct {
	Request        // URL, Credential, Policy, Scratch and bounds as in Clone; Dir is the workspace
	Base    string // the commit that the workspace was cloned at
	Branch  string // that must not exist there
	Author  string
	Email   string
	Message string
	At      time.Time // of the commit; the same request makes the same commit
}

// Pushed is what became of a push. An empty Commit says that nothing had changed.
type Pushed struct {
	Branch string `json:"branch,omitempty"`
	Commit string `json:"commit,omitempty"`
}

const (
	defaultAuthor = "agentyard"
	defaultEmail  = "agentyard@localhost"
)

// Push commits what the workspace differs from Base in, as one commit on top of it, and pushes that to a new branch of the repository.
//
// Nothing in the workspace is believed: its .git is not opened, so no configuration, hook or filter of it runs; the commit is made in a repository
// of our own, from the files alone, without those of repositories inside the workspace. A branch that exists is never moved, but one that is this very commit is
// success. Errors: conflict for a branch that is something else, invalid for what the server refuses, and those of Clone.
func Push(ctx context.Context, req PushRequest) (Pushed, error) {
	t, err := parseURL(req.URL, req.Policy)
	if err != nil {
		return Pushed{}, err
	}
	if err := CheckRef(req.Branch); err != nil || req.Branch == "" {
		return Pushed{}, api.Invalid("/result_branch", "is not a branch's name")
	}
	if !commit.MatchString(req.Base) {
		return Pushed{}, api.Errorf(api.CodeConflict, "it is not known at which commit the workspace was cloned")
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(req.Timeout, DefaultTimeout))
	defer cancel()
	if err := t.resolve(ctx, req.Policy); err != nil {
		return Pushed{}, err
	}
	if err := sweep(req.Scratch); err != nil {
		return Pushed{}, err
	}
	scratch, err := os.MkdirTemp(req.Scratch, prefix)
	if err != nil {
		return Pushed{}, fmt.Errorf("push: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	p := &push{clone: clone{req: req.Request, target: t, scratch: scratch, dir: filepath.Join(scratch, "bare")}, want: req}
	return p.run(ctx)
}

type push struct {
	clone
	want PushRequest
}

func (p *push) run(ctx context.Context) (Pushed, error) {
	if err := p.prepare(); err != nil {
		return Pushed{}, err
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--template=", "--", p.dir},
		{"-C", p.dir, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--depth", "1", "--", p.source(), p.want.Base},
		p.inTree("read-tree", p.want.Base),
		p.inTree("add", "--all", "--pathspec-from-file="+p.path("paths"), "--pathspec-file-nul"),
	} {
		if err := p.git(ctx, args...); err != nil {
			return Pushed{}, err
		}
	}
	tree, err := p.line(ctx, p.inTree("write-tree")...)
	if err != nil {
		return Pushed{}, err
	}
	before, err := p.line(ctx, "-C", p.dir, "rev-parse", p.want.Base+"^{tree}")
	if err != nil || tree == before {
		return Pushed{}, err
	}
	head, err := p.line(ctx, "-C", p.dir, "commit-tree", tree, "-p", p.want.Base, "-F", p.path("message"))
	if err != nil {
		return Pushed{}, err
	}
	return p.send(ctx, head)
}

// prepare writes what git reads besides the repository.
func (p *push) prepare() error {
	author, email := p.want.Author, p.want.Email
	if author == "" {
		author = defaultAuthor
	}
	if email == "" {
		email = defaultEmail
	}
	at := fmt.Sprintf("%d +0000", p.want.At.Unix())
	p.more = []string{
		"GIT_AUTHOR_NAME=" + author, "GIT_AUTHOR_EMAIL=" + email, "GIT_AUTHOR_DATE=" + at,
		"GIT_COMMITTER_NAME=" + author, "GIT_COMMITTER_EMAIL=" + email, "GIT_COMMITTER_DATE=" + at,
	}
	config := p.config() + "[diff]\n\tignoreSubmodules = all\n[advice]\n\taddEmbeddedRepo = false\n[core]\n\tattributesFile = /dev/null\n\texcludesFile = /dev/null\n"
	err := os.WriteFile(p.path("gitconfig"), []byte(config), 0o600)
	if err == nil {
		err = os.Mkdir(p.path("home"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(p.path("paths"), []byte(strings.Join(append([]string{"."}, p.inner()...), "\x00")), 0o600)
	}
	if err == nil {
		err = os.WriteFile(p.path("message"), []byte(p.want.Message), 0o600)
	}
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	return nil
}

// inner returns what leaves out the repositories inside the workspace: git would open them.
func (p *push) inner() []string {
	var out []string
	_ = filepath.WalkDir(p.want.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // git says so if it matters
		}
		dir := filepath.Dir(path)
		if d.Name() != ".git" {
			return nil
		}
		if dir != p.want.Dir {
			if name, err := filepath.Rel(p.want.Dir, dir); err == nil {
				out = append(out, ":(exclude,literal,top)"+filepath.ToSlash(name))
			}
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return out
}

// inTree returns a git command on the workspace's files and our repository.
func (p *push) inTree(args ...string) []string {
	return append([]string{"--git-dir", p.dir, "--work-tree", p.want.Dir, "-C", p.want.Dir}, args...)
}

func (p *push) line(ctx context.Context, args ...string) (string, error) {
	out, err := p.output(ctx, args...)
	return strings.TrimSpace(out), err
}

// send pushes head to the branch, which must not exist.
func (p *push) send(ctx context.Context, head string) (Pushed, error) {
	ref := "refs/heads/" + p.want.Branch
	err := p.git(ctx, "-C", p.dir, "push", "--quiet", "--porcelain", "--no-verify", "--force-with-lease="+ref+":", "--", p.source(), head+":"+ref)
	if err == nil {
		return Pushed{Branch: p.want.Branch, Commit: head}, nil
	}
	there, lerr := p.line(ctx, "-C", p.dir, "ls-remote", "--", p.source(), ref)
	if lerr != nil {
		return Pushed{}, errors.Join(err, lerr)
	}
	switch at, _, _ := strings.Cut(there, "\t"); {
	case at == head:
		return Pushed{Branch: p.want.Branch, Commit: head}, nil
	case at != "":
		return Pushed{}, api.Errorf(api.CodeConflict, "the branch %s exists already, at %s", p.want.Branch, at)
	}
	return Pushed{}, err
}
