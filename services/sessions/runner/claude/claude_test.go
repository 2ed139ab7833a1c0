package claude_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/modeltest"
	"agentyard.dev/services/sessions/runner/agent/agenttest"
	"agentyard.dev/services/sessions/runner/claude"
)

// model is a model server that does what the person's message says: "do:say TEXT",
// "do:tool COMMAND" (the Bash tool, then "tool done") or "do:slow" (an answer that never ends).
func model(t *testing.T) *httptest.Server {
	t.Helper()
	type object = map[string]any
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req struct {
			Model    string
			Messages []struct {
				Role    string
				Content json.RawMessage
			}
		}
		if r.URL.Path != "/v1/messages" || json.NewDecoder(r.Body).Decode(&req) != nil {
			http.Error(w, `{"error":{"type":"not_found_error"}}`, http.StatusNotFound)
			return
		}
		verb, rest, used := "say", "nothing to do", false
		for _, m := range req.Messages {
			if m.Role != "user" {
				continue
			}
			var blocks []struct{ Type, Text string }
			if json.Unmarshal(m.Content, &blocks) != nil {
				var text string
				_ = json.Unmarshal(m.Content, &text)
				blocks = append(blocks, struct{ Type, Text string }{"text", text})
			}
			for _, b := range blocks {
				if what, ok := strings.CutPrefix(b.Text, "do:"); ok {
					verb, rest, _ = strings.Cut(what, " ")
					used = false
				}
				used = used || b.Type == "tool_result"
			}
		}
		w.Header().Set("Content-Type", "text/event-stream")
		send := func(kind string, v object) {
			v["type"] = kind
			data, _ := json.Marshal(v)
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
			_ = http.NewResponseController(w).Flush()
		}
		usage := object{"input_tokens": 7, "output_tokens": 3}
		send("message_start", object{"message": object{
			"id": fmt.Sprintf("msg_%d", len(req.Messages)), "type": "message", "role": "assistant", "model": req.Model, "content": []any{}, "usage": usage,
		}})
		stop := "end_turn"
		switch {
		case verb == "tool" && !used:
			stop = "tool_use"
			input, _ := json.Marshal(object{"command": rest, "description": "as asked"})
			send("content_block_start", object{"index": 0, "content_block": object{"type": "tool_use", "id": fmt.Sprintf("toolu_%d", len(req.Messages)), "name": "Bash", "input": object{}}})
			send("content_block_delta", object{"index": 0, "delta": object{"type": "input_json_delta", "partial_json": string(input)}})
		default:
			if verb == "tool" {
				rest = "tool done"
			}
			send("content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
			for _, word := range strings.SplitAfter(rest, " ") {
				send("content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": word}})
			}
			if verb == "slow" {
				<-r.Context().Done()
				return
			}
		}
		send("content_block_stop", object{"index": 0})
		send("message_delta", object{"delta": object{"stop_reason": stop}, "usage": usage})
		send("message_stop", object{})
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv
}

func suite(t *testing.T) agenttest.Suite {
	t.Helper()
	home := t.TempDir()
	onboarded := `{"hasCompletedOnboarding":true,"theme":"dark"}`
	if err := os.WriteFile(filepath.Join(home, ".claude.json"), []byte(onboarded), 0o600); err != nil {
		t.Fatal(err)
	}
	return agenttest.Suite{
		Start: claude.Start, Argv: []string{modeltest.Install(t, "@anthropic-ai/claude-code", "claude")},
		Env: []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + home, "ANTHROPIC_BASE_URL=" + model(t).URL, "ANTHROPIC_API_KEY=none",
			"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		},
		Say: "do:say it works", Answer: "it works", Slow: "do:slow wait for it",
		Tool: "do:tool touch made", Ask: "do:tool touch asked", Option: "allow", Asked: "tool done",
		Spend: "do:say cheap", Loads: true,
	}
}

// TestConformance runs the real Claude Code from npm against a model server on loopback.
func TestConformance(t *testing.T) { agenttest.Run(t, suite(t)) }

func TestClaude(t *testing.T) {
	s := suite(t)
	r := s.New(t, t.TempDir(), "")
	t.Run("text comes once, as deltas", func(t *testing.T) {
		if got := agenttest.Text(r.Turn(t, "do:say one two three")); got != "one two three" {
			t.Errorf("said %q", got)
		}
	})
	t.Run("a tool call is described, done and kept", func(t *testing.T) {
		evs := r.Turn(t, "do:tool echo hi > made; cat made")
		var last api.Event
		for _, ev := range evs {
			if ev.Type == api.EventToolCall {
				last = ev
			}
		}
		if last.Status != "completed" || last.Kind != "execute" || last.Title != "Bash: echo hi > made; cat made" || last.Content != "hi" {
			t.Errorf("the tool call ended as %+v", last)
		}
		if data, err := os.ReadFile(filepath.Join(r.Dir, "made")); err != nil || string(data) != "hi\n" {
			t.Errorf("the file holds %q, %v", data, err)
		}
	})
	t.Run("usage and cost are of the turn", func(t *testing.T) {
		for range 2 {
			for _, ev := range r.Turn(t, "do:say x") {
				if ev.Type == api.EventUsage && (ev.Usage.InputTokens != 7 || ev.Usage.OutputTokens != 3 || ev.Usage.CostUSD == nil) {
					t.Errorf("usage %+v", ev.Usage)
				}
			}
		}
		if v := r.Info().Version; !strings.HasPrefix(v, "2.") {
			t.Errorf("version %q", v)
		}
	})
	t.Run("a rejected tool does not run", func(t *testing.T) {
		r.Sink.Option = "reject"
		r.Turn(t, "do:tool touch rejected")
		if _, err := os.Stat(filepath.Join(r.Dir, "rejected")); err == nil {
			t.Error("it ran")
		}
	})
	t.Run("a conversation that is not there is begun anew", func(t *testing.T) {
		other := s.New(t, t.TempDir(), "6f1b0f3a-8d1e-4c57-9d9a-0000000000ff")
		if info := other.Info(); info.Loaded || info.Session == "" {
			t.Errorf("%+v", info)
		}
	})
}
