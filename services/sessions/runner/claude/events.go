package claude

import (
	"encoding/json"
	"strings"

	"agentyard.dev/libs/api"
)

const (
	maxTitle    = 4 << 10
	maxToolText = 64 << 10 // of a tool's output that the log keeps
	maxRaw      = 64 << 10 // of a tool's input
)

// events translates a line into the log's terms.
func (t *turn) events(l line) []api.Event {
	switch l.Type {
	case "stream_event":
		if l.Parent != nil {
			return nil // a subagent's words are not the answer
		}
		return t.stream(l.Event)
	case "assistant":
		return t.assistant(l)
	case "user":
		return t.results(l)
	}
	return nil
}

func (t *turn) stream(ev streamEvent) []api.Event {
	switch {
	case ev.Type == "message_start":
		t.streamed = ev.Message.ID
	case ev.Type == "content_block_delta" && ev.Delta.Type == "text_delta" && ev.Delta.Text != "":
		return []api.Event{{Type: api.EventAgentMessageChunk, Delta: ev.Delta.Text}}
	case ev.Type == "content_block_delta" && ev.Delta.Type == "thinking_delta" && ev.Delta.Thinking != "":
		return []api.Event{{Type: api.EventAgentThoughtChunk, Delta: ev.Delta.Thinking}}
	}
	return nil
}

// assistant translates a complete message: its text too, unless it came in deltas.
func (t *turn) assistant(l line) []api.Event {
	var out []api.Event
	silent := l.Parent != nil || l.Message.ID != "" && l.Message.ID == t.streamed
	for _, b := range l.Message.blocks() {
		switch {
		case b.Type == "text" && !silent && b.Text != "":
			out = append(out, api.Event{Type: api.EventAgentMessageChunk, Delta: b.Text})
		case b.Type == "thinking" && !silent && b.Thinking != "":
			out = append(out, api.Event{Type: api.EventAgentThoughtChunk, Delta: b.Thinking})
		case b.Type == "tool_use" && b.ID != "":
			title, kind := describe(b.Name, b.Input)
			t.tools[b.ID] = tool{title: title, kind: kind}
			out = append(out, api.Event{
				Type: api.EventToolCall, ToolCallID: b.ID, Title: title, Kind: kind, Status: "in_progress", Raw: bounded(b.Input),
			})
			if b.Name == "TodoWrite" {
				var plan struct {
					Todos json.RawMessage `json:"todos"`
				}
				if json.Unmarshal(b.Input, &plan) == nil && bounded(plan.Todos) != nil {
					out = append(out, api.Event{Type: api.EventPlan, Raw: plan.Todos})
				}
			}
		}
	}
	return out
}

// results translates what tools brought.
func (t *turn) results(l line) []api.Event {
	var out []api.Event
	for _, b := range l.Message.blocks() {
		if b.Type != "tool_result" || b.ToolUseID == "" {
			continue
		}
		status := "completed"
		if b.IsError {
			status = "failed"
		}
		made := t.tools[b.ToolUseID]
		delete(t.tools, b.ToolUseID)
		var text strings.Builder
		for _, part := range (chatMessage{Content: b.Content}).blocks() {
			text.WriteString(part.Text)
		}
		out = append(out, api.Event{
			Type: api.EventToolCall, ToolCallID: b.ToolUseID, Title: made.title, Kind: made.kind, Status: status, Content: clip(text.String(), maxToolText),
		})
	}
	return out
}

// describe names a tool call for a person: the tool and what it is applied to.
func describe(name string, input json.RawMessage) (title, kind string) {
	var in struct {
		Command  string `json:"command"`
		FilePath string `json:"file_path"`
		Notebook string `json:"notebook_path"`
		Path     string `json:"path"`
		Pattern  string `json:"pattern"`
		URL      string `json:"url"`
		Query    string `json:"query"`
		About    string `json:"description"`
	}
	_ = json.Unmarshal(input, &in)
	title = name
	for _, what := range []string{in.Command, in.FilePath, in.Notebook, in.Pattern, in.URL, in.Query, in.Path, in.About} {
		if what != "" {
			title += ": " + what
			break
		}
	}
	switch name {
	case "Bash", "BashOutput", "KillShell", "KillBash":
		kind = "execute"
	case "Read", "NotebookRead":
		kind = "read"
	case "Edit", "Write", "MultiEdit", "NotebookEdit":
		kind = "edit"
	case "Grep", "Glob", "LS", "ToolSearch":
		kind = "search"
	case "WebFetch", "WebSearch":
		kind = "fetch"
	case "TodoWrite", "TaskCreate", "TaskUpdate", "EnterPlanMode", "ExitPlanMode":
		kind = "think"
	default:
		kind = "other"
	}
	return clip(title, maxTitle), kind
}

// bounded returns raw if the log can take it, else nil: half a JSON value is none.
func bounded(raw json.RawMessage) json.RawMessage {
	if len(raw) > maxRaw || !json.Valid(raw) {
		return nil
	}
	return raw
}

// clip cuts s to at most n bytes, between characters, and says so.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "\n… (cut)"
}
