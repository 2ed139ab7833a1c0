package runner_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

// maxRunnerMemory is far above what a runner needs and far below what the floods print.
const maxRunnerMemory = 256 << 20

// memory returns the resident memory of the runner.
func (s *session) memory() int64 {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestPrintsWithoutEnd runs agents that print as much as they can.
func TestPrintsWithoutEnd(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is read from /proc")
	}
	y := newYard(t)
	// An ACP agent that opens a conversation and then floods: one line of 512 MiB, then
	// chunks without end.
	flood := `read l; printf '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"agentCapabilities":{}}}\n'
read l; printf '{"jsonrpc":"2.0","id":2,"result":{"sessionId":"f"}}\n'
read l; head -c 536870912 /dev/zero | tr '\0' x; echo
yes '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"f","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"more and more and more"}}}}'`
	tests := []struct {
		name string
		edit func(*launch.Launch)
		say  string
		seen api.EventType
	}{
		{"over a protocol", func(l *launch.Launch) { l.Agent = api.Agent{Kind: "acp", Command: []string{"sh", "-c", flood}} }, "go", api.EventAgentMessageChunk},
		{"on a terminal", func(l *launch.Launch) { l.Agent = api.Agent{Kind: "bash"} }, "yes", api.EventTerminal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := y.session(tt.edit)
			s.t = t
			s.start()
			s.running()
			id := s.send(tt.say)
			n := 0
			s.until("output", func(ev api.Event) bool {
				if ev.Type == tt.seen {
					n++
				}
				return n == 5
			})
			var most int64
			for until := time.Now().Add(3 * time.Second); time.Now().Before(until); <-time.After(50 * time.Millisecond) {
				most = max(most, s.memory())
			}
			if most > maxRunnerMemory {
				t.Errorf("the runner held %d MiB", most>>20)
			}
			s.append(api.Event{Type: api.EventInterrupt})
			if tt.name == "on a terminal" { // the other agent ignores it
				s.answer(id)
			}
			s.kill()
		})
	}
}
