package claude

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
)

// line is one line of output; Type says which fields are set.
type line struct {
	Type      string          `json:"type"`
	Subtype   string          `json:"subtype"`
	Version   string          `json:"claude_code_version"` // of system init
	Event     streamEvent     `json:"event"`               // of stream_event
	Message   chatMessage     `json:"message"`             // of assistant and user
	Parent    *string         `json:"parent_tool_use_id"`  // of what a subagent does
	RequestID string          `json:"request_id"`          // of control_request, control_cancel_request
	Request   controlRequest  `json:"request"`
	Response  controlAnswer   `json:"response"`
	Errors    json.RawMessage `json:"errors"`
}

// streamEvent is an event of the streaming Messages API.
type streamEvent struct {
	Type    string      `json:"type"`
	Message chatMessage `json:"message"` // of message_start
	Delta   struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		Thinking string `json:"thinking"`
	} `json:"delta"`
}

// chatMessage is a message of the Messages API. Content may also be a string.
type chatMessage struct {
	ID      string          `json:"id"`
	Content json.RawMessage `json:"content"`
}

// block is one part of a message's content.
type block struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	ID        string          `json:"id"` // of tool_use
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"`
	ToolUseID string          `json:"tool_use_id"` // of tool_result
	Content   json.RawMessage `json:"content"`
	IsError   bool            `json:"is_error"`
}

// result ends a turn.
type result struct {
	Subtype string  `json:"subtype"`
	IsError bool    `json:"is_error"`
	Result  string  `json:"result"`
	Cost    float64 `json:"total_cost_usd"` // of the process so far
	Usage   struct {
		Input         int64 `json:"input_tokens"`
		Output        int64 `json:"output_tokens"`
		CacheCreation int64 `json:"cache_creation_input_tokens"`
		CacheRead     int64 `json:"cache_read_input_tokens"`
	} `json:"usage"`
	Errors []string `json:"errors"`
}

// controlRequest is what the process asks.
type controlRequest struct {
	Subtype     string          `json:"subtype"`
	ToolName    string          `json:"tool_name"`
	ToolUseID   string          `json:"tool_use_id"`
	Input       json.RawMessage `json:"input"`
	Suggestions json.RawMessage `json:"permission_suggestions"`
}

// controlAnswer is an answer to a control request, in either direction.
type controlAnswer struct {
	Subtype   string          `json:"subtype"`
	RequestID string          `json:"request_id"`
	Response  json.RawMessage `json:"response,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// blocks returns the parts of a message's content, which may also be a plain text.
func (m chatMessage) blocks() []block {
	var out []block
	if json.Unmarshal(m.Content, &out) == nil {
		return out
	}
	var text string
	if json.Unmarshal(m.Content, &text) == nil && text != "" {
		return []block{{Type: "text", Text: text}}
	}
	return nil
}

// userMessage is the input line for a prompt.
func userMessage(p agent.Prompt) map[string]any {
	type object = map[string]any
	content := []object{{"type": "text", "text": p.Content}}
	for _, a := range p.Attachments {
		switch {
		case strings.HasPrefix(a.Type, "image/"):
			content = append(content, object{"type": "image", "source": object{"type": "base64", "media_type": a.Type, "data": a.Data}})
		case a.Type == "application/pdf":
			content = append(content, object{"type": "document", "source": object{"type": "base64", "media_type": a.Type, "data": a.Data}})
		default:
			content = append(content, object{"type": "text", "text": "Attached file " + a.Name + ":\n" + strings.ToValidUTF8(string(a.Data), "\uFFFD")})
		}
	}
	return object{"type": "user", "message": object{"role": "user", "content": content}, "parent_tool_use_id": nil}
}

// receive handles one line of output. It runs on the reading goroutine.
func (c *client) receive(data []byte, unknown *bool) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil && l.Type == "" {
		return // a stray line; a field of another type than we know is none
	}
	switch l.Type {
	case "control_response":
		c.mu.Lock()
		ch, ok := c.answers[l.Response.RequestID]
		delete(c.answers, l.Response.RequestID)
		c.mu.Unlock()
		if ok {
			ch <- l.Response
		}
		return
	case "control_request":
		c.requested(l)
		return
	case "control_cancel_request":
		c.mu.Lock()
		if cancel, ok := c.asking[l.RequestID]; ok {
			cancel(context.Canceled)
		}
		c.mu.Unlock()
		return
	case "system":
		if l.Version != "" {
			c.mu.Lock()
			c.version = l.Version
			c.mu.Unlock()
		}
		return
	}
	c.mu.Lock()
	t := c.turn
	c.mu.Unlock()
	if l.Type == "result" {
		var res result
		_ = json.Unmarshal(data, &res)
		if t == nil {
			*unknown = strings.Contains(string(l.Errors), errUnknown)
			return
		}
		select {
		case t.end <- res:
		default:
		}
		return
	}
	if t == nil {
		return
	}
	for _, ev := range t.events(l) {
		if c.sink.Emit(t.ctx, ev) != nil {
			return // the log is gone, which ends the turn
		}
	}
}

// requested answers a control request of the process.
func (c *client) requested(l line) {
	answer := func(response any, err error) {
		a := controlAnswer{Subtype: "success", RequestID: l.RequestID}
		if err != nil {
			a.Subtype, a.Error = "error", err.Error()
		} else {
			a.Response, _ = json.Marshal(response)
		}
		_ = c.write(map[string]any{"type": "control_response", "response": a}) // a process that is gone needs none
	}
	if l.Request.Subtype != "can_use_tool" {
		answer(nil, errors.New("not supported: "+l.Request.Subtype))
		return
	}
	c.mu.Lock()
	t := c.turn
	if t == nil || len(c.asking) >= maxAsking {
		c.mu.Unlock()
		answer(map[string]any{"behavior": "deny", "message": "Nobody can be asked now."}, nil)
		return
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	c.asking[l.RequestID] = cancel
	c.asks.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.asks.Done()
		defer func() {
			c.mu.Lock()
			delete(c.asking, l.RequestID)
			c.mu.Unlock()
			cancel(nil)
		}()
		answer(c.ask(ctx, l.Request), nil)
	}()
}

// The options of a permission question.
const (
	optionAllow  = "allow"
	optionAlways = "allow_always"
	optionReject = "reject"
)

// ask puts a permission question to a person and returns the answer in Claude Code's form.
func (c *client) ask(ctx context.Context, req controlRequest) map[string]any {
	title, _ := describe(req.ToolName, req.Input)
	ev := api.Event{Type: api.EventApprovalRequest, Title: title, ToolCallID: req.ToolUseID, Raw: bounded(req.Input), Options: []api.ApprovalOption{
		{Option: optionAllow, Label: "Allow once", Kind: "allow_once"},
		{Option: optionReject, Label: "Reject", Kind: "reject_once"},
	}}
	var suggestions []json.RawMessage
	if json.Unmarshal(req.Suggestions, &suggestions) == nil && len(suggestions) > 0 {
		ev.Options = append(ev.Options, api.ApprovalOption{Option: optionAlways, Label: "Always allow", Kind: "allow_always"})
	}
	option, err := c.sink.Ask(ctx, ev)
	switch {
	case err != nil:
		return map[string]any{"behavior": "deny", "message": "The question was not answered.", "interrupt": true}
	case option == optionAlways:
		return map[string]any{"behavior": "allow", "updatedInput": req.Input, "updatedPermissions": suggestions}
	case option == optionAllow:
		return map[string]any{"behavior": "allow", "updatedInput": req.Input}
	}
	return map[string]any{"behavior": "deny", "message": "The user rejected this."}
}
