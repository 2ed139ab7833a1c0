package acp_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/modeltest"
	"agentyard.dev/services/sessions/runner/acp"
	"agentyard.dev/services/sessions/runner/agent/agenttest"
)

// TestOpencode runs a real ACP agent from npm against a model server on loopback.
func TestOpencode(t *testing.T) {
	program := modeltest.Install(t, "opencode-ai", "opencode")
	model := modeltest.New(t,
		modeltest.Step{Tool: "bash", Input: map[string]any{"command": "echo made by a tool > made", "description": "make a file"}},
		modeltest.Step{Text: "The file is there."})
	type object = map[string]any
	config, err := json.Marshal(object{
		"provider": object{"yard": object{
			"npm": "@ai-sdk/openai-compatible", "name": "yard", "options": object{"baseURL": model.URL + "/v1", "apiKey": "none"},
			"models": object{"m": object{"name": "m"}},
		}},
		"model": "yard/m", "small_model": "yard/m", "autoupdate": false, "share": "disabled", "permission": object{"bash": "ask"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := agenttest.Suite{
		Start: acp.Start, Argv: []string{program, "acp"}, Option: "once",
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "OPENCODE_CONFIG_CONTENT=" + string(config), "OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_MODELS_FETCH=1"},
	}
	dir := t.TempDir()
	r := s.New(t, dir, "")
	evs := r.Turn(t, "make a file")
	if got := agenttest.Text(evs); !strings.Contains(got, "The file is there.") {
		t.Errorf("said %q", got)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(data) != "made by a tool\n" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	asked, done := false, false
	for _, ev := range evs {
		asked = asked || ev.Type == api.EventApprovalRequest
		done = done || ev.Type == api.EventToolCall && ev.Status == "completed"
	}
	if !asked || !done {
		t.Errorf("asked for permission: %v, tool call completed: %v in %+v", asked, done, evs)
	}
	t.Run("loads its conversation", func(t *testing.T) {
		name := r.Info().Session
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := s.New(t, dir, name)
		if info := again.Info(); !info.Loaded || info.Version == "" {
			t.Errorf("%+v", info)
		}
		if got := agenttest.Text(again.Turn(t, "once more")); !strings.Contains(got, "The file is there.") {
			t.Errorf("said %q", got)
		}
	})
}
