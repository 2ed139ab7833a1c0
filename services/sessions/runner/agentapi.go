package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/runner/agent"
)

// The agentapi contract (github.com/coder/agentapi, openapi.json): five endpoints on one
// conversation.

const (
	maxPost      = 1 << 20
	maxUpload    = 64 << 20
	startWait    = 30 * time.Second // for a posted message's turn to begin
	sseEvery     = 20 * time.Millisecond
	sseHeartbeat = 15 * time.Second
	sseWrite     = 30 * time.Second // a reader that takes nothing for so long is let go
)

type statusBody struct {
	Status    string `json:"status"` // stable, running
	AgentType string `json:"agent_type"`
}

type messageBody struct {
	ID      int       `json:"id"`
	Role    string    `json:"role"`
	Content string    `json:"content"`
	Time    time.Time `json:"time"`
}

type messageUpdate struct {
	ID      int       `json:"id"`
	Role    string    `json:"role"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
}

func (r *runner) statusNow() statusBody {
	body := statusBody{Status: "running", AgentType: r.kind.Name}
	if r.typist.Load() != nil && r.queue.idle() {
		body.Status = "stable"
	}
	return body
}

func (r *runner) getStatus(w http.ResponseWriter, req *http.Request) {
	rpc.WriteJSON(w, req, http.StatusOK, r.statusNow())
}

func (r *runner) getMessages(w http.ResponseWriter, req *http.Request) {
	entries, _, _ := r.talk.since(0)
	messages := make([]messageBody, 0, len(entries))
	for _, e := range entries {
		messages = append(messages, messageBody{ID: e.id, Role: e.role, Content: e.content, Time: e.at})
	}
	rpc.WriteJSON(w, req, http.StatusOK, map[string]any{"messages": messages})
}

// decodeMessage reads the body of POST /message.
func decodeMessage(data []byte) (content string, raw bool, err error) {
	var body struct {
		Content *string `json:"content"`
		Type    string  `json:"type"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return "", false, api.Errorf(api.CodeInvalid, "the body is not a message: %v", err)
	}
	switch {
	case body.Content == nil || *body.Content == "":
		return "", false, api.Invalid("/content", "is required")
	case body.Type != "user" && body.Type != "raw":
		return "", false, api.Invalid("/type", "must be user or raw")
	case body.Type == "user" && strings.TrimSpace(*body.Content) == "":
		return "", false, api.Invalid("/content", "is empty")
	}
	return *body.Content, body.Type == "raw", nil
}

// postMessage runs a message as a turn if the agent is stable; the contract has no queue.
// The message enters the log on the agent's side, because the runner may write no other,
// and so it is not driven again by the next runner if this one is killed in its turn.
func (r *runner) postMessage(w http.ResponseWriter, req *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxPost))
	if err != nil {
		rpc.WriteError(w, req, readError(err))
		return
	}
	content, raw, err := decodeMessage(data)
	if err == nil && raw {
		err = r.typeKeys(req, content)
	} else if err == nil {
		err = r.post(req, content)
	}
	if err != nil {
		rpc.WriteError(w, req, err)
		return
	}
	rpc.WriteJSON(w, req, http.StatusOK, map[string]bool{"ok": true})
}

func (r *runner) post(req *http.Request, content string) error {
	it := item{own: true, started: make(chan struct{}), Event: api.Event{
		Type: api.EventUserMessage, MessageID: api.NewID(api.KindMessage), Content: content, Actor: "agentapi",
	}}
	if r.typist.Load() == nil || !r.queue.pushIdle(it) {
		return api.Errorf(api.CodeConflict, "the agent is running; send the message when its status is stable")
	}
	select {
	case <-it.started:
		return nil
	case <-time.After(startWait):
		return api.Errorf(api.CodeUnavailable, "the agent did not take the message up in time; it waits")
	case <-req.Context().Done():
		return req.Context().Err()
	}
}

func (r *runner) typeKeys(req *http.Request, keys string) error {
	a := r.typist.Load()
	if a == nil {
		return api.Errorf(api.CodeUnavailable, "the agent is starting; try again")
	}
	typist, ok := (*a).(agent.Typist)
	if !ok {
		return api.Invalid("/type", "raw is for agents in a terminal; this one is driven over a protocol")
	}
	return typist.Type(req.Context(), []byte(keys))
}

// postUpload stores a file where the agent finds it and answers with its path.
func (r *runner) postUpload(w http.ResponseWriter, req *http.Request) {
	req.Body = http.MaxBytesReader(w, req.Body, maxUpload)
	path, err := r.upload(req)
	if err != nil {
		rpc.WriteError(w, req, fileError("the upload's folder", err))
		return
	}
	rpc.WriteJSON(w, req, http.StatusOK, map[string]any{"ok": true, "filePath": path})
}

func (r *runner) upload(req *http.Request) (string, error) {
	parts, err := req.MultipartReader()
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, "the body is not multipart/form-data: %v", err)
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return "", api.Invalid("/file", "is required")
		}
		if err != nil {
			return "", readError(err)
		}
		if part.FormName() != "file" {
			continue
		}
		name := filepath.Base(filepath.Clean("/" + strings.ReplaceAll(part.FileName(), "\\", "/")))
		if name == "/" || name == "." || strings.ContainsRune(name, 0) || len(name) > 255 {
			return "", api.Invalid("/file", "has no usable name")
		}
		root, err := os.OpenRoot(r.home())
		if err != nil {
			return "", fmt.Errorf("upload: %w", err)
		}
		defer root.Close()
		rel := filepath.Join("uploads", api.NewID(api.KindMessage), name)
		if _, err := r.writeFile(root, rel, part); err != nil {
			return "", err
		}
		return filepath.Join(r.home(), rel), nil
	}
}

// getEvents streams the conversation and the status: all of it first, then what changes.
// It holds no events for its reader: it compares versions, and a slow reader sees the
// newest form of what it missed.
func (r *runner) getEvents(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	var buf bytes.Buffer
	heartbeat := time.NewTicker(sseHeartbeat)
	defer heartbeat.Stop()
	version, last := 0, statusBody{}
	for {
		queueChanged := r.queue.watch()
		entries, now, talkChanged := r.talk.since(version)
		version = now
		for _, e := range entries {
			writeSSE(&buf, "message_update", messageUpdate{ID: e.id, Role: e.role, Message: e.content, Time: e.at})
		}
		if status := r.statusNow(); status != last {
			writeSSE(&buf, "status_change", status)
			last = status
		}
		if buf.Len() > 0 {
			_ = out.SetWriteDeadline(time.Now().Add(sseWrite))
			if _, err := w.Write(buf.Bytes()); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
				return
			}
			buf = bytes.Buffer{} // a long conversation's bytes are let go
		}
		select {
		case <-queueChanged:
		case <-talkChanged:
		case <-heartbeat.C:
			buf.WriteString(": alive\n\n")
		case <-req.Context().Done():
			return
		}
		select { // several changes in one write
		case <-time.After(sseEvery):
		case <-req.Context().Done():
			return
		}
	}
}

func writeSSE(buf *bytes.Buffer, event string, v any) {
	data, _ := json.Marshal(v)
	fmt.Fprintf(buf, "event: %s\ndata: %s\n\n", event, data)
}
