package yardtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Binary returns the path of one of the commands: agentyard, auth, sessions, gateway, scheduler, tcagent or tccontroller.
func Binary(t testing.TB, name string) string {
	t.Helper()
	return binary(t, name)
}

// oneProcess is "agentyard up".
func (y *Yard) oneProcess(t testing.TB, env []string) []*process {
	return []*process{{
		name: "agentyard", env: env,
		argv: []string{binary(t, "agentyard"), "up", "--listen", strings.TrimPrefix(y.URL, "http://"), "--data", y.Dir},
	}}
}

// apart is the bus and every service as processes of their own. They start in any order; the credentials are
// there before, as an operator's would be.
func (y *Yard) apart(t testing.TB, env []string) []*process {
	t.Helper()
	busAddress := freeAddress(t)
	agentyard := binary(t, "agentyard")
	run(t, env, agentyard, "bus", "init", "--data", y.Dir)
	creds := filepath.Join(y.Dir, "creds")
	procs := []*process{{
		name: "bus", env: env,
		argv: []string{agentyard, "bus", "serve", "--listen", busAddress, "--data", y.Dir},
	}}
	for _, service := range []struct {
		name string
		args []string
	}{
		{"tccontroller", nil},
		{"auth", []string{
			"-auth.secret-file", filepath.Join(y.Dir, "keys", "auth.secret"),
			"-auth.bootstrap-key-file", filepath.Join(y.Dir, "admin.key"),
		}},
		{"sessions", []string{"-sessions.data-dir", y.Dir, "-sessions.issuer-file", filepath.Join(creds, "session.issuer")}},
		{"scheduler", nil},
		{"tcagent", nil},
		{"gateway", []string{"-gateway.listen", strings.TrimPrefix(y.URL, "http://")}},
	} {
		identity := service.name
		switch identity {
		case "tccontroller":
			identity = "tcagent"
		case "tcagent":
			identity = "tcnode"
		}
		argv := []string{
			binary(t, service.name),
			"-bus.url", "nats://" + busAddress, "-bus.credentials", filepath.Join(creds, identity+".creds"),
		}
		procs = append(procs, &process{name: service.name, env: env, argv: append(argv, service.args...)})
	}
	return procs
}

// awaitAnswer waits until the services behind the gateway answer too: processes apart are not ready at one time.
func (y *Yard) awaitAnswer(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyWithin)
	defer cancel()
	for _, path := range []string{"/api/v1/sessions", "/api/v1/tasks", "/api/v1/traffic/policies"} {
		y.awaitOK(ctx, t, path)
	}
}

func (y *Yard) awaitOK(ctx context.Context, t testing.TB, path string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, body, err := y.Client.Do(ctx, "GET", path, nil)
		if status == http.StatusOK {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s was not answered within %s: status %d, %v: %s", path, readyWithin, status, err, body)
		}
	}
}

// endRunners ends the runners that services apart leave at work by design. The yard is their parent no more, so
// their instance files tell of them.
func (y *Yard) endRunners(t testing.TB) {
	files, err := filepath.Glob(filepath.Join(y.Dir, "sessions", "*", "instance.json"))
	if err != nil {
		t.Error(err)
	}
	for _, file := range files {
		instance, err := readInstance(file)
		if err != nil {
			t.Error(err)
			continue
		}
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", instance.PID))
		if instance.Ended || err != nil || !strings.Contains(string(argv), "\x00runner\x00") {
			continue // it has ended, and its process id may be another's
		}
		if err := syscall.Kill(-instance.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("end a runner: %v", err)
			continue
		}
		awaitEnd(t, instance.PID)
	}
}

// awaitEnd waits until a killed process is gone, or at least does nothing any more: its data is about to be removed.
func awaitEnd(t testing.TB, pid int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(readyWithin); ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) || bytes.Contains(stat, []byte(") X ")) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("the runner %d does not end", pid)
			return
		}
	}
}

// instance is what a process runtime notes of a runner.
type instance struct {
	PID   int  `json:"pid"`
	Ended bool `json:"ended"`
}

func readInstance(file string) (i instance, err error) {
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err != nil {
		return i, fmt.Errorf("read a runner's instance file: %w", err)
	}
	return i, nil
}

// run runs a command that must succeed.
func run(t testing.TB, env []string, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}
