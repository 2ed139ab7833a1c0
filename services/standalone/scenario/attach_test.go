package scenario

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestAttachInterrupt: Ctrl-C interrupts an agent that works, and detaches from one that rests.
func TestAttachInterrupt(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess)
	s := y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})

	cmd := exec.Command(yardtest.Binary(t, "agentyard"), "session", "attach", s.ID)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "AGENTYARD_URL="+y.URL, "AGENTYARD_KEY="+y.Client.Key)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // stays open, as a person's terminal does
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	lines := bufio.NewScanner(out)
	until := func(part string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return
			}
		}
		t.Fatalf("it ended before it printed %q", part)
	}

	if _, err := in.Write([]byte("sleep 10m\n")); err != nil {
		t.Fatal(err)
	}
	until("> sleep 10m")
	y.Client.Follow(t, s.ID, 0, func(ev api.Event) bool { return ev.Activity != api.ActivityWorking })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	until("interrupted")
	if _, err := in.Write([]byte("echo still here\n")); err != nil {
		t.Fatal(err)
	}
	until("[done ")
	until("[done ")
	y.Client.Follow(t, s.ID, 0, func(ev api.Event) bool { return ev.Type != api.EventStatus || ev.Activity != api.ActivityIdle })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // to the end
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("detach: %v", err)
	}
	var now api.Session
	y.Client.Must(t, "GET", "/api/v1/sessions/"+s.ID, nil, &now)
	if now.State != api.StateRunning {
		t.Errorf("after detaching the session is %s", now.State)
	}
}
