// Package repo clones a session's Git repository. The URL is a person's, the server that
// it names may be hostile, and the runner stands in a network that neither may explore.
//
// Guarantees: the host is looked up once, its addresses are checked and git connects to
// those only; redirects are not followed; no transport but the URL's own is used; no
// configuration, hook or filter of the machine or of the repository runs; a credential is
// in the environment of git alone, never in its arguments nor in .git/config. The
// directory is filled completely or not at all, within a time and a size.
package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
)

// Request says what to clone and where to.
type Request struct {
	URL        string
	Ref        string // branch, tag, ref or full commit id; empty: the default branch
	Depth      int    // zero: 1; negative: all history
	Submodules bool   // those on the same host

	Dir      string // an empty directory, which is replaced
	Scratch  string // on the same file system as Dir
	HeadFile string // where the commit's id is written, before anything can change it; empty: nowhere
	UID, GID int    // who shall own the files; negative: nobody else

	Policy     Policy
	Credential Credential
	Timeout    time.Duration // zero: DefaultTimeout
	MaxBytes   int64         // on disk; zero: DefaultMaxBytes
}

// Credential signs in to the URL's host over https.
type Credential struct{ Username, Password string }

// The bounds of a clone that sets none.
const (
	DefaultTimeout  = 5 * time.Minute
	DefaultMaxBytes = 4 << 30
)

const (
	sizePoll = 200 * time.Millisecond
	killWait = 2 * time.Second
	maxSaid  = 8 << 10
)

// Clone clones req. Errors: invalid for a URL, a ref or a repository that cannot be
// cloned, exhausted for a bound, unavailable for the network.
func Clone(ctx context.Context, req Request) error {
	t, err := parseURL(req.URL, req.Policy)
	if err != nil {
		return err
	}
	if err := CheckRef(req.Ref); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(req.Timeout, DefaultTimeout))
	defer cancel()
	if err := t.resolve(ctx, req.Policy); err != nil {
		return err
	}
	if err := sweep(req.Scratch); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(req.Scratch, prefix)
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	c := &clone{req: req, target: t, scratch: scratch, dir: filepath.Join(scratch, "tree")}
	if err := c.run(ctx); err != nil {
		return err
	}
	if err := c.writeHead(ctx); err != nil {
		return err
	}
	if err := own(c.dir, req.UID, req.GID); err != nil {
		return err
	}
	if err := os.Remove(req.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clone: %w", err) // not empty
	}
	if err := os.Rename(c.dir, req.Dir); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	return nil
}

func orDefault[T int64 | time.Duration](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}

const prefix = "clone-"

// sweep removes what a killed clone left in scratch.
func sweep(scratch string) error {
	old, err := filepath.Glob(filepath.Join(scratch, prefix+"*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("clone: remove an unfinished clone: %w", err)
	}
	return nil
}

// own hands the tree over. Nothing of the session runs yet, so nothing changes under it.
func own(dir string, uid, gid int) error {
	if uid < 0 {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid) //nolint:gosec // see above
	})
	if err != nil {
		return fmt.Errorf("clone: hand over the files: %w", err)
	}
	return nil
}

// clone is one clone under way.
type clone struct {
	req     Request
	target  *target
	scratch string
	more    []string // of git's environment
	dir     string
}

