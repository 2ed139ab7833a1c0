package sessions_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
)

// locked is a buffer that many may write to.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *locked) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf.Bytes())
}

func (y *yard) secret(ctx context.Context, scope api.Scope, name, value string) {
	y.t.Helper()
	if _, err := rpc.Call(ctx, y.client, api.PutSecret, api.PutSecretRequest{Name: name, Scope: scope, Value: value}); err != nil {
		y.t.Fatalf("put secret: %v", err)
	}
}

func (y *yard) profile(ctx context.Context, p api.Profile) {
	y.t.Helper()
	if p.Agent.Kind == "" {
		p.Agent.Kind = "demo"
	}
	if _, err := rpc.Call(ctx, y.client, api.CreateProfile, p); err != nil {
		y.t.Fatalf("create profile: %v", err)
	}
}

// sum has a session's agent hash what a command prints, so that the log need not hold it.
func (y *yard) sum(ctx context.Context, id, command string) string {
	y.t.Helper()
	m := y.send(ctx, id, "run "+command+" | sha256sum")
	return strings.Fields(y.answer(ctx, id, m.ID))[0]
}

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// nowhere fails if any of the values is in what the bus stored or in the logs, plain or in base64.
func (y *yard) nowhere(values ...string) {
	y.t.Helper()
	var needles [][]byte
	for _, v := range values {
		needles = append(needles, []byte(v), []byte(base64.StdEncoding.EncodeToString([]byte(v)))[:len(v)/2])
	}
	look := func(where string, data []byte) {
		for _, n := range needles {
			if bytes.Contains(data, n) {
				y.t.Errorf("%s holds %q", where, n)
			}
		}
	}
	found := false // what is there shows that the search works
	err := filepath.WalkDir(y.store, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		found = found || bytes.Contains(data, []byte(`"tenant":"`+api.HomeTenant+`"`))
		look(p, data)
		return err
	})
	if err != nil || !found {
		y.t.Errorf("the bus's files hold nothing of its sessions, %v", err)
	}
	logs, err := filepath.Glob(filepath.Join(y.dir, "sessions", "*", "runner.log"))
	if err != nil || len(logs) == 0 {
		y.t.Errorf("%d runners' logs, %v", len(logs), err)
	}
	for _, p := range logs {
		data, err := os.ReadFile(p)
		if err != nil {
			y.t.Error(err)
		}
		look(p, data)
	}
	if l, ok := y.logs.(*locked); !ok || len(l.bytes()) == 0 {
		y.t.Error("no log was looked at")
	} else {
		look("the service's log", l.bytes())
	}
}

