package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestCheck(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "admin.key")
	if err := os.WriteFile(keyFile, []byte("ay_key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked, away := map[string]int{}, 1
	yard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path]++
		switch {
		case r.Header.Get("Authorization") != "Bearer ay_key":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/ready" && asked["/ready"] <= away:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(yard.Close)
	quiet := slog.New(slog.DiscardHandler)
	check := func(ctx context.Context) error {
		return run(ctx, []string{"check", "-url", yard.URL, "-key-file", keyFile}, quiet)
	}
	if err := check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked["/ready"] != 2 || asked["/api/v1/users/me"] != 1 || asked["/api/v1/sessions"] != 1 || asked["/api/v1/tasks"] != 1 {
		t.Errorf("asked %v", asked)
	}
	t.Run("says what does not answer", func(t *testing.T) {
		mu.Lock()
		away = 1000
		mu.Unlock()
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := check(ctx); err == nil || !strings.Contains(err.Error(), "/health") {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnknownVerb(t *testing.T) {
	for _, args := range [][]string{nil, {"key"}, {"-h"}} {
		if err := run(t.Context(), args, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "keys, reload, check") {
			t.Errorf("%q: got %v", args, err)
		}
	}
}