// run fills c.dir.
func (c *clone) run(ctx context.Context) error {
	if err := os.WriteFile(c.path("gitconfig"), []byte(c.config()), 0o600); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	if err := os.Mkdir(c.path("home"), 0o700); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	depth := []string{"--depth", strconv.Itoa(max(1, c.req.Depth))}
	if c.req.Depth < 0 {
		depth = nil
	}
	from, recorded := c.source(), c.target.url.String()
	var steps [][]string
	if ref := c.req.Ref; commit.MatchString(ref) || strings.HasPrefix(ref, "refs/") {
		steps = append(steps,
			[]string{"init", "--quiet", "--template=", "--", c.dir},
			append(append([]string{"-C", c.dir, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules"}, depth...), "--", from, ref),
			[]string{"-C", c.dir, "checkout", "--quiet", "--detach", "FETCH_HEAD"},
			[]string{"-C", c.dir, "remote", "add", "--", "origin", recorded},
		)
	} else {
		args := append([]string{"clone", "--quiet", "--template=", "--no-recurse-submodules", "--no-local", "--origin", "origin"}, depth...)
		if ref != "" {
			args = append(args, "--branch", ref)
		}
		steps = append(steps, append(args, "--", from, c.dir))
		if from != recorded {
			steps = append(steps, []string{"-C", c.dir, "remote", "set-url", "--", "origin", recorded})
		}
	}
	for _, args := range steps {
		if err := c.git(ctx, args...); err != nil {
			return err
		}
	}
	if c.req.Submodules {
		return c.submodules(ctx)
	}
	return nil
}

// writeHead writes which commit was cloned. A repository without one has none.
func (c *clone) writeHead(ctx context.Context) error {
	if c.req.HeadFile == "" {
		return nil
	}
	head, err := c.output(ctx, "-C", c.dir, "rev-parse", "--verify", "--quiet", "HEAD")
	if err != nil {
		head = ""
	}
	if err := os.WriteFile(c.req.HeadFile, []byte(strings.TrimSpace(head)), 0o600); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	return nil
}

func (c *clone) path(name string) string { return filepath.Join(c.scratch, name) }

// source is the URL that git is given: for the git protocol, which cannot be pinned
// otherwise, with the address in the host's place.
func (c *clone) source() string {
	if c.target.scheme != "git" {
		return c.target.url.String()
	}
	u := *c.target.url
	u.Host = c.target.addrs[0].String() + ":" + c.target.port
	if c.target.addrs[0].Is6() {
		u.Host = "[" + c.target.addrs[0].String() + "]:" + c.target.port
	}
	return u.String()
}

// submodules fetches those that are on the repository's own host; the pin holds for no
// other.
func (c *clone) submodules(ctx context.Context) error {
	if _, err := os.Lstat(filepath.Join(c.dir, ".gitmodules")); err != nil {
		return nil // there are none
	}
	out, err := c.output(ctx, "-C", c.dir, "config", "--file", ".gitmodules", "--get-regexp", `^submodule\..*\.url$`)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		_, raw, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../") {
			continue // below the repository's own host
		}
		t, err := parseURL(raw, c.req.Policy)
		if err != nil {
			return err
		}
		if t.scheme != c.target.scheme || t.host != c.target.host || t.port != c.target.port {
			return refuse("its submodule %s is on another host", raw)
		}
	}
	return c.git(ctx, "-C", c.dir, "submodule", "--quiet", "update", "--init", "--depth", "1")
}

func (c *clone) git(ctx context.Context, args ...string) error {
	_, err := c.output(ctx, args...)
	return err
}

// output runs git within the bounds.
func (c *clone) output(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		c.watch(ctx, cancel)
	}()
	defer func() { <-watched }()
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = c.scratch
	cmd.Env = c.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	out, said := &bounded{limit: 1 << 20}, &bounded{limit: maxSaid}
	cmd.Stdout, cmd.Stderr = out, said
	err := cmd.Run()
	var coded *api.Error
	switch cause := context.Cause(ctx); {
	case err == nil:
		return out.String(), nil
	case errors.As(cause, &coded):
		return "", coded
	case errors.Is(cause, context.DeadlineExceeded):
		return "", api.Errorf(api.CodeExhausted, "cloning %s took longer than %s", c.target.url, orDefault(c.req.Timeout, DefaultTimeout))
	case cause != nil:
		return "", cause
	case errors.Is(err, exec.ErrNotFound):
		return "", api.Errorf(api.CodeUnavailable, "git is not installed on this machine")
	}
	return "", c.explain(said.String())
}

// watch ends a clone that grows above its bound.
func (c *clone) watch(ctx context.Context, end context.CancelCauseFunc) {
	most := orDefault(c.req.MaxBytes, DefaultMaxBytes)
	tick := time.NewTicker(sizePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if used(c.scratch) > most {
			end(api.Errorf(api.CodeExhausted, "the repository %s is larger than the %d bytes that are allowed", c.target.url, most))
			return
		}
	}
}

// used is what the files below dir hold; files that come and go are passed over.
func used(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // git has just removed it
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}
