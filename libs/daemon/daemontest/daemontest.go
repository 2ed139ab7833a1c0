// Package daemontest starts a service's command as the process that it is in production, against a real bus, and says what every
// such process promises (Command.Test).
package daemontest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

const (
	// patience is how long a test waits for what must come.
	patience = 30 * time.Second
	// marker is the variable of the environment by which a test binary knows that it is the command.
	marker = "DAEMONTEST_COMMAND"
)

// Main is for TestMain: it lets the test binary be the command whose main is given, when Start has started it.
func Main(m *testing.M, main func()) {
	if os.Getenv(marker) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Process is a command that runs.
type Process struct {
	cmd   *exec.Cmd
	admin string       // its admin server's address; empty when it ended before it had one
	log   bytes.Buffer // read it after the process has ended
	ended chan error
}

// Start starts the command and waits until its admin server listens, or it has ended. It is killed when the test ends.
func Start(t *testing.T, args ...string) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	p := &Process{cmd: exec.CommandContext(ctx, os.Args[0], args...), ended: make(chan error, 1)}
	p.cmd.Env = []string{marker + "=1", "AGENTAPI_STOP_TIMEOUT=10s"}
	out, in := io.Pipe()
	p.cmd.Stderr = io.MultiWriter(in, &p.log)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := p.cmd.Wait()
		_ = in.Close()
		p.ended <- err
	}()
	admin := make(chan string, 1)
	go func() {
		defer close(admin)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var line struct{ Msg, Admin string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "started" {
				admin <- line.Admin
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // fails when it has ended, as it should
	})
	p.admin = <-admin
	return p
}

// Becomes polls a path of the admin server until it answers with a status, and returns the body.
func (p *Process) Becomes(t *testing.T, path string, want int) (body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	got := 0
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			data, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if got, body = resp.StatusCode, string(data); got == want {
				return body
			}
		}
		select {
		case <-ctx.Done():
			p.Kill()
			t.Fatalf("%s answers %d after %v, want %d: %s\n%s", path, got, patience, want, body, p.log.String())
		case <-tick.C:
		}
	}
}

// Kill kills the process and returns when it has ended.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails when it has ended already
	<-p.ended
}

// Stops asks the process to stop and waits until it has, without an error.
func (p *Process) Stops(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("ended with %v\n%s", err, p.log.String())
		}
	case <-time.After(patience):
		t.Error("did not stop")
	}
}

// Command is a service's command.
type Command struct {
	Name string // as its metrics and its readiness say it
	Role string // whose credentials for the bus it has
	// Args returns the arguments beside those for the bus; nil: none.
	Args func(t *testing.T, ring *bus.Keyring) []string
	// Prepare does what other services do before this one can be ready; nil: nothing.
	Prepare func(t *testing.T, server *bus.Server, ring *bus.Keyring)
}

// Test checks what every command promises: it becomes ready, and stops when told; it starts before the bus, survives its absence and says so,
// and stops without it; it does not run without credentials.
func (c Command) Test(t *testing.T) {
	prepare := c.Prepare
	if prepare == nil {
		prepare = func(*testing.T, *bus.Server, *bus.Keyring) {}
	}
	t.Run("becomes ready and stops when told", func(t *testing.T) {
		server, ring := bustest.New(t)
		prepare(t, server, ring)
		p := Start(t, c.connected(t, server.URL(), ring)...)
		p.Becomes(t, "/ready", http.StatusOK)
		p.Becomes(t, "/health", http.StatusOK)
		if metrics := p.Becomes(t, "/metrics", http.StatusOK); !strings.Contains(metrics, `service="`+c.Name+`"`) {
			t.Error("/metrics does not say what runs")
		}
		p.Stops(t)
	})
	t.Run("starts before the bus, survives its absence and stops without it", func(t *testing.T) {
		server, ring := bustest.New(t)
		url, dir := server.URL(), t.TempDir()
		server.Close()
		p := Start(t, c.connected(t, url, ring)...)
		if body := p.Becomes(t, "/ready", http.StatusServiceUnavailable); !strings.Contains(body, c.Name) {
			t.Errorf("/ready does not name what is missing: %s", body)
		}
		p.Becomes(t, "/health", http.StatusOK)

		again := bustest.Start(t, ring, dir, strings.TrimPrefix(url, "nats://"))
		prepare(t, again, ring)
		p.Becomes(t, "/ready", http.StatusOK)
		again.Close()
		p.Becomes(t, "/ready", http.StatusServiceUnavailable)
		p.Stops(t)
	})
	t.Run("refuses to be anonymous", func(t *testing.T) {
		ring, err := bus.OpenKeyring(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		p := Start(t, c.args(t, ring)...)
		var exit *exec.ExitError
		if err := <-p.ended; !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("got %v, want status 1", err)
		}
		if !strings.Contains(p.log.String(), "-bus.credentials") {
			t.Errorf("it does not say why: %s", p.log.String())
		}
	})
}

// connected returns the arguments of a command that reaches the bus.
func (c Command) connected(t *testing.T, url string, ring *bus.Keyring) []string {
	t.Helper()
	return append([]string{"-bus.url", url, "-bus.credentials", Credentials(t, ring, c.Role)}, c.args(t, ring)...)
}

func (c Command) args(t *testing.T, ring *bus.Keyring) []string {
	t.Helper()
	if c.Args == nil {
		return nil
	}
	return c.Args(t, ring)
}

// Credentials returns a file with a role's credentials for the bus.
func Credentials(t *testing.T, ring *bus.Keyring, role string) string {
	t.Helper()
	creds, err := ring.ServiceCredentials(role)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), role+".creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