func newSecretYard(t *testing.T, change func(*sessions.Config)) *yard {
	t.Helper()
	y := emptyYard(t, change)
	y.logs = &locked{}
	y.start()
	t.Cleanup(func() { y.removeAll(); y.stop() })
	return y
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	y := newSecretYard(t, nil)
	ana, ben, boss := y.as("ana"), y.as("ben"), y.as("boss", api.RoleAdmin)
	const own, shared, netrc = "ana-0wn-t0ken-value-7f3a9", "tenant-t0ken-value-55ab1", "machine example.com password hunter2-9931"
	y.secret(ana, "", "OWN", "first-value-that-is-replaced")
	y.secret(ana, api.ScopeUser, "OWN", own)
	y.secret(boss, api.ScopeTenant, "SHARED", shared)
	y.secret(boss, api.ScopeTenant, "netrc", netrc)
	y.secret(boss, api.ScopeTenant, "OWN", "the tenant's, which ana's own comes before")
	y.profile(boss, api.Profile{
		Name: "furnished", Env: map[string]string{"PLAIN": "p"},
		Secrets: []api.SecretRef{
			{Name: "OWN", Env: "OWN_TOKEN"}, {Name: "SHARED", Scope: api.ScopeTenant, Env: "SHARED_TOKEN"},
			{Name: "netrc", File: ".netrc"}, {Name: "absent", Env: "ABSENT", Optional: true},
		},
	})

	t.Run("a session's agent has them", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Profile: "furnished", Wait: "running"})
		for command, want := range map[string]string{
			`printf %s "$OWN_TOKEN"`: own, `printf %s "$SHARED_TOKEN"`: shared, `cat "$HOME/.netrc"`: netrc,
			`printf %s "$PLAIN${ABSENT-none}"`: "pnone", `stat -c %a "$HOME/.netrc"`: "600\n",
		} {
			if got := y.sum(ana, s.ID, command); got != sumOf(want) {
				t.Errorf("%s gives another value", command)
			}
		}
		// Once more after a pause, and what the request gives comes first.
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, s.ID, api.StatePaused)
		if got := y.sum(ana, s.ID, `printf %s "$OWN_TOKEN"`); got != sumOf(own) {
			t.Error("the resumed session has another value")
		}
		over := y.create(ana, api.CreateSessionRequest{Profile: "furnished", Env: map[string]string{"OWN_TOKEN": "mine"}, Wait: "running"})
		if got := y.sum(ana, over.ID, `printf %s "$OWN_TOKEN"`); got != sumOf("mine") {
			t.Error("the request's own value does not count")
		}
	})
	t.Run("names are listed, values never", func(t *testing.T) {
		page, err := rpc.Call(ana, y.client, api.ListSecrets, api.ListSecretsRequest{})
		if err != nil || len(page.Items) != 1 || page.Items[0].Name != "OWN" || page.Items[0].Scope != api.ScopeUser {
			t.Errorf("%+v, %v", page, err)
		}
		page, err = rpc.Call(boss, y.client, api.ListSecrets, api.ListSecretsRequest{Scope: api.ScopeTenant})
		data, _ := json.Marshal(page)
		if err != nil || len(page.Items) != 3 || bytes.Contains(data, []byte(shared)) {
			t.Errorf("%s, %v", data, err)
		}
	})
	t.Run("nobody else's are reached", func(t *testing.T) {
		_, err := rpc.Call(ana, y.client, api.ListSecrets, api.ListSecretsRequest{Scope: api.ScopeTenant})
		wantCode(t, err, api.CodeDenied, "admins")
		_, err = rpc.Call(ben, y.client, api.PutSecret, api.PutSecretRequest{Name: "X", Scope: api.ScopeTenant, Value: "v"})
		wantCode(t, err, api.CodeDenied, "admins")
		_, err = rpc.Call(ben, y.client, api.DeleteSecret, api.SecretRequest{Name: "OWN"})
		wantCode(t, err, api.CodeNotFound, "OWN")
		_, err = rpc.Call(y.as("vera", api.RoleViewer), y.client, api.ListSecrets, api.ListSecretsRequest{})
		wantCode(t, err, api.CodeDenied, "")
		s := y.create(ben, api.CreateSessionRequest{Profile: "furnished", Wait: "running"})
		if got := y.sum(ben, s.ID, `printf %s "$OWN_TOKEN"`); got == sumOf(own) {
			t.Error("ben's session has ana's secret")
		}
		y.profile(boss, api.Profile{Name: "own-only", Secrets: []api.SecretRef{{Name: "OWN", Scope: api.ScopeUser, Env: "T"}}})
		_, err = rpc.Call(ben, y.client, api.CreateSession, api.CreateSessionRequest{Profile: "own-only"})
		wantCode(t, err, api.CodeInvalid, `needs the secret "OWN"`)
		_, err = rpc.Call(y.as("other/eve", api.RoleAdmin), y.client, api.DeleteSecret, api.SecretRequest{Name: "SHARED", Scope: api.ScopeTenant})
		wantCode(t, err, api.CodeNotFound, "SHARED")
	})
	t.Run("a secret that was deleted fails the next start, and says so", func(t *testing.T) {
		y.secret(ana, "", "SHORT", "short-lived-value-123")
		y.profile(boss, api.Profile{Name: "short", Secrets: []api.SecretRef{{Name: "SHORT", Env: "T"}}})
		s := y.create(ana, api.CreateSessionRequest{Profile: "short", Wait: "running"})
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, s.ID, api.StatePaused)
		if _, err := rpc.Call(ana, y.client, api.DeleteSecret, api.SecretRequest{Name: "SHORT"}); err != nil {
			t.Fatal(err)
		}
		if _, err := rpc.Call(ana, y.client, api.ResumeSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		if got := y.reaches(ana, s.ID, api.StateFailed); !strings.Contains(got.Reason, `there is no secret "SHORT"`) {
			t.Errorf("reason %q", got.Reason)
		}
	})
	t.Run("requests and profiles that make no sense are refused", func(t *testing.T) {
		for _, req := range []api.PutSecretRequest{{Name: "a b", Value: "v"}, {Name: "A"}, {Name: "A", Value: strings.Repeat("x", 65<<10)}, {Name: "A", Value: "v", Scope: "world"}} {
			_, err := rpc.Call(boss, y.client, api.PutSecret, req)
			wantCode(t, err, api.CodeInvalid, "")
		}
		for field, p := range map[string]api.Profile{
			"/secrets/0/name":              {Secrets: []api.SecretRef{{Name: "a.b", Env: "X"}}},
			"/secrets/0":                   {Secrets: []api.SecretRef{{Name: "A"}}},
			"/secrets/0/env":               {Secrets: []api.SecretRef{{Name: "A", Env: "LD_PRELOAD"}}},
			"/secrets/1/env":               {Secrets: []api.SecretRef{{Name: "A", Env: "X"}, {Name: "B", Env: "X"}}},
			"/secrets/0/file":              {Secrets: []api.SecretRef{{Name: "A", File: "../escape"}}},
			"/mcp_servers/0/command":       {MCPServers: []api.MCPServer{{Name: "m"}}},
			"/mcp_servers/0/url":           {MCPServers: []api.MCPServer{{Name: "m", Type: "http", URL: "https://user:pass@example.com"}}},
			"/mcp_servers/0/type":          {MCPServers: []api.MCPServer{{Name: "m", Type: "carrier-pigeon"}}},
			"/mcp_servers/0/Auth":          {MCPServers: []api.MCPServer{{Name: "m", Type: "sse", URL: "https://example.com", Headers: map[string]string{"Auth": "${secret:a b}"}}}},
			"/credentials/files/0":         {Credentials: &api.CredentialSync{Files: []string{"/etc/shadow"}}},
			"/credentials/files/0: is the": {Secrets: []api.SecretRef{{Name: "A", File: "f"}}, Credentials: &api.CredentialSync{Files: []string{"f"}}},
		} {
			p.Name, p.Agent.Kind = "bad", "demo"
			_, err := rpc.Call(boss, y.client, api.CreateProfile, p)
			wantCode(t, err, api.CodeInvalid, field)
		}
	})
	y.nowhere(own, shared, netrc, "first-value-that-is-replaced", "short-lived-value-123")
}

