package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

// run runs a command line with the environment env ("NAME=value") and a home of its own.
func run(t *testing.T, env []string, stdin string, args ...string) (status int, out, errs string) {
	t.Helper()
	vars := map[string]string{"HOME": t.TempDir()}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	var o, e bytes.Buffer
	status = Main(t.Context(), args, Env{In: strings.NewReader(stdin), Out: &o, Err: &e, Getenv: func(n string) string { return vars[n] }})
	return status, o.String(), e.String()
}

// yard answers every request with status and body, and keeps the last Authorization.
func yard(t *testing.T, status int, body string) (url string, key *string) {
	t.Helper()
	key = new(string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*key = r.Header.Get("Authorization")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL, key
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		code api.Code
		http int
		want int
	}{
		{api.CodeInvalid, 400, exitUsage}, {api.CodeUnauthenticated, 401, exitDenied}, {api.CodeDenied, 403, exitDenied},
		{api.CodeNotFound, 404, exitNotFound}, {api.CodeConflict, 409, exitConflict}, {api.CodeExhausted, 429, exitExhausted},
		{api.CodeUnavailable, 503, exitTimeout}, {api.CodeInternal, 500, exitError},
	} {
		url, _ := yard(t, c.http, fmt.Sprintf(`{"code":%q,"detail":"the\u001b[31m detail\nof it"}`, c.code))
		// A write without idempotency key is not repeated, so the test takes no time.
		status, out, errs := run(t, []string{"AGENTYARD_URL=" + url}, "", "keys", "create", "x")
		if status != c.want || out != "" || !strings.HasPrefix(errs, "agentyard: the[31m detail of it") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: status %d, out %q, err %q", c.code, status, out, errs)
		}
	}
	for _, args := range [][]string{
		{"nonsense"}, {"session", "nonsense"}, {"session", "show"}, {"session", "show", "not-an-id"}, {"session", "list", "--nonsense"},
		{"session", "list", "-o", "xml"}, {"session", "create", "prompt without -m"}, {"session", "create", "--ref", "x"},
		{"session", "create", "--env", "NOT_SET_ANYWHERE"}, {"session", "create", "--label", "x"}, {"profile", "apply"},
	} {
		status, out, errs := run(t, []string{"AGENTYARD_URL=http://127.0.0.1:1"}, "", args...)
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, out %q, err %q", args, status, out, errs)
		}
	}
	for says, args := range map[string][]string{
		`unknown command "crate"; did you mean create?`:              {"session", "crate"},
		`unknown command "sesion"; did you mean session or version?`: {"sesion", "list"},
		"an argument is missing: want agentyard session show ID":     {"session", "show"},
		"2 arguments: want agentyard keys revoke ID":                 {"keys", "revoke", "a", "b"},
		"1 argument: want agentyard webhook create NAME URL [flags]": {"webhook", "create", "chat"},
	} {
		if _, _, errs := run(t, []string{"AGENTYARD_URL=http://127.0.0.1:1"}, "", args...); !strings.HasPrefix(errs, "agentyard: "+says) {
			t.Errorf("%q: %q, want %q", args, errs, says)
		}
	}
	if status, _, errs := run(t, nil, "", "session", "list"); status != exitError || !strings.Contains(errs, "agentyard up") {
		t.Errorf("without a server: %d %s", status, errs)
	}
}

func TestCredential(t *testing.T) {
	url, key := yard(t, 200, `{"id":"u1","name":"kim","tenant":"default","items":[]}`)
	other, otherKey := yard(t, 200, `{"items":[]}`)
	home := t.TempDir()
	env := []string{"HOME=" + home}

	status, out, errs := run(t, env, "key-of-login\n", "login", url+"/")
	if status != 0 || *key != "Bearer key-of-login" || !strings.Contains(out, "kim of tenant default") {
		t.Fatalf("login: %d %q %q with %q", status, out, errs, *key)
	}
	file := filepath.Join(home, ".config/agentyard/config.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the credential's file: %v, %v", info, err)
	}
	list := func(env ...string) string {
		t.Helper()
		*key, *otherKey = "", ""
		if status, _, errs := run(t, append([]string{"HOME=" + home}, env...), "", "keys", "list"); status != 0 {
			t.Fatalf("%q: %d %s", env, status, errs)
		}
		return *key + "|" + *otherKey
	}
	if got := list(); got != "Bearer key-of-login|" {
		t.Errorf("stored: %s", got)
	}
	if got := list("AGENTYARD_KEY=k"); got != "Bearer k|" {
		t.Errorf("key from the environment: %s", got)
	}
	if got := list("AGENTYARD_URL=" + other); got != "|" {
		t.Errorf("a key was sent to another server: %s", got)
	}
	if status, _, _ := run(t, env, "", "logout"); status != 0 {
		t.Error("logout")
	}
	data := filepath.Join(home, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"http.url": url + "\n", "admin.key": "key-of-yard\n"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := list("AGENTAPI_DATA=" + data); got != "Bearer key-of-yard|" {
		t.Errorf("local yard: %s", got)
	}
	if status, _, errs := run(t, env, "", "login", "ftp://x"); status != exitUsage {
		t.Errorf("login without a key: %d %s", status, errs)
	}
}

