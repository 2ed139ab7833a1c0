package promises

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// secretMarker stands in the server's environment, where no agent may see it.
const secretMarker = "promise-secret-in-the-environment"

// TestAgentFindsNoSecret looks for secrets as the agent, through the demo agent's shell.
func TestAgentFindsNoSecret(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess, "SECRET_MARKER="+secretMarker)
	mine := y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
	other := y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
	y.Client.Ask(t, other.ID, "write secret.txt\nother-session-secret")

	adminKey, err := os.ReadFile(filepath.Join(y.Dir, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"the admin key":              strings.TrimSpace(string(adminKey)),
		"the server's environment":   secretMarker,
		"a NATS user's seed":         "BEGIN USER NKEY SEED",
		"another session's file":     "other-session-secret",
		"an access to the bus's log": "BEGIN NATS USER JWT",
	}
	runner := y.RunnerPID(t, mine.ID)
	commands := []string{
		"cat " + y.Dir + "/admin.key",
		"ls -laR " + y.Dir,
		"cat " + filepath.Join(y.Dir, "sessions", other.ID, "workspace", "secret.txt"),
		"cat /proc/*/environ",
		"cat /proc/*/cmdline",
		fmt.Sprintf("cat /proc/%d/environ /proc/%d/cmdline", runner, runner),
		fmt.Sprintf("dd if=/proc/%d/mem bs=1 count=1", runner),
		fmt.Sprintf("ls -la /proc/%d/fd /proc/%d/root", runner, runner),
		"grep -rs 'SEED' /tmp /run /var/tmp",
		"mount -t proc none /proc; unshare -Urpf --mount-proc cat /proc/1/environ; umount -l " + y.Dir + "; cat " + y.Dir + "/admin.key",
		"env",
	}
	for _, command := range commands {
		answer := transcript(t, y, mine.ID, "run "+command+" 2>&1; true")
		for what, secret := range secrets {
			if strings.Contains(answer, secret) {
				t.Errorf("the agent read %s with %q", what, command)
			}
		}
	}

	t.Run("cannot stop its runner", func(t *testing.T) {
		transcript(t, y, mine.ID, fmt.Sprintf("run kill -9 %d -1; true", runner))
		if got := y.RunnerPID(t, mine.ID); got != runner {
			t.Errorf("the runner was %d and is %d", runner, got)
		}
		if answer := y.Client.Ask(t, mine.ID, "echo alive"); !strings.Contains(answer, "alive") {
			t.Errorf("the session answers %q", answer)
		}
	})
}

// transcript sends a message and returns all that its turn put into the log.
func transcript(t *testing.T, y *yardtest.Yard, session, message string) string {
	t.Helper()
	var acc api.Accepted
	y.Client.Must(t, "POST", "/api/v1/sessions/"+session+"/messages", map[string]any{"content": message}, &acc)
	var b strings.Builder
	y.Client.Follow(t, session, acc.Seq, func(ev api.Event) bool {
		b.WriteString(ev.Content + ev.Delta + ev.Detail + string(ev.Raw))
		return ev.Type != api.EventStatus || ev.ReplyTo != acc.ID || ev.Activity != api.ActivityIdle
	})
	return b.String()
}

// TestBusRefusesStrangers connects to the embedded bus as anyone on the machine could.
func TestBusRefusesStrangers(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess)
	for name, connect := range map[string]string{
		"anonymous":       `{"verbose":false}`,
		"with a password": `{"user":"admin","pass":"admin"}`,
		"with a token":    `{"auth_token":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialTimeout("tcp", strings.TrimPrefix(y.BusURL(t), "nats://"), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			r := bufio.NewReader(conn)
			if _, err := r.ReadString('\n'); err != nil { // INFO
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", connect)
			answer, err := r.ReadString('\n')
			if err != nil || !strings.HasPrefix(answer, "-ERR 'Authorization Violation'") {
				t.Errorf("the bus answers %q (%v)", answer, err)
			}
		})
	}
}
