package main

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

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// TestMain lets the test binary be the process that the tests start.
func TestMain(m *testing.M) {
	if os.Getenv("TCAGENT_TEST_PROCESS") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is the service as a real process.
type process struct {
	cmd   *exec.Cmd
	admin string       // its admin server's address
	log   bytes.Buffer // read it after the process has ended
	ended chan error
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, os.Args[0], args...), ended: make(chan error, 1)}
	p.cmd.Env = []string{"TCAGENT_TEST_PROCESS=1", "AGENTAPI_STOP_TIMEOUT=10s"}
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

// becomes polls path until it answers want.
func (p *process) becomes(t *testing.T, path string, want int) (body string) {
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
			if got = resp.StatusCode; got == want {
				return string(data)
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s answers %d after %v, want %d", path, got, patience, want)
		case <-tick.C:
		}
	}
}

func (p *process) stops(t *testing.T) {
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

func credentialsFile(t *testing.T, ring *bus.Keyring) string {
	t.Helper()
	creds, err := ring.ServiceCredentials(bus.NodeService)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tcagent.creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProcess(t *testing.T) {
	t.Run("becomes ready and stops when told", func(t *testing.T) {
		server, ring := bustest.New(t)
		p := start(t, "-bus.url", server.URL(), "-bus.credentials", credentialsFile(t, ring))
		p.becomes(t, "/ready", http.StatusOK)
		p.becomes(t, "/health", http.StatusOK)
		if metrics := p.becomes(t, "/metrics", http.StatusOK); !strings.Contains(metrics, `service="tcagent"`) {
			t.Error("/metrics does not say what runs")
		}
		p.stops(t)
	})
	t.Run("starts before the bus, survives its absence and stops without it", func(t *testing.T) {
		server, ring := bustest.New(t)
		url, dir := server.URL(), t.TempDir()
		server.Close()
		p := start(t, "-bus.url", url, "-bus.credentials", credentialsFile(t, ring))
		if body := p.becomes(t, "/ready", http.StatusServiceUnavailable); !strings.Contains(body, "tcagent") {
			t.Errorf("/ready does not name what is missing: %s", body)
		}
		p.becomes(t, "/health", http.StatusOK)

		again := bustest.Start(t, ring, dir, strings.TrimPrefix(url, "nats://"))
		p.becomes(t, "/ready", http.StatusOK)
		again.Close()
		p.becomes(t, "/ready", http.StatusServiceUnavailable)
		p.stops(t)
	})
	t.Run("refuses to be anonymous", func(t *testing.T) {
		p := start(t)
		var exit *exec.ExitError
		if err := <-p.ended; !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("got %v, want status 1", err)
		}
		if !strings.Contains(p.log.String(), "-bus.credentials") {
			t.Errorf("it does not say why: %s", p.log.String())
		}
	})
}
