package runner

import (
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestBudget(t *testing.T) {
	chunk := api.Event{Type: api.EventAgentMessageChunk, Delta: strings.Repeat("x", 1000), ReplyTo: "m1"}
	message := api.Event{Type: api.EventAgentMessage, Content: strings.Repeat("x", 1<<20), Final: true}
	b := newBudget(10 * (1000 + eventOverhead))
	var story []string
	for range 20 {
		for _, ev := range b.admit([]api.Event{chunk}) {
			story = append(story, string(ev.Type))
		}
	}
	for _, ev := range b.admit([]api.Event{chunk, message, {Type: api.EventTerminal, Data: []byte("x")}, {Type: api.EventStatus}}) {
		story = append(story, string(ev.Type))
	}
	want := strings.Repeat("agent_message_chunk ", 10) + "error agent_message status"
	if got := strings.Join(story, " "); got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
}
