package runner

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/demo"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/repo"
	"agentyard.dev/services/sessions/sandbox"
)

const usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (r *runner) workspace() string { return filepath.Join(r.launch.Dir, "workspace") }
func (r *runner) home() string      { return filepath.Join(r.launch.Dir, "home") }

// isolated reports whether the sandbox applies a kind of isolation.
func (r *runner) isolated(kind string) bool { return slices.Contains(r.launch.Sandbox.Isolation, kind) }

// owner is the user who owns what the agent works with; -1: the runner's own.
func (r *runner) owner() (uid, gid int) {
	if r.isolated(sandbox.UID) {
		return r.launch.Sandbox.UID, r.launch.Sandbox.GID
	}
	return -1, -1
}

// makeDirs makes the session's directories, for the agent.
func (r *runner) makeDirs() error {
	uid, gid := r.owner()
	for _, dir := range []string{r.workspace(), r.home(), filepath.Join(r.launch.Dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directories: %w", err)
		}
		if uid < 0 {
			continue
		}
		if err := os.Lchown(dir, uid, gid); err != nil {
			return fmt.Errorf("make directories: %w", err)
		}
	}
	return nil
}

// environment is the agent's, built from nothing.
func (r *runner) environment(path string) []string {
	if path == "" {
		path = usualPath
	}
	tmp := filepath.Join(r.launch.Dir, "tmp")
	if r.isolated(sandbox.Mount) {
		tmp = "/tmp" // which is that directory, inside
	}
	env := map[string]string{
		"PATH": path, "HOME": r.home(), "TMPDIR": tmp, "LANG": "C.UTF-8", "TERM": "xterm-256color", "SHELL": "/bin/sh",
		"USER": "agent", "LOGNAME": "agent", demo.SessionEnv: r.launch.Session,
	}
	for k, v := range r.launch.Env {
		if k != demo.SessionEnv && k != repositoryToken && !strings.ContainsAny(k, "=\x00") && k != "" && !strings.Contains(v, "\x00") {
			env[k] = v
		}
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// spawner runs the agent in the session's sandbox: the first in the one that was started ahead, if there is one.
func (r *runner) spawner(path string) agent.Spawner {
	base := r.environment(path)
	return func(argv []string, more ...string) (*agent.Program, error) {
		if err := r.gate.pass(); err != nil {
			return nil, err
		}
		env := append(slices.Clone(base), more...)
		if a := r.ahead.Swap(nil); a != nil {
			p, err := a.order(r.launch.Sandbox, r.workspace(), argv, env)
			if err == nil {
				return p, nil
			}
			r.log.Warn("the sandbox that was started ahead is of no use", "op", "agent", "err", err)
		}
		cmd, err := sandbox.Command(r.launch.Sandbox, r.workspace(), argv, env)
		if err != nil {
			return nil, err
		}
		return &agent.Program{Cmd: cmd, Kill: killSandbox}, nil
	}
}

// clone fills an empty workspace from the session's repository.
func (r *runner) clone(ctx context.Context) error {
	if r.launch.Repository == nil {
		return nil
	}
	entries, err := os.ReadDir(r.workspace())
	if err != nil {
		return fmt.Errorf("read workspace: %w", err)
	}
	if len(entries) > 0 {
		return nil // an earlier runner's work
	}
	return r.fetch(ctx, r.launch.Repository.Ref)
}

// fetch fills an empty workspace with what the session's repository has at ref.
func (r *runner) fetch(ctx context.Context, ref string) error {
	r.state.change(func(now *api.RunnerReportRequest) { now.Reason = "cloning the repository" })
	defer r.state.change(func(now *api.RunnerReportRequest) { now.Reason = "" })
	uid, gid := r.owner()
	policy := r.launch.RepositoryPolicy
	err := repo.Clone(ctx, repo.Request{
		URL: r.launch.Repository.URL, Ref: ref, Depth: r.launch.Repository.Depth, Submodules: policy.Submodules,
		Credential: credential(r.launch.Repository.URL, r.launch.Env),
		Dir:        r.workspace(), Scratch: r.launch.Dir, HeadFile: r.headFile(), UID: uid, GID: gid,
		Policy: repo.Policy{AllowPrivate: policy.AllowPrivate}, Timeout: policy.Timeout.D(), MaxBytes: policy.MaxBytes,
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if note := r.launch.RepositoryNote; note != "" && api.CodeOf(err) == api.CodeInvalid {
			return api.Invalid("/repository/url", "%s; %s", api.Redact(err).Detail, note)
		}
		var coded *api.Error
		if errors.As(err, &coded) {
			return err
		}
		return api.Errorf(api.CodeUnavailable, "clone the repository: %w", err)
	}
	return nil
}

// repositoryToken is for cloning and pushing alone: no process of the agent's has it in its environment.
const repositoryToken = "GIT_TOKEN"

// credential returns what a session's environment holds for its repository: GIT_TOKEN (with GIT_USERNAME, where the host
// wants one), else GITHUB_TOKEN, which the agent's own tools use too, for github.com. A GIT_TOKEN of the session's profile is only there when the
// repository is at a host that the token is for; whoever creates the session with one of their own sends it where they like.
func credential(repository string, env map[string]string) repo.Credential {
	u, err := url.Parse(repository)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return repo.Credential{}
	}
	token := env[repositoryToken]
	if token == "" && u.Scheme == "https" && strings.EqualFold(u.Hostname(), "github.com") {
		token = env["GITHUB_TOKEN"]
	}
	if token == "" {
		return repo.Credential{}
	}
	username := env["GIT_USERNAME"]
	if username == "" {
		username = "x-access-token" // what GitHub wants; others take any name with a token
	}
	return repo.Credential{Username: username, Password: token}
}