func TestEnvironment(t *testing.T) {
	a := &app{Env: Env{Getenv: func(n string) string { return map[string]string{"HERE": "value=1"}[n] }}}
	got, err := a.environment([]string{"HERE", "A=b=c", "EMPTY="})
	if err != nil || fmt.Sprint(got) != "map[A:b=c EMPTY: HERE:value=1]" {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"=x", "", "MISSING"} {
		var u usageError
		if _, err := a.environment([]string{bad}); !errors.As(err, &u) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRender(t *testing.T) {
	events := []api.Event{
		{Type: api.EventStatus, State: api.StateStarting, Reason: "cloning"},
		{Type: api.EventUserMessage, MessageID: "m1", Content: "two\nlines"},
		{Type: api.EventAgentMessageChunk, MessageID: "a1", Delta: "Hel"},
		{Type: api.EventAgentMessageChunk, MessageID: "a1", Delta: "lo\x1b]0;title\x07"},
		{Type: api.EventToolCall, ToolCallID: "t1", Title: "run ls", Kind: "execute", Status: "pending"},
		{Type: api.EventToolCall, ToolCallID: "t1", Status: "in_progress"},
		{Type: api.EventToolCall, ToolCallID: "t1", Status: "completed", Content: "a\nb\n"},
		{Type: api.EventToolCall, ToolCallID: "t2", Title: "rm\u202E", Status: "failed"},
		{Type: api.EventApprovalRequest, ApprovalID: "a9", Title: "Sure?", Options: []api.ApprovalOption{{Option: "yes", Label: "Yes"}, {Option: "no", Label: "Rather not"}}},
		{Type: api.EventApprovalAnswer, ApprovalID: "a9", Option: "yes"},
		{Type: api.EventAgentMessageChunk, MessageID: "a2", Delta: "done "},
		{Type: api.EventAgentMessage, MessageID: "a2", Content: "done for good"},
		{Type: api.EventAgentMessage, MessageID: "a3", Content: "whole"},
		{Type: api.EventGap, From: 3, To: 9},
		{Type: api.EventGap, From: 10, To: 5},
		{Type: "something_new", Content: "ignored"},
		{Type: api.EventStatus, State: api.StateFailed, Reason: "it broke"},
	}
	const want = `  starting  cloning
> two
> lines
Hello]0;title
* run ls
  a
  b
* rm
  failed
? Sure?  a9  [yes | no: Rather not]
  answered: yes
done for good
whole
! of events 3 to 9 not all are kept any more
! the server lost the newest events, and goes on from those before them
! the session failed: it broke
`
	var out bytes.Buffer
	r := (&app{Env: Env{Out: &out, Getenv: os.Getenv}}).renderer()
	for _, ev := range events {
		if err := r.event(ev); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestMatchOption(t *testing.T) {
	plain := []api.ApprovalOption{{Option: "yes"}, {Option: "no"}}
	kinds := []api.ApprovalOption{{Option: "allow_always_7", Kind: "allow_always"}, {Option: "allow_7", Kind: "allow_once"}, {Option: "reject_7", Kind: "reject_once"}}
	for _, c := range []struct {
		opts        []api.ApprovalOption
		typed, want string
	}{
		{plain, "y", "yes"}, {plain, "no", "no"}, {plain, "maybe", "maybe"}, {kinds, "y", "allow_7"}, {kinds, "yes", "allow_7"},
		{kinds, "n", "reject_7"}, {kinds, "allow_always_7", "allow_always_7"}, {nil, "y", "y"},
	} {
		if got := matchOption(c.opts, c.typed); got != c.want {
			t.Errorf("%s among %v is %s, want %s", c.typed, c.opts, got, c.want)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if status, out, errs := run(t, nil, "", "completion", shell); status != 0 || len(out) < 500 {
			t.Errorf("%s: %d %s", shell, status, errs)
		}
	}
	url, _ := yard(t, 200, `{"items":[{"id":"saaaaaaaaaaaaaaaa","title":"fix it","state":"running"}]}`)
	_, out, _ := run(t, []string{"AGENTYARD_URL=" + url}, "", "__complete", "session", "show", "")
	if !strings.HasPrefix(out, "saaaaaaaaaaaaaaaa\trunning fix it\n") {
		t.Errorf("session ids: %q", out)
	}
}

func TestMainEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var e bytes.Buffer
	status := Main(ctx, []string{"keys", "list"}, Env{In: strings.NewReader(""), Out: io.Discard, Err: &e, Getenv: func(n string) string {
		return map[string]string{"AGENTYARD_URL": "http://127.0.0.1:1"}[n]
	}})
	if status != exitInterrupted {
		t.Errorf("status %d: %s", status, &e)
	}
}
