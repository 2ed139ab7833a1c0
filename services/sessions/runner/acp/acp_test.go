package acp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/demo"
	"agentyard.dev/services/sessions/runner/acp"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/agent/agenttest"
)

// TestMain lets the test's own binary be the demo agent.
func TestMain(m *testing.M) {
	if len(os.Args) >= 2 && os.Args[1] == "demo-agent" {
		os.Exit(demo.Run())
	}
	os.Exit(m.Run())
}

func suite(t *testing.T) agenttest.Suite {
	return agenttest.Suite{
		Start: acp.Start, Argv: []string{os.Args[0], "demo-agent"},
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), demo.SessionEnv + "=s1"},
		Say: "echo hello there", Answer: "hello there",
		Tool: "run echo hi", Slow: "sleep 10m",
		Ask: "ask May I?", Option: "yes", Asked: "yes", Spend: "spend 3 4", Loads: true,
	}
}

func TestConformance(t *testing.T) { agenttest.Run(t, suite(t)) }

// commands is the kind "command".
func commands(t *testing.T) agenttest.Suite {
	return agenttest.Suite{
		Start: acp.Start, Argv: []string{os.Args[0], "demo-agent", "command"},
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), demo.SessionEnv + "=s1"},
		Say: "echo hello there", Answer: "hello there", Tool: "true", Slow: "sleep 600", Loads: true,
	}
}

func TestCommandConformance(t *testing.T) { agenttest.Run(t, commands(t)) }

func TestCommand(t *testing.T) {
	r := commands(t).New(t, t.TempDir(), "")
	for _, tt := range []struct {
		say, want string
		code      int
	}{
		{"printf 'a\\nb'; printf c >&2", "a\nbc", 0},
		{"exit 7", "", 7},
		{"kill -9 $$", "", 137},
		{"echo no such; nosuchprogram", "not found", 127},
		{"printf 'h\\303'; sleep 0.05; printf '\\251llo'", "h\u00e9llo", 0},
	} {
		evs := r.Turn(t, tt.say)
		if got := agenttest.Text(evs); !bytes.Contains([]byte(got), []byte(tt.want)) {
			t.Errorf("%q is answered by %q, want %q", tt.say, got, tt.want)
		}
		code := -1
		for _, ev := range evs {
			var said struct {
				ExitCode *int `json:"exit_code"`
			}
			if ev.Type == api.EventToolCall && json.Unmarshal(ev.Raw, &said) == nil && said.ExitCode != nil {
				code = *said.ExitCode
			}
		}
		if code != tt.code {
			t.Errorf("%q ends with %d, want %d", tt.say, code, tt.code)
		}
	}
}

func TestDemo(t *testing.T) {
	r := suite(t).New(t, t.TempDir(), "")
	tests := []struct{ say, want string }{
		{"anything else\nat all", "anything else\nat all"},
		{"stream 3", "chunk 1chunk 2chunk 3"},
		{"stream x", "stream needs a number"},
		{"run printf 'a\\nb'; exit 7", "a\nb\nexit 7"},
		{"write d/f.txt\none\ntwo", "wrote 7 bytes to d/f.txt"},
		{"read d/f.txt", "one\ntwo"},
		{"list d", "f.txt\n"},
		{"list", "d/\n"},
		{"read ../../etc/passwd", "path escapes"},
		{"write ../x\ny", "path escapes"},
		{"sleep 10ms", "slept 10ms"},
		{"spend 1 2", "spent 1 input and 2 output tokens"},
		{"spend x", "spend needs two numbers"},
		{"serve 0", "serving on 127.0.0.1:"},
	}
	for _, tt := range tests {
		evs := r.Turn(t, tt.say)
		if got := agenttest.Text(evs); !bytes.Contains([]byte(got), []byte(tt.want)) {
			t.Errorf("%q is answered by %q, want %q", tt.say, got, tt.want)
		}
	}
	t.Run("stream is one chunk event each", func(t *testing.T) {
		n := 0
		for _, ev := range r.Turn(t, "stream 50") {
			if ev.Type == api.EventAgentMessageChunk {
				n++
				if want := fmt.Sprintf("chunk %d", n); ev.Delta != want {
					t.Fatalf("chunk %q, want %q", ev.Delta, want)
				}
			}
		}
		if n != 50 {
			t.Errorf("%d chunks, want 50", n)
		}
	})
	t.Run("crash ends the process", func(t *testing.T) {
		err := r.Prompt(t.Context(), agent.Prompt{MessageID: "m2", Content: "crash"})
		if detail, died := agent.Died(err); !died || detail != "it ended with exit status 3" {
			t.Errorf("crash: %v", err)
		}
	})
}

// silent is a Handler that counts.
type silent struct{ notes int }

func (s *silent) Notify(context.Context, string, json.RawMessage) { s.notes++ }
func (s *silent) Request(context.Context, string, json.RawMessage) (any, error) {
	return struct{}{}, nil
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","method":"session/update","params":{}}` + "\n"))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{}}` + "\n{\"id\":null}\n"))
	f.Add([]byte("{\"id\":[],\"method\":\"x\"}\n\n\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		p := acp.NewPeer(&out, &silent{})
		if err := p.Run(t.Context(), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		for _, line := range bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n")) {
			if len(line) > 0 && !json.Valid(line) {
				t.Fatalf("answered with %q, which is not JSON", line)
			}
		}
	})
}

func FuzzUpdate(f *testing.F) {
	f.Add([]byte(`{"sessionUpdate":"tool_call","toolCallId":"1","content":[{"type":"content","content":{"type":"text","text":"x"}}]}`))
	f.Add([]byte(`{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ev, ok := acp.Translate(data)
		if !ok {
			return
		}
		if _, err := json.Marshal(ev); err != nil {
			t.Fatalf("an event that the log cannot hold: %v", err)
		}
	})
}
