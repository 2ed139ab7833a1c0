package acp

import (
	"encoding/json"
	"strings"

	"agentyard.dev/libs/api"
)

// event translates an update into the log's terms; false for what the log does not keep.
func event(u Update) (api.Event, bool) {
	switch u.Kind {
	case UpdateMessageChunk, UpdateThoughtChunk:
		var c Content
		if json.Unmarshal(u.Content, &c) != nil {
			return api.Event{}, false
		}
		ev := api.Event{Type: api.EventAgentMessageChunk, Delta: text(c)}
		if u.Kind == UpdateThoughtChunk {
			ev.Type = api.EventAgentThoughtChunk
		}
		return ev, ev.Delta != ""
	case UpdateToolCall, UpdateToolUpdate:
		return api.Event{
			Type: api.EventToolCall, ToolCallID: u.ToolCallID, Title: clip(u.Title, 1024),
			Kind: toolKind(u.ToolKind), Status: toolStatus(u), Content: clip(toolText(u), maxToolText), Raw: bounded(u.RawInput),
		}, u.ToolCallID != ""
	case UpdatePlan:
		raw := bounded(u.Entries)
		return api.Event{Type: api.EventPlan, Raw: raw}, raw != nil
	}
	return api.Event{}, false
}

// text is what a content block says in text.
func text(c Content) string {
	switch {
	case c.Text != "":
		return c.Text
	case c.Resource != nil:
		return c.Resource.Text
	case c.URI != "":
		return c.URI
	}
	return ""
}

func toolText(u Update) string {
	var parts []ToolContent
	_ = json.Unmarshal(u.Content, &parts)
	var b strings.Builder
	for _, p := range parts {
		switch {
		case p.Content != nil:
			b.WriteString(text(*p.Content))
		case p.Type == "diff":
			b.WriteString("changed " + p.Path)
		}
		if b.Len() > maxToolText {
			break
		}
	}
	if b.Len() == 0 {
		var out struct {
			Output string `json:"output"`
		}
		_ = json.Unmarshal(u.RawOutput, &out)
		return out.Output
	}
	return b.String()
}

// toolKind maps ACP's kinds onto the closed set of api.Event.
func toolKind(kind string) string {
	switch kind {
	case "", "read", "edit", "execute", "search", "fetch", "think":
		return kind
	case "delete", "move":
		return "edit"
	}
	return "other"
}

func toolStatus(u Update) string {
	switch u.Status {
	case "pending", "in_progress", "completed", "failed":
		return u.Status
	}
	if u.Kind == UpdateToolCall {
		return "pending"
	}
	return "" // unchanged
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
