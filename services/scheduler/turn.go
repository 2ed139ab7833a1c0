package scheduler

import (
	"encoding/json"

	"agentyard.dev/libs/api"
)

// turn is what the log says of the turn of one message.
type turn struct {
	message string
	command bool

	began, ended bool
	asks         bool
	question     string
	summary      string
	exit         *int
	failure      string // the agent could not finish
	usage        api.Usage
	trouble      string // why the session could not be had yet
}

// take reports whether an event changed whether the turn began, asks or ended.
func (t *turn) take(ev api.Event) bool {
	if ev.ReplyTo != t.message {
		return false
	}
	switch ev.Type {
	case api.EventStatus:
		was := *t
		t.began = true
		t.asks = ev.Activity == api.ActivityApproval
		t.ended = t.ended || ev.Activity == api.ActivityIdle
		return t.began != was.began || t.asks != was.asks || t.ended != was.ended
	case api.EventApprovalRequest:
		t.question = ev.Title
	case api.EventAgentMessage:
		if ev.Content != "" { // a command's last message may be empty: its output came before its end
			t.summary = ev.Content
		}
	case api.EventUsage:
		if ev.Usage != nil {
			t.usage = t.usage.Plus(*ev.Usage)
		}
	case api.EventError:
		t.failure = ev.Detail
	case api.EventToolCall:
		if t.command {
			t.readExit(ev)
		}
	}
	return false
}

func (t *turn) readExit(ev api.Event) {
	var said struct {
		ExitCode *int `json:"exit_code"`
	}
	if json.Unmarshal(ev.Raw, &said) == nil && said.ExitCode != nil {
		t.exit = said.ExitCode
	}
}
