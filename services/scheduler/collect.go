package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// Bounds of what a task leaves.
const (
	maxArtifactFiles = 200
	maxArtifactSize  = 64 << 20 // of one file; a runner gives no more at once
	maxDirectories   = 5000     // that are looked through
	maxProblems      = 20
	// collectTimeout bounds keeping a task's files, pushTimeout pushing its branch.
	collectTimeout = 5 * time.Minute
	pushTimeout    = 3 * time.Minute
	// salvageTimeout is for the files of a task that was stopped or failed, whose end somebody waits for.
	salvageTimeout = 30 * time.Second
	// maxAnswer bounds a listing or an answer of a runner.
	maxAnswer = 4 << 20
)

// runnerClient reaches runners at the address in the request's context.
func runnerClient() *http.Client {
	dialer := &net.Dialer{Timeout: callTimeout}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if socket, ok := ctx.Value(socketKey{}).(string); ok {
					return dialer.DialContext(ctx, "unix", socket)
				}
				return dialer.DialContext(ctx, network, addr)
			},
			DisableKeepAlives: true, ResponseHeaderTimeout: pushTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type socketKey struct{}

// runner asks a session's runner. While none is there the next one is on its way, so it goes on until the session has ended or ctx has; what is asked may be
// asked twice. The answer's body must be closed.
func (a *attempt) runner(ctx context.Context, method, target string, query url.Values, body []byte) (*http.Response, error) {
	for n := 0; ; n++ {
		e, ok := a.s.sessions.Get(a.session)
		err := error(api.Errorf(api.CodeUnavailable, "the session does not run yet"))
		switch rec := e.State; { // the view may be behind the session's log
		case !ok, rec.State == api.StatePending, rec.State == api.StateStarting, rec.State == api.StateResuming:
		case rec.State != api.StateRunning:
			return nil, api.Errorf(api.CodeUnavailable, "the session does not run any more")
		case rec.Endpoint != "":
			var resp *http.Response
			if resp, err = a.askRunner(ctx, rec, method, target, query, body); err == nil {
				return resp, nil
			}
		}
		if api.CodeOf(err) != api.CodeUnavailable || !a.pause(ctx, n) {
			return nil, err
		}
	}
}

