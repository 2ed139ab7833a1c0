package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 30 * time.Second

// TestMain is also the process that is told to read its configuration again.
func TestMain(m *testing.M) {
	if os.Getenv("HOOKS_TEST_SERVER") != "" {
		serve()
		return
	}
	os.Exit(m.Run())
}

// serve prints each SIGHUP.
func serve() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	fmt.Println("serving")
	for range signals {
		fmt.Println("hangup")
	}
}

func TestReload(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells processes' names in /proc, and pods run on Linux")
	}
	dir := t.TempDir()
	const name = "yard-hup-test" // at most 15 bytes: what /proc/PID/comm holds
	program := filepath.Join(dir, name)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(program)
	server.Env = append(os.Environ(), "HOOKS_TEST_SERVER=1")
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 10)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	next := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("waited in vain for %q", want)
		}
	}
	next("serving")

	files := filepath.Join(dir, "files")
	mount := func(version string) { // as the kubelet does it: a folder, and a link that is replaced
		t.Helper()
		folder := filepath.Join(files, ".."+version)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, step := range []error{
			os.WriteFile(filepath.Join(folder, "trust.conf"), []byte(version), 0o600),
			os.Symlink(".."+version, filepath.Join(files, "..new")),
			os.Rename(filepath.Join(files, "..new"), filepath.Join(files, "..data")),
		} {
			if step != nil {
				t.Fatal(step)
			}
		}
	}
	mount("1")
	if err := os.Symlink("..data/trust.conf", filepath.Join(files, "trust.conf")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	log := &lineLog{lines: make(chan string, 100)}
	go func() {
		ended <- run(ctx, []string{"reload", "-process", name, "-every", "5ms", "-dir", files}, slog.New(slog.NewTextHandler(log, nil)))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	log.await(t, "watching")
	mount("2")
	next("hangup")
	mount("3")
	next("hangup")
}

// lineLog hands on what is logged.
type lineLog struct{ lines chan string }

func (l *lineLog) Write(p []byte) (int, error) {
	select {
	case l.lines <- string(p):
	default:
	}
	return len(p), nil
}

func (l *lineLog) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-l.lines:
			if strings.Contains(line, text) {
				return
			}
		case <-deadline:
			t.Fatalf("waited in vain for the log to say %q", text)
		}
	}
}
