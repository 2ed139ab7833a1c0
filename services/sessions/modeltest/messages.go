package modeltest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

type object = map[string]any

// messages answers the Messages API.
func (s *Server) messages(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model    string    `json:"model"`
		Stream   bool      `json:"stream"`
		Messages []message `json:"messages"`
		Tools    []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	prompt, answered := turn(req.Messages)
	var tools []string
	for _, t := range req.Tools {
		tools = append(tools, t.Name)
	}
	step := s.choose(prompt, answered, tools)
	id := fmt.Sprintf("msg_%d_%d", len(req.Messages), answered)
	block, stop := object{"type": "text", "text": step.Text}, "end_turn"
	if step.Tool != "" {
		block = object{"type": "tool_use", "id": "toolu_" + id, "name": step.Tool, "input": step.Input}
		stop = "tool_use"
	}
	usage := object{"input_tokens": 10, "output_tokens": 5}
	answer := object{
		"id": id, "type": "message", "role": "assistant", "model": req.Model,
		"content": []any{}, "stop_reason": nil, "stop_sequence": nil, "usage": usage,
	}
	if !req.Stream {
		answer["content"], answer["stop_reason"] = []any{block}, stop
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	out := newStream(w)
	out.send("message_start", object{"type": "message_start", "message": answer})
	if step.Tool != "" {
		out.send("content_block_start", object{"type": "content_block_start", "index": 0, "content_block": object{
			"type": "tool_use", "id": "toolu_" + id, "name": step.Tool, "input": object{},
		}})
		input, _ := json.Marshal(step.Input)
		out.send("content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": object{
			"type": "input_json_delta", "partial_json": string(input),
		}})
	} else {
		out.send("content_block_start", object{"type": "content_block_start", "index": 0, "content_block": object{"type": "text", "text": ""}})
		for _, word := range strings.SplitAfter(step.Text, " ") {
			out.send("content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": object{
				"type": "text_delta", "text": word,
			}})
		}
	}
	out.send("content_block_stop", object{"type": "content_block_stop", "index": 0})
	out.send("message_delta", object{"type": "message_delta", "delta": object{"stop_reason": stop, "stop_sequence": nil}, "usage": usage})
	out.send("message_stop", object{"type": "message_stop"})
}

// message is one of a conversation, in either API.
type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// turn returns the person's last message and how often the model has answered since.
func turn(messages []message) (prompt string, answered int) {
	for _, m := range messages {
		switch m.Role {
		case "assistant":
			answered++
		case "user":
			if text, ok := personsText(m.Content); ok {
				prompt, answered = text, 0
			}
		}
	}
	return prompt, answered
}

// personsText returns the text of a user message that a person wrote: not one that only
// carries tool results, and without the reminders that the agent adds.
func personsText(content json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return text, true
	}
	var blocks []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if json.Unmarshal(content, &blocks) != nil {
		return "", false
	}
	for _, b := range blocks {
		if b.Type == "tool_result" {
			return "", false
		}
		if b.Type == "text" && text == "" && !strings.HasPrefix(b.Text, "<system-reminder>") {
			text = b.Text
		}
	}
	return text, text != ""
}
