package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the process that the signal tests start.
func TestMain(m *testing.M) {
	if mode := os.Getenv("DAEMON_TEST_PROCESS"); mode != "" {
		os.Exit(process(mode))
	}
	os.Exit(m.Run())
}

// process runs a daemon whose actor prints what it sees; mode "deaf" does not stop when told.
func process(mode string) int {
	d, err := New("process", "v0", Config{StopTimeout: time.Minute}, io.Discard)
	if err != nil {
		return 3
	}
	d.Add("work", func(ctx context.Context) error {
		fmt.Println("running")
		<-ctx.Done()
		fmt.Println("told")
		if mode == "deaf" {
			select {}
		}
		return ctx.Err()
	})
	if err := d.Run(context.Background()); err != nil {
		return 1
	}
	return 0
}

func TestSignals(t *testing.T) {
	start := func(t *testing.T, mode string) (*exec.Cmd, func(line string)) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "DAEMON_TEST_PROCESS="+mode)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		return cmd, func(want string) {
			t.Helper()
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("the process said %q (%v), want %q", lines.Text(), lines.Err(), want)
			}
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String()+" ends the process with status 0", func(t *testing.T) {
			cmd, says := start(t, "polite")
			says("running")
			_ = cmd.Process.Signal(sig)
			says("told")
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("a second signal ends it at once", func(t *testing.T) {
		cmd, says := start(t, "deaf")
		says("running")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		says("told")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGTERM) {
			t.Errorf("got %v, want status 143", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		"-log.level":     {LogLevel: "loud"},
		"-log.format":    {LogFormat: "xml"},
		"-otel.endpoint": {OTLP: "collector:4318"},
	} {
		if _, err := New("test", "v0", c, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error that names %s", c, err, want)
		}
	}
}
