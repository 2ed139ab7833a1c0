// Package modeltest is a scripted model server for tests of real coding agents. It
// speaks the streaming Messages API (what Claude Code asks) and the streaming Chat
// Completions API (what most others can be pointed at), so that a real agent runs its
// real tools without a real model.
//
// The script is a list of steps. In each turn the server takes the n-th step for the
// n-th request since the person's last message: tool calls first, a text last.
package modeltest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Step is one answer of the model: a tool call if Tool is set, otherwise Text.
type Step struct {
	Tool  string         // the agent's name of the tool, e.g. "Bash"
	Input map[string]any // its arguments
	Text  string         // "%s" stands for the person's last message
}

// Request is what the server saw of one request for an answer.
type Request struct {
	Prompt string // the person's last message
	Step   int
	Tools  []string
}

// Server is a scripted model server on loopback.
type Server struct {
	URL   string
	steps []Step

	mu       sync.Mutex
	requests []Request
}

// New starts a server that follows steps and ends with the test.
func New(t testing.TB, steps ...Step) *Server {
	t.Helper()
	s := &Server{steps: steps}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", s.messages)
	mux.HandleFunc("POST /v1/messages/count_tokens", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"input_tokens":10}`))
	})
	mux.HandleFunc("POST /v1/chat/completions", s.completions)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":{"type":"not_found_error"}}`, http.StatusNotFound)
	})
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Requests returns the requests for an answer so far, those for titles and summaries left out.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// choose returns the step for a conversation of which tail is what came after the
// person's last message: the number of answers that the model already gave in this turn.
func (s *Server) choose(prompt string, answered int, tools []string) Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(tools) == 0 { // a title or a summary
		return Step{Text: "A short title"}
	}
	s.requests = append(s.requests, Request{Prompt: prompt, Step: answered, Tools: tools})
	step := s.steps[min(answered, len(s.steps)-1)]
	step.Text = strings.ReplaceAll(step.Text, "%s", prompt)
	return step
}

// stream writes server-sent events.
type stream struct {
	w http.ResponseWriter
}

func newStream(w http.ResponseWriter) stream {
	w.Header().Set("Content-Type", "text/event-stream")
	return stream{w}
}

func (s stream) send(event string, v any) {
	data, _ := json.Marshal(v)
	if event != "" {
		fmt.Fprintf(s.w, "event: %s\n", event)
	}
	fmt.Fprintf(s.w, "data: %s\n\n", data)
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}
