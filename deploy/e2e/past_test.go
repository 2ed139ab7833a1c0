//go:build cluster

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"agentyard.dev/deploy/cluster"
)

// past is a release: a commit, with its charts and images. Each checkout that is tested without changes of its own leaves one in the cache, and the next upgrades
// from it, so that no release is built twice.
type past struct {
	commit string   // its first twelve digits, which are its images' tag
	chart  string   // directory of the umbrella
	images []string // tarballs
}

const (
	pastsKept   = 3   // in the cache
	pastsAsked  = 200 // commits to look back for one
	changedTag  = "dev"
	commitWidth = 12
)

// programs are the images that a release has, by the package that each runs.
var programs = map[string]string{
	"gateway": "./services/gateway/cmd/gateway", "auth": "./services/auth/cmd/auth", "sessions": "./services/sessions/cmd/sessions",
	"scheduler": "./services/scheduler/cmd/scheduler", "tccontroller": "./services/tcagent/cmd/tccontroller", "tcagent": "./services/tcagent/cmd/tcagent",
	"runner": "./services/sessions/cmd/runner", "hooks": "./deploy/hooks",
}

// errNoHistory is a checkout that does not know what was before it.
var errNoHistory = errors.New("this checkout has no history, so no release before it is known")

// history is a checkout's place in its history, and the cache of releases.
type history struct {
	root, cache string
	head        string // the commit that is checked out; empty: that is not known, or something was changed
}

func openHistory(ctx context.Context, root string) (*history, error) {
	h := &history{root: root}
	var err error
	if h.cache, err = cluster.CacheDir("releases"); err != nil {
		return nil, err
	}
	if changed, err := h.git(ctx, "status", "--porcelain"); err == nil && changed == "" {
		if head, err := h.git(ctx, "rev-parse", "HEAD"); err == nil {
			h.head = head[:commitWidth]
		}
	}
	return h, nil
}

func (h *history) git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", h.root, "-c", "safe.directory=*"}, args...)...).Output()
	return strings.TrimSpace(string(out)), err
}

// tag returns the tag of this checkout's images.
func (h *history) tag() string { return cmp.Or(h.head, changedTag) }

// before returns the newest release in the cache that was before this checkout. Without one it builds the last commit.
func (h *history) before(ctx context.Context, build imageBuilder) (*past, error) {
	list, err := h.git(ctx, "rev-list", "--first-parent", fmt.Sprint("--max-count=", pastsAsked), "HEAD")
	commits := strings.Fields(list)
	if h.head != "" && len(commits) > 0 {
		commits = commits[1:]
	}
	if err != nil || len(commits) == 0 {
		return nil, errNoHistory
	}
	for _, c := range commits {
		if p, err := h.cached(c[:commitWidth]); err == nil {
			return p, nil
		}
	}
	commit := commits[0][:commitWidth]
	src, err := os.MkdirTemp("", "release-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(src)
	unpack := exec.CommandContext(ctx, "sh", "-c", `git -C "$1" -c 'safe.directory=*' archive "$2" | tar -x -C "$3"`, "sh", h.root, commit, src)
	if out, err := unpack.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", commit, err, out)
	}
	made, err := os.MkdirTemp(h.cache, "new-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(made)
	images := map[string][]string{}
	for name, pkg := range programs {
		if _, err := os.Stat(filepath.Join(src, pkg)); err == nil { // else it had none yet
			images[name] = imageFlags(name, pkg, commit)
		}
	}
	if _, err := build.all(ctx, src, made, images); err != nil {
		return nil, fmt.Errorf("build %s: %w", commit, err)
	}
	if err := h.keep(ctx, src, made, commit); err != nil {
		return nil, err
	}
	return h.cached(commit)
}

func (h *history) cached(commit string) (*past, error) {
	dir := filepath.Join(h.cache, commit)
	images, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err == nil && len(images) == 0 {
		err = os.ErrNotExist
	}
	return &past{commit: commit, chart: filepath.Join(dir, "helm", "agentyard"), images: images}, err
}

// keep puts the charts of the sources in src and the images in dir into the cache as the release commit.
func (h *history) keep(ctx context.Context, src, dir, commit string) error {
	if _, err := h.cached(commit); err == nil {
		return nil
	}
	made, err := os.MkdirTemp(h.cache, "new-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	copied := []string{"-a", filepath.Join(src, "deploy", "helm")}
	for name := range programs {
		if file := filepath.Join(dir, name+".tar"); exists(file) {
			copied = append(copied, file)
		}
	}
	if out, err := exec.CommandContext(ctx, "cp", append(copied, made)...).CombinedOutput(); err != nil {
		return fmt.Errorf("keep release %s: %w: %s", commit, err, out)
	}
	if err := os.Rename(made, filepath.Join(h.cache, commit)); err != nil && !exists(filepath.Join(h.cache, commit)) { // else another was faster
		return err
	}
	return h.prune()
}

func (h *history) prune() error {
	dirs, err := filepath.Glob(filepath.Join(h.cache, strings.Repeat("?", commitWidth)))
	if err != nil {
		return err
	}
	age := func(dir string) time.Time {
		info, err := os.Stat(dir)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(dirs, func(a, b string) int { return age(b).Compare(age(a)) })
	for _, d := range dirs[min(len(dirs), pastsKept):] {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

func exists(file string) bool { _, err := os.Stat(file); return err == nil }
