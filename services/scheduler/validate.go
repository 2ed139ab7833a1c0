package scheduler

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"agentyard.dev/libs/api"
)

// Bounds of what a request may carry, beside those of the session that a task will need.
const (
	maxText      = 1 << 20 // of a prompt or a command
	maxTitle     = 200
	maxName      = 100
	maxLabels    = 32
	maxLabel     = 255 // of a label's key or value, and of a concurrency or rate key
	maxDepends   = 100
	maxArtifacts = 32 // patterns
	maxAttempts  = 100
	maxEnv       = 128
	maxEnvBytes  = 32 << 10
	maxKey       = 255 // of an idempotency key
	maxURL       = 2048
	maxDuration  = 366 * 24 * time.Hour
	maxNotify    = 16
)

// clip bounds a text that is shown to a person.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// checkSpec adds what is wrong with a spec, whose fields are below pointer at. Dependencies are checked by their order.
func (s *Service) checkSpec(bad *api.Problems, at string, spec *api.TaskSpec, p api.Principal) {
	bad.Line(at+"/name", spec.Name, maxName)
	bad.Line(at+"/title", spec.Title, maxTitle)
	switch {
	case (spec.Prompt == "") == (spec.Command == ""):
		bad.Add(at+"/prompt", "give either a prompt or a command")
	case len(spec.Prompt) > maxText || len(spec.Command) > maxText:
		bad.Add(at+"/prompt", "must be at most %d bytes", maxText)
	case !utf8.ValidString(spec.Prompt) || !utf8.ValidString(spec.Command) || strings.ContainsRune(spec.Command, 0):
		bad.Add(at+"/prompt", "is not UTF-8")
	}
	if _, ok := s.queue(spec.Queue); !ok {
		bad.Add(at+"/queue", "there is no queue %q", clip(spec.Queue, 40))
	}
	if spec.Profile != "" && !api.ValidName(spec.Profile) {
		bad.Add(at+"/profile", "is not a profile's name")
	}
	if spec.Command != "" && spec.Agent != nil {
		bad.Add(at+"/agent", "a command has no agent")
	}
	if spec.Agent != nil && spec.Profile == "" { // a profile may have a command
		bad.Command(at+"/agent", *spec.Agent)
	}
	checkRepository(bad, at+"/repository", spec.Repository)
	checkEnv(bad, at+"/env", spec.Env)
	if n := spec.Priority; n != nil && (*n < 0 || *n > api.MaxPriority) {
		bad.Add(at+"/priority", "must be between 0 and %d", api.MaxPriority)
	}
	if d := spec.Deadline; d != nil && !d.After(s.now()) {
		bad.Add(at+"/deadline", "has passed")
	}
	if d, b := spec.Deadline, spec.NotBefore; d != nil && b != nil && !d.After(*b) {
		bad.Add(at+"/not_before", "must be before the deadline")
	}
	checkDuration(bad, at+"/timeout", spec.Timeout)
	if r := spec.Retry; r != nil {
		if r.MaxAttempts < 0 || r.MaxAttempts > maxAttempts {
			bad.Add(at+"/retry/max_attempts", "must be between 1 and %d", maxAttempts)
		}
		checkDuration(bad, at+"/retry/backoff", r.Backoff)
		checkDuration(bad, at+"/retry/max_backoff", r.MaxBackoff)
	}
	if f := spec.OnFailure; f != "" && f != api.ParentFail && f != api.ParentCancel && f != api.ParentRun {
		bad.Add(at+"/on_parent_failure", `must be "fail", "cancel" or "run"`)
	}
	if len(spec.DependsOn) > maxDepends {
		bad.Add(at+"/depends_on", "has %d tasks; at most %d are allowed", len(spec.DependsOn), maxDepends)
	}
	bad.Line(at+"/concurrency_key", spec.ConcurrencyKey, maxLabel)
	bad.Line(at+"/rate_key", spec.RateKey, maxLabel)
	checkLabels(bad, at+"/labels", spec.Labels)
	s.checkSession(bad, at, spec, p)
	checkResult(bad, at, spec)
	s.checkNotify(bad, at, spec, p)
}

func (s *Service) checkSession(bad *api.Problems, at string, spec *api.TaskSpec, p api.Principal) {
	if spec.Session == nil || spec.Session.Reuse == "" {
		return
	}
	if spec.Session.Own {
		bad.Add(at+"/session/own", "contradicts reuse")
	}
	at += "/session/reuse"
	id := spec.Session.Reuse
	e, ok := s.sessions.Get(keyIn(p.Tenant, id))
	switch {
	case !api.ValidID(api.KindSession, id) || !ok || e.State.Owner != p.ID:
		bad.Add(at, "you have no session %q", clip(id, 40))
	case e.State.State.Final() || e.State.State == api.StateStopping:
		bad.Add(at, "the session is %s", e.State.State)
	case spec.Command != "" && e.State.Agent.Kind != commandKind:
		bad.Add(at, "a command runs in a session of the kind %q only", commandKind)
	case spec.Repository != nil || spec.Profile != "" || spec.Agent != nil || len(spec.Env) > 0:
		bad.Add(at, "a session that exists has its profile, repository, agent and environment already")
	}
}

