package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// TestMain lets the test binary be the process that the tests start.
func TestMain(m *testing.M) {
	if os.Getenv("AUTH_TEST_PROCESS") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type process struct {
	*exec.Cmd
	log bytes.Buffer // read it after the process has ended
}

func start(t *testing.T, srv *bus.Server, ring *bus.Keyring, dir string) *process {
	t.Helper()
	creds, err := ring.ServiceCredentials("auth")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "auth.creds"), creds, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	p := &process{Cmd: exec.CommandContext(ctx, os.Args[0], "-bus.url", srv.URL(), "-auth.bootstrap-key-file", filepath.Join(dir, "admin.key"))}
	p.Env = []string{
		"AUTH_TEST_PROCESS=1", "AGENTAPI_BUS_CREDENTIALS=" + filepath.Join(dir, "auth.creds"),
		"AGENTAPI_AUTH_SECRET_FILE=" + filepath.Join(dir, "auth.secret"), "AGENTAPI_STOP_TIMEOUT=10s",
	}
	p.Stderr = &p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill() // fails when it has ended, as it should
	})
	return p
}

// signIn exchanges the bootstrap key as soon as there is one and somebody answers.
func signIn(t *testing.T, client *rpc.Client, dir string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		key, err := os.ReadFile(filepath.Join(dir, "admin.key"))
		if err == nil {
			var resp api.TokenResponse
			resp, err = rpc.Call(ctx, client, api.Exchange, api.ExchangeRequest{Key: strings.TrimSpace(string(key))})
			if err == nil {
				return token.WithRaw(ctx, resp.AccessToken)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nobody can sign in: %v", err)
		}
	}
}

// The process is killed at ever later moments of its first start, then stopped as it should be; what it had said stays true.
func TestKilled(t *testing.T) {
	srv, ring := bustest.New(t)
	client := rpc.NewClient(bustest.Connect(t, srv, ring, "gateway"), rpc.ClientConfig{Name: "gateway"})
	dir := t.TempDir()
	for n := range 8 {
		p := start(t, srv, ring, dir)
		// The moment is the thing under test: it wanders from before the bus is reached to after the bootstrap.
		<-time.After(time.Duration(n) * 20 * time.Millisecond)
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	p := start(t, srv, ring, dir)
	ctx := signIn(t, client, dir)
	for name, list := range map[string]func() (int, error){
		"tenants": func() (int, error) {
			l, err := rpc.Call(ctx, client, api.ListTenants, api.List{})
			return len(l.Items), err
		},
		"users": func() (int, error) {
			l, err := rpc.Call(ctx, client, api.ListUsers, api.ListUsersRequest{})
			return len(l.Items), err
		},
		"keys": func() (int, error) {
			l, err := rpc.Call(ctx, client, api.ListKeys, api.ListKeysRequest{})
			return len(l.Items), err
		},
	} {
		if n, err := list(); n != 1 || err != nil {
			t.Errorf("%d %s: %v", n, name, err)
		}
	}
	made, err := rpc.Call(ctx, client, api.CreateKey, api.CreateKeyRequest{Name: "kept"})
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Process.Kill()
	_ = p.Wait()

	p = start(t, srv, ring, dir)
	signIn(t, client, dir)
	if _, err := rpc.Call(ctx, client, api.Exchange, api.ExchangeRequest{Key: made.Secret}); err != nil {
		t.Errorf("a key of before: %v", err)
	}
	if _, err := rpc.Call(ctx, client, api.GetMe, api.None{}); err != nil {
		t.Errorf("a token of before: %v", err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("a stop: %v\n%s", err, &p.log)
	}
	if strings.Contains(p.log.String(), "ay_") {
		t.Error("a key is in the log")
	}
}

func TestFlags(t *testing.T) {
	none := func(string) string { return "" }
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no credentials":      {nil, "-bus.credentials is not set"},
		"missing credentials": {[]string{"-bus.credentials", "/nonexistent"}, "no such file"},
		"a token for a day":   {[]string{"-auth.token-ttl", "24h"}, "-auth.token-ttl"},
		"a hasty rotation":    {[]string{"-auth.rotate-every", "1s"}, "-auth.rotate-every"},
		"a short memory":      {[]string{"-auth.audit-max-age", "1m"}, "-auth.audit-max-age"},
		"no copy at all":      {[]string{"-auth.ledger-replicas", "-1"}, "-auth.ledger-replicas"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), c.args, none); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("help", func(t *testing.T) {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		stderr := os.Stderr
		os.Stderr = null
		defer func() { os.Stderr = stderr; _ = null.Close() }()
		if err := run(t.Context(), []string{"-h"}, none); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("got %v", err)
		}
	})
}
