package bus_test

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

func TestClientFlags(t *testing.T) {
	server, ring := bustest.New(t)
	creds, err := ring.ServiceCredentials("scheduler")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.creds"), filepath.Join(dir, "bad.creds")
	for file, content := range map[string][]byte{good: creds, bad: []byte("not credentials")} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	connect := func(t *testing.T, args ...string) (*bus.Conn, error) {
		t.Helper()
		var f bus.ClientFlags
		fs := flag.NewFlagSet("test", flag.ContinueOnError)
		f.Register(fs)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		return f.Connect("scheduler", slog.New(slog.DiscardHandler))
	}

	t.Run("connect as the service whose credentials the file holds", func(t *testing.T) {
		c, err := connect(t, "-bus.url", server.URL(), "-bus.credentials", good)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := c.Ready(ctx); err != nil {
			t.Error(err)
		}
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	for name, args := range map[string][]string{
		"refuse to be anonymous":       nil,
		"refuse a file that is absent": {"-bus.credentials", filepath.Join(dir, "absent")},
		"refuse what is no credential": {"-bus.credentials", bad},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := connect(t, args...)
			if err == nil {
				_ = c.Close(t.Context())
				t.Fatal("connected")
			}
			if strings.Contains(err.Error(), "not credentials") {
				t.Errorf("the error shows the file: %v", err)
			}
		})
	}
}