func (a *attempt) askRunner(ctx context.Context, rec api.SessionRecord, method, target string, query url.Values, body []byte) (*http.Response, error) {
	base := rec.Endpoint
	if socket, ok := strings.CutPrefix(base, "unix:"); ok {
		ctx, base = context.WithValue(ctx, socketKey{}, socket), "http://runner"
	}
	req, err := http.NewRequestWithContext(ctx, method, base+target+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the runner: %w", err)
	}
	req.Header.Set(api.RunnerKeyHeader, rec.EndpointKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.s.http.Do(req)
	if err != nil {
		return nil, api.Errorf(api.CodeUnavailable, "the session's runner cannot be reached: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var problem struct {
		Detail string   `json:"detail"`
		Code   api.Code `json:"code"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if json.Unmarshal(data, &problem) != nil || problem.Code == "" {
		return nil, api.Errorf(api.CodeUnavailable, "the session's runner answered with status %d", resp.StatusCode)
	}
	return nil, &api.Error{Code: problem.Code, Detail: problem.Detail}
}

// finish adds to an outcome what the attempt left and used, also when it was stopped or its session is gone.
func (a *attempt) finish(ctx context.Context, o *outcome) {
	switch o.kind {
	case busy:
		return
	case succeeded:
		a.collect(ctx, o)
	default:
		if !a.turn.ended {
			a.readRest(ctx)
		}
		a.salvage(ctx, o)
	}
	o.result.Usage = a.turn.usage
}

// salvage keeps the files of an attempt that did not succeed and that no other follows, if its session can still be asked for them.
func (a *attempt) salvage(ctx context.Context, o *outcome) {
	task, ok := a.s.view.Get(a.key)
	if len(a.task.Artifacts) == 0 || o.kind == preempted || !ok || a.s.another(&task.State, *o) || !a.turn.began {
		return // there is nothing, or nobody to ask
	}
	ctx, cancel := context.WithTimeout(ctx, salvageTimeout)
	defer cancel()
	a.keepFiles(ctx, &o.result)
}

// collect keeps the files and pushes the branch that the task asks for. What cannot be kept is a problem of the result; a branch that cannot be
// pushed is a failure, because it is what was asked for.
func (a *attempt) collect(ctx context.Context, o *outcome) {
	o.result.Artifacts = []api.TaskArtifact{}
	if len(a.task.Artifacts) > 0 {
		files, cancel := context.WithTimeout(ctx, collectTimeout)
		a.keepFiles(files, &o.result)
		cancel()
	}
	if a.task.ResultBranch == "" || ctx.Err() != nil {
		return
	}
	push, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	if err := a.push(push, &o.result); err != nil {
		detail := api.Redact(err).Detail
		o.kind, o.reason, o.result.ExitCode = failed, "the result branch was not pushed: "+detail, 1
		o.final = api.CodeOf(err) != api.CodeUnavailable
		if api.CodeOf(err) == api.CodeConflict {
			o.result.Conflict = detail
		}
	}
}

// keepFiles looks through the workspace for files that match the task's patterns.
func (a *attempt) keepFiles(ctx context.Context, result *api.TaskResult) {
	problem := func(format string, args ...any) {
		if len(result.Problems) < maxProblems {
			result.Problems = append(result.Problems, fmt.Sprintf(format, args...))
		}
	}
	left := a.s.cfg.MaxArtifacts
	dirs := []string{"."}
	for n := 0; len(dirs) > 0; n++ {
		if n == maxDirectories {
			problem("the workspace has more than %d directories; the rest was not looked through", maxDirectories)
			return
		}
		dir := dirs[0]
		dirs = dirs[1:]
		entries, err := a.listDir(ctx, dir)
		if err != nil {
			problem("%s was not looked through: %s", dir, api.Redact(err).Detail)
			if ctx.Err() != nil || api.CodeOf(err) == api.CodeUnavailable {
				return
			}
			continue
		}
		for _, f := range entries {
			switch {
			case f.Type == "directory" && path.Base(f.Path) != ".git" && a.mayHold(f.Path):
				dirs = append(dirs, f.Path)
			case f.Type != "file" || !a.wanted(f.Path):
			case len(result.Artifacts) == maxArtifactFiles:
				problem("more than %d files match; the rest was not kept", maxArtifactFiles)
				return
			default:
				kept, err := a.keepFile(ctx, f.Path, min(left, maxArtifactSize))
				if err != nil {
					problem("%s was not kept: %s", clip(f.Path, maxTitle), api.Redact(err).Detail)
					continue
				}
				left -= kept.Size
				result.Artifacts = append(result.Artifacts, kept)
			}
		}
	}
}

func (a *attempt) wanted(name string) bool {
	return slices.ContainsFunc(a.task.Artifacts, func(p string) bool { return matchPath(p, name) })
}

func (a *attempt) mayHold(dir string) bool {
	return slices.ContainsFunc(a.task.Artifacts, func(p string) bool { return matchBelow(strings.Split(p, "/"), strings.Split(dir, "/")) })
}

// matchPath reports whether a slash-separated path matches a pattern: path.Match for each part, and "**" for any number of parts.
func matchPath(pattern, name string) bool {
	return matchParts(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

// matchParts takes time in proportion to both, however often the pattern says "**".
func matchParts(pattern, name []string) bool {
	reached := make([]bool, len(name)+1) // by how many parts of name the pattern so far can have matched
	reached[0] = true
	for _, p := range pattern {
		next := make([]bool, len(name)+1)
		any := false
		for i := range reached {
			if p == "**" {
				any = any || reached[i]
				next[i] = any
			} else if reached[i] && i < len(name) {
				ok, err := path.Match(p, name[i])
				next[i+1] = err == nil && ok
			}
		}
		reached = next
	}
	return reached[len(name)]
}

// matchBelow reports whether something below dir may match.
func matchBelow(pattern, dir []string) bool {
	for i, part := range dir {
		if i >= len(pattern) {
			return false
		}
		if pattern[i] == "**" {
			return true
		}
		if ok, err := path.Match(pattern[i], part); err != nil || !ok {
			return false
		}
	}
	return len(pattern) > len(dir)
}

type workspaceEntry struct {
	Path string `json:"path"`
	Type string `json:"type"`
}

func (a *attempt) listDir(ctx context.Context, dir string) ([]workspaceEntry, error) {
	resp, err := a.runner(ctx, http.MethodGet, filesPath, url.Values{"path": {dir}}, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list struct {
		Items []workspaceEntry `json:"items"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&list); err != nil {
		return nil, api.Errorf(api.CodeUnavailable, "the listing cannot be read: %v", err)
	}
	return list.Items, nil
}

const filesPath = "/_yard/files"

// keepFile keeps a file, from its beginning again when its runner dies meanwhile.
func (a *attempt) keepFile(ctx context.Context, name string, limit int64) (api.TaskArtifact, error) {
	for n := 0; ; n++ {
		resp, err := a.runner(ctx, http.MethodGet, filesPath, url.Values{"path": {name}}, nil)
		if err != nil {
			return api.TaskArtifact{}, err
		}
		from := &answer{r: resp.Body}
		blob, err := a.s.blobs.Put(ctx, a.key.Tenant, a.key.ID, from, limit)
		_ = resp.Body.Close()
		switch {
		case err == nil:
			return api.TaskArtifact{Path: name, Size: blob.Size, SHA256: blob.SHA256, Blob: blob.ID}, nil
		case from.broke == nil:
			return api.TaskArtifact{}, err
		case !a.pause(ctx, n):
			return api.TaskArtifact{}, api.Errorf(api.CodeUnavailable, "the session's runner broke off: %w", from.broke)
		}
	}
}

// answer remembers how a runner's answer broke off.
type answer struct {
	r     io.Reader
	broke error
}

func (b *answer) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.broke = err
	}
	return n, err
}

