package modeltest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// completions answers the Chat Completions API, streaming only.
func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model    string    `json:"model"`
		Messages []message `json:"messages"`
		Tools    []struct {
			Function struct {
				Name string `json:"name"`
			} `json:"function"`
		} `json:"tools"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	prompt, answered := turn(req.Messages)
	var tools []string
	for _, t := range req.Tools {
		tools = append(tools, t.Function.Name)
	}
	step := s.choose(prompt, answered, tools)
	id := fmt.Sprintf("chatcmpl-%d-%d", len(req.Messages), answered)
	out := newStream(w)
	chunk := func(delta object, finish any) {
		out.send("", object{
			"id": id, "object": "chat.completion.chunk", "model": req.Model, "created": 1,
			"choices": []any{object{"index": 0, "delta": delta, "finish_reason": finish}},
		})
	}
	if step.Tool != "" {
		input, _ := json.Marshal(step.Input)
		chunk(object{"role": "assistant", "tool_calls": []any{object{
			"index": 0, "id": "call_" + id, "type": "function",
			"function": object{"name": step.Tool, "arguments": string(input)},
		}}}, nil)
		chunk(object{}, "tool_calls")
	} else {
		for _, word := range strings.SplitAfter(step.Text, " ") {
			chunk(object{"role": "assistant", "content": word}, nil)
		}
		chunk(object{}, "stop")
	}
	out.send("", object{
		"id": id, "object": "chat.completion.chunk", "model": req.Model, "created": 1, "choices": []any{},
		"usage": object{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
	})
	fmt.Fprint(w, "data: [DONE]\n\n")
}
