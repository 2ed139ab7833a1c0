package promises

import (
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/modeltest"
	"agentyard.dev/services/standalone/yardtest"
)

// allowPrivate lets the sessions clone from loopback, where the tests' Git server is.
const allowPrivate = "AGENTAPI_SESSIONS_ALLOW_PRIVATE_REPOSITORIES=true"

// TestRealAgents gives real coding agents a repository and a message. The model is
// scripted; the agents, their tools, Git and the yard are real.
func TestRealAgents(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess, allowPrivate)
	repository := &api.Repository{URL: newOrigin(t, "", "").URL}

	t.Run("Claude Code over stream-json", func(t *testing.T) {
		model := modeltest.New(t,
			modeltest.Step{Tool: "Bash", Input: map[string]any{"command": "cp README.md copy.md && echo copied", "description": "Copy"}},
			modeltest.Step{Tool: "Write", Input: map[string]any{"file_path": "NEW.md", "content": "written by the agent\n"}},
			modeltest.Step{Text: "All done: %s"})
		s := y.Client.Session(t, api.CreateSessionRequest{
			Agent:      &api.Agent{Kind: "claude", Command: []string{modeltest.Install(t, "@anthropic-ai/claude-code", "claude")}},
			Repository: repository,
			Env: map[string]string{
				"ANTHROPIC_BASE_URL": model.URL, "ANTHROPIC_API_KEY": "sk-test",
				"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
			},
		})
		work(t, y, s, model, "please copy the README")
	})

	t.Run("opencode over ACP", func(t *testing.T) {
		model := modeltest.New(t,
			modeltest.Step{Tool: "bash", Input: map[string]any{"command": "cp README.md copy.md && echo copied", "description": "Copy"}},
			modeltest.Step{Tool: "write", Input: map[string]any{"filePath": "NEW.md", "content": "written by the agent\n"}},
			modeltest.Step{Text: "All done: %s"})
		s := y.Client.Session(t, api.CreateSessionRequest{
			Agent:      &api.Agent{Kind: "opencode", Command: []string{modeltest.Install(t, "opencode-ai", "opencode"), "acp"}},
			Repository: repository,
			Env: map[string]string{
				"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
				"OPENCODE_CONFIG_CONTENT": `{"model":"scripted/m","small_model":"scripted/m","provider":{"scripted":{
					"npm":"@ai-sdk/openai-compatible","name":"Scripted","options":{"baseURL":"` + model.URL + `/v1","apiKey":"x"},
					"models":{"m":{"name":"m","tool_call":true,"limit":{"context":100000,"output":1000}}}}}}`,
			},
		})
		work(t, y, s, model, "please copy the README")
	})

	t.Run("bash in a terminal", func(t *testing.T) {
		s := y.Client.Session(t, api.CreateSessionRequest{
			Agent:      &api.Agent{Kind: "bash", Command: []string{"bash", "--norc", "--noprofile", "-i"}},
			Repository: repository,
		})
		answer := y.Client.Ask(t, s.ID, "cat README.md && echo $((6*7))")
		if !strings.Contains(answer, "the yard") || !strings.Contains(answer, "42") {
			t.Errorf("bash answered %q", answer)
		}
	})
}

// work sends the message, allows what the agent asks to do, and checks the events' order
// and the files in the clone.
func work(t *testing.T, y *yardtest.Yard, s api.Session, model *modeltest.Server, message string) {
	t.Helper()
	var acc api.Accepted
	y.Client.Must(t, "POST", "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": message}, &acc)
	var story []string
	tell := func(what string) {
		if len(story) == 0 || story[len(story)-1] != what {
			story = append(story, what)
		}
	}
	var last uint64
	tools := map[string]bool{}
	y.Client.Follow(t, s.ID, 0, func(ev api.Event) bool {
		if ev.Seq <= last {
			t.Errorf("event %d after %d", ev.Seq, last)
		}
		last = ev.Seq
		switch {
		case ev.Type == api.EventUserMessage && ev.MessageID == acc.ID:
			tell("asked")
		case ev.Type == api.EventApprovalRequest:
			y.Client.Must(t, "POST", "/api/v1/sessions/"+s.ID+"/approvals/"+ev.ApprovalID, map[string]any{"option": allow(ev.Options)}, nil)
		case ev.Type == api.EventToolCall && ev.Status == "completed" && !tools[ev.ToolCallID]:
			tools[ev.ToolCallID] = true
			story = append(story, "tool")
		case ev.Type == api.EventAgentMessage && ev.Final:
			tell("answered")
			if !strings.Contains(ev.Content, "All done: "+message) {
				t.Errorf("the answer is %q", ev.Content)
			}
		case ev.Type == api.EventError:
			t.Errorf("the agent reports %s: %s", ev.Code, ev.Detail)
		}
		return ev.Type != api.EventStatus || ev.ReplyTo != acc.ID || ev.Activity != api.ActivityIdle
	})
	if got := strings.Join(story, " "); got != "asked tool tool answered" {
		t.Errorf("the events tell %q; the model was asked %d times", got, len(model.Requests()))
	}
	for name, want := range map[string]string{"copy.md": "# the yard\n", "NEW.md": "written by the agent\n"} {
		_, data, err := y.Client.Do(t.Context(), "GET", "/api/v1/sessions/"+s.ID+"/files?path="+name, nil)
		if err != nil || string(data) != want {
			t.Errorf("%s holds %q (%v), want %q", name, data, err, want)
		}
	}
	if _, data, err := y.Client.Do(t.Context(), "GET", "/api/v1/sessions/"+s.ID+"/files?path=.git/HEAD", nil); err != nil || !strings.HasPrefix(string(data), "ref: ") {
		t.Errorf("the workspace is not a clone: .git/HEAD holds %q (%v)", data, err)
	}
}

func allow(options []api.ApprovalOption) string {
	for _, o := range options {
		if strings.HasPrefix(o.Kind, "allow") {
			return o.Option
		}
	}
	return options[0].Option
}