// push has the runner commit the workspace's changes and push them. Asking again for the same attempt pushes the same commit, so it meets itself.
func (a *attempt) push(ctx context.Context, result *api.TaskResult) error {
	commit := api.TaskCommit{}
	if a.task.Commit != nil {
		commit = *a.task.Commit
	}
	if commit.Message == "" {
		commit.Message = "{{title}}\n\nTask {{id}}"
	}
	title := a.task.Title
	if title == "" {
		title = "Changes of task " + a.key.ID
	}
	message := expand(commit.Message, map[string]string{
		"id": a.key.ID, "title": title, "attempt": strconv.Itoa(a.task.Attempt), "summary": result.Summary,
	})
	body, err := json.Marshal(map[string]any{
		"branch": a.task.ResultBranch, "author": commit.Author, "email": commit.Email, "message": message, "at": a.task.StartedAt,
	})
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	resp, err := a.runner(ctx, http.MethodPost, "/_yard/push", nil, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var pushed struct {
		Branch string `json:"branch"`
		Commit string `json:"commit"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&pushed); err != nil {
		return errors.Join(api.Errorf(api.CodeUnavailable, "the runner's answer cannot be read"), err)
	}
	if result.Branch, result.Commit = pushed.Branch, pushed.Commit; pushed.Commit == "" {
		result.Problems = append(result.Problems, "nothing was changed, so no branch was pushed")
	}
	return nil
}

// expand puts values in the place of {{name}} in a template. What it puts in is not looked at again, and any other text stays as it is.
func expand(template string, values map[string]string) string {
	var pairs []string
	for name, value := range values {
		pairs = append(pairs, "{{"+name+"}}", value)
	}
	return strings.NewReplacer(pairs...).Replace(template)
}
