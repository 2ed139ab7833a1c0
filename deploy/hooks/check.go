package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// checkTimeout is what the whole check may take: a yard that has just been installed becomes ready meanwhile.
	checkTimeout = 100 * time.Second
	checkEvery   = time.Second
	callTimeout  = 5 * time.Second
)

// runCheck asks the yard what needs each of its services, as the first admin, until all of it answers.
func runCheck(ctx context.Context, args []string, logger *slog.Logger) error {
	var url, keyFile string
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	fs.StringVar(&url, "url", "", "`URL` of the gateway")
	fs.StringVar(&keyFile, "key-file", "", "`file` with an API key")
	if err := fs.Parse(args); err != nil {
		return err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return fmt.Errorf("-key-file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	url = strings.TrimSuffix(url, "/")
	for _, path := range []string{
		"/health", "/ready", // the gateway, its bus
		"/api/v1/users/me",                     // auth
		"/api/v1/sessions", "/api/v1/profiles", // sessions
		"/api/v1/tasks", // scheduler
	} {
		if err := await(ctx, url+path, strings.TrimSpace(string(key))); err != nil {
			return err
		}
		logger.InfoContext(ctx, "answers", "path", path)
	}
	return nil
}

// await asks until the answer is 200.
func await(ctx context.Context, url, key string) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	var last error
	for {
		if last = ask(ctx, url, key); last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		}
	}
}

func ask(ctx context.Context, url, key string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("GET %s: %s: %s", url, resp.Status, text)
	}
	return nil
}