func TestMCPServers(t *testing.T) {
	t.Parallel()
	y := newSecretYard(t, nil)
	ana, boss := y.as("ana"), y.as("boss", api.RoleAdmin)
	const key = "mcp-api-key-value-81c2"
	y.secret(ana, "", "MCP_KEY", key)
	servers := []api.MCPServer{
		{Name: "files", Command: "mcp-files", Args: []string{"--root", "."}, Env: map[string]string{"KEY": "${secret:MCP_KEY}"}},
		{Name: "remote", Type: "http", URL: "https://mcp.example.com/v1", Headers: map[string]string{"Authorization": "Bearer ${secret:MCP_KEY}"}},
		{Name: "events", Type: "sse", URL: "https://mcp.example.com/sse"},
	}
	// It keeps what it is told, and does no more.
	const acp = `while read -r l; do id=$(printf %s "$l" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
case "$l" in
*'"initialize"'*) echo '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":1,"agentCapabilities":{"mcpCapabilities":{"http":true}}}}';;
*session/new*) printf %s "$l" > "$HOME/new.json"; echo '{"jsonrpc":"2.0","id":'$id',"result":{"sessionId":"x"}}';;
esac; done`
	const claude = `printf '%s\n' "$@" > "$HOME/args"; while read -r l; do
case "$l" in *'"initialize"'*) echo '{"type":"control_response","response":{"subtype":"success","request_id":"yard-1","response":{}}}';; esac; done`
	read := func(id, name string) string {
		data, err := os.ReadFile(filepath.Join(y.dir, "sessions", id, "home", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	t.Run("an agent that speaks ACP is told of those that it can reach", func(t *testing.T) {
		y.profile(boss, api.Profile{Name: "acp", MCPServers: servers, Agent: api.Agent{Kind: "acp", Command: []string{"sh", "-c", acp}}})
		s := y.create(ana, api.CreateSessionRequest{Profile: "acp", Wait: "running"})
		y.reaches(ana, s.ID, api.StateRunning)
		var got struct {
			Params struct {
				Servers json.RawMessage `json:"mcpServers"`
			} `json:"params"`
		}
		if err := json.Unmarshal([]byte(read(s.ID, "new.json")), &got); err != nil {
			t.Fatal(err)
		}
		want := `[{"name":"files","command":"mcp-files","args":["--root","."],"env":[{"name":"KEY","value":"` + key + `"}]},` +
			`{"type":"http","name":"remote","url":"https://mcp.example.com/v1","headers":[{"name":"Authorization","value":"Bearer ` + key + `"}]}]`
		if string(got.Params.Servers) != want {
			t.Errorf("%s\nwant %s", got.Params.Servers, want)
		}
	})
	t.Run("Claude Code reads them from a file, not from its arguments", func(t *testing.T) {
		y.profile(boss, api.Profile{Name: "claude", MCPServers: servers, Agent: api.Agent{Kind: "claude", Command: []string{"sh", "-c", claude, "claude"}}})
		s := y.create(ana, api.CreateSessionRequest{Profile: "claude", Wait: "running"})
		y.reaches(ana, s.ID, api.StateRunning)
		args := strings.Split(read(s.ID, "args"), "\n")
		path := ""
		for i, a := range args {
			if a == "--mcp-config" {
				path = args[i+1]
			}
			if strings.Contains(a, key) {
				t.Errorf("the key is an argument: %q", a)
			}
		}
		if path != filepath.Join(y.dir, "sessions", s.ID, "home", ".agentyard", "mcp.json") {
			t.Fatalf("told of %q", path)
		}
		var got struct {
			Servers map[string]struct {
				Type    string            `json:"type"`
				Command string            `json:"command"`
				Env     map[string]string `json:"env"`
				Headers map[string]string `json:"headers"`
			} `json:"mcpServers"`
		}
		if err := json.Unmarshal([]byte(read(s.ID, ".agentyard/mcp.json")), &got); err != nil {
			t.Fatal(err)
		}
		if m := got.Servers; len(m) != 3 || m["files"].Type != "stdio" || m["files"].Env["KEY"] != key || m["remote"].Headers["Authorization"] != "Bearer "+key {
			t.Errorf("%+v", m)
		}
	})
	y.nowhere(key)
}

func TestSecretKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	y := newSecretYard(t, nil)
	ana, boss := y.as("ana"), y.as("boss", api.RoleAdmin)
	y.secret(ana, "", "TOKEN", "sealed-twice-value")
	y.profile(boss, api.Profile{Name: "p", Secrets: []api.SecretRef{{Name: "TOKEN", Env: "TOKEN"}}})
	box := func() (key string) {
		ledger := bus.ReadLedger[struct {
			Value struct {
				Key string `json:"key"`
			} `json:"value"`
		}](sessionsConn(y), "secrets")
		e, err := ledger.Get(t.Context(), bus.Key{Tenant: api.HomeTenant, ID: userID("ana") + "_TOKEN"})
		if err != nil {
			t.Fatal(err)
		}
		return e.State.Value.Key
	}
	seen := map[string]bool{box(): true}
	line := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n" }
	for i, text := range []string{line(1), line(2) + line(1), line(2)} { // a first key, its successor, and the first is taken away
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		y.stop()
		y.cfg.SecretKeysFile = file
		y.start()
		fresh := i < 2
		y.eventually(fmt.Sprint("it is sealed as the keys demand, ", i), func() bool { return seen[box()] != fresh })
		seen[box()] = true
		s := y.create(ana, api.CreateSessionRequest{Profile: "p", Wait: "running"})
		if got := y.sum(ana, s.ID, `printf %s "$TOKEN"`); got != sumOf("sealed-twice-value") {
			t.Errorf("round %d: another value", i)
		}
	}
	if len(seen) != 3 {
		t.Errorf("sealed with %d keys, want 3", len(seen))
	}
	y.nowhere("sealed-twice-value")
}
