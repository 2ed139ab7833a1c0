package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// yard is a standalone agentyard in a process of its own.
type yard struct {
	url, key, dir string
	cmd           *exec.Cmd
	client        *http.Client
}

// startYard builds agentyard and starts it on a fresh data directory. The rate limits
// are lifted, so that they are not what is measured.
func startYard(ctx context.Context) (*yard, error) {
	dir, err := os.MkdirTemp("", "agentyard-bench-")
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, "agentyard")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "agentyard.dev/services/standalone/cmd/agentyard")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build agentyard: %w", err)
	}
	y := &yard{dir: filepath.Join(dir, "data"), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}}
	y.cmd = exec.CommandContext(context.WithoutCancel(ctx), bin, "up", "--listen", "127.0.0.1:0", "--data", y.dir)
	y.cmd.Env = append(os.Environ(),
		"AGENTAPI_GATEWAY_PRINCIPAL_RATE=1e7", "AGENTAPI_GATEWAY_PRINCIPAL_BURST=10000000",
		"AGENTAPI_GATEWAY_ADDRESS_RATE=1e7", "AGENTAPI_GATEWAY_ADDRESS_BURST=10000000", "AGENTAPI_LOG_LEVEL=warn",
		"AGENTAPI_SESSIONS_MAX_PER_USER=1000", "AGENTAPI_SESSIONS_MAX_PER_TENANT=1000")
	stdout, err := y.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := y.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		y.stop()
		return nil, fmt.Errorf("wait for ready: %w", err)
	}
	y.url = strings.TrimSpace(strings.TrimPrefix(line, "ready "))
	key, err := os.ReadFile(filepath.Join(y.dir, "admin.key"))
	if err != nil {
		y.stop()
		return nil, err
	}
	y.key = strings.TrimSpace(string(key))
	return y, nil
}

// stop ends the yard with its sessions and removes its data.
func (y *yard) stop() {
	_ = y.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = y.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(45 * time.Second):
		_ = y.cmd.Process.Kill()
		<-done
	}
	_ = os.RemoveAll(filepath.Dir(y.dir))
}

func (y *yard) host() string { return strings.TrimPrefix(y.url, "http://") }

func (y *yard) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, y.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+y.key)
	return req, nil
}

// call asks the REST API and decodes the answer into out, if not nil.
func (y *yard) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := y.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := y.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// session creates a demo session and waits until it runs.
func (y *yard) session(ctx context.Context) (api.Session, error) {
	var s api.Session
	err := y.call(ctx, "POST", "/api/v1/sessions?wait=running", map[string]any{"agent": map[string]any{"kind": "demo"}}, &s)
	if err == nil && s.State != api.StateRunning {
		err = fmt.Errorf("session %s is %s: %s", s.ID, s.State, s.Reason)
	}
	return s, err
}

// record reads a session as the gateway sees it, for the runner's own endpoint.
func (y *yard) record(ctx context.Context, s api.Session) (api.SessionRecord, error) {
	conn, err := y.bus("gateway")
	if err != nil {
		return api.SessionRecord{}, err
	}
	defer func() { _ = conn.Close(ctx) }()
	l := bus.ReadLedger[api.SessionRecord](conn, "sessions")
	e, err := l.Get(ctx, bus.Key{Tenant: s.Tenant, ID: s.ID})
	return e.State, err
}

// bus connects to the yard's own bus with a service's credentials.
func (y *yard) bus(service string) (*bus.Conn, error) {
	keys, err := bus.OpenKeyring(filepath.Join(y.dir, "keys"))
	if err != nil {
		return nil, err
	}
	creds, err := keys.ServiceCredentials(service)
	if err != nil {
		return nil, err
	}
	url, err := os.ReadFile(filepath.Join(y.dir, "bus.url"))
	if err != nil {
		return nil, err
	}
	return bus.Connect(bus.Config{URL: strings.TrimSpace(string(url)), Credentials: creds, Name: service})
}

// events follows a session and calls f for each event until f returns false.
func (y *yard) events(ctx context.Context, id, query string, f func(api.Event) bool) error {
	req, err := y.request(ctx, "GET", "/api/v1/sessions/"+id+"/events"+query, nil)
	if err != nil {
		return err
	}
	resp, err := y.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("events: %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 4<<10), 4<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var ev api.Event
		if err := json.Unmarshal(data, &ev); err != nil {
			return err
		}
		if !f(ev) {
			return nil
		}
	}
	return lines.Err()
}