// checkRepository refuses a URL with a sign-in in it, which would be kept and shown with the task. What else is wrong with it, the session that clones it says.
func checkRepository(bad *api.Problems, at string, r *api.Repository) {
	if r == nil {
		return
	}
	bad.Line(at+"/url", r.URL, maxURL)
	bad.Line(at+"/ref", r.Ref, maxLabel)
	scheme, rest, ok := strings.Cut(r.URL, "://")
	if !ok {
		scheme, rest = "", r.URL
		if !strings.HasPrefix(rest, "/") { // user@host:path, as of scp
			scheme = "ssh"
		}
	}
	authority, _, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = authority[:i]
	} else {
		authority = ""
	}
	switch {
	case r.URL == "":
		bad.Add(at+"/url", "is required")
	case strings.Contains(authority, ":"), authority != "" && scheme != "ssh":
		bad.Add(at+"/url", "must not hold a user name, a password or a token; store it as a secret of the profile instead")
	}
}

func checkDuration(bad *api.Problems, at string, d api.Duration) {
	if d < 0 || d.D() > maxDuration {
		bad.Add(at, "must be between 0 and %s", maxDuration)
	}
}

func checkEnv(bad *api.Problems, at string, env map[string]string) {
	size := 0
	for k, v := range env {
		size += len(k) + len(v)
	}
	if len(env) > maxEnv || size > maxEnvBytes {
		bad.Add(at, "at most %d variables and %d bytes are allowed", maxEnv, maxEnvBytes)
	}
}

func checkLabels(bad *api.Problems, at string, labels map[string]string) {
	if len(labels) > maxLabels {
		bad.Add(at, "has %d labels; at most %d are allowed", len(labels), maxLabels)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if v := labels[k]; k == "" || len(k) > maxLabel || len(v) > maxLabel || !utf8.ValidString(k+v) || strings.ContainsFunc(k+v, api.IsControl) || strings.Contains(k, "=") {
			bad.Add(at, "keys and values are one line of at most %d bytes, and a key holds no '='", maxLabel)
			return
		}
	}
}

func checkResult(bad *api.Problems, at string, spec *api.TaskSpec) {
	if len(spec.Artifacts) > maxArtifacts {
		bad.Add(at+"/artifacts", "has %d patterns; at most %d are allowed", len(spec.Artifacts), maxArtifacts)
	}
	for i, pattern := range spec.Artifacts {
		if !validPattern(pattern) {
			bad.Add(at+"/artifacts/"+strconv.Itoa(i), "is not a pattern of a path in the workspace, such as reports/*.xml or **/*.log")
		}
	}
	if spec.ResultBranch == "" {
		return
	}
	if !validBranch(spec.ResultBranch) {
		bad.Add(at+"/result_branch", "is not a branch's name")
	}
	if spec.Repository == nil && (spec.Session == nil || spec.Session.Reuse == "") {
		bad.Add(at+"/result_branch", "needs a repository")
	}
	if c := spec.Commit; c != nil {
		bad.Line(at+"/commit/author", c.Author, maxName)
		bad.Line(at+"/commit/email", c.Email, maxName)
		if strings.ContainsAny(c.Author+c.Email, "<>") {
			bad.Add(at+"/commit/author", "must not hold < or >")
		}
		if len(c.Message) > 8<<10 || !utf8.ValidString(c.Message) || strings.ContainsRune(c.Message, 0) {
			bad.Add(at+"/commit/message", "must be text of at most 8192 bytes")
		}
	}
}

// validBranch is a narrow reading of git check-ref-format.
func validBranch(name string) bool {
	if name == "" || len(name) > 200 || name[0] == '-' || strings.HasSuffix(name, ".lock") || strings.Contains(name, "..") || strings.Contains(name, "@{") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || part[len(part)-1] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return false
		}
	}
	return true
}

// validPattern reports whether pattern can match paths below the workspace.
func validPattern(pattern string) bool {
	if pattern == "" || len(pattern) > 500 || strings.HasPrefix(pattern, "/") || !utf8.ValidString(pattern) || strings.ContainsFunc(pattern, api.IsControl) {
		return false
	}
	for part := range strings.SplitSeq(pattern, "/") {
		if _, err := path.Match(part, ""); err != nil || part == ".." || part == "" || part == "." {
			return false
		}
	}
	return true
}
