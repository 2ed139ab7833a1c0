package runner

import (
	"sync"

	"agentyard.dev/libs/api"
)

const (
	// logBudget bounds what one incarnation may put into the log with partial output: the disk is everybody's.
	logBudget = 512 << 20
	// eventOverhead is about what an event costs beyond its text.
	eventOverhead = 256
)

// budget keeps an agent that prints without end from filling the log. Partial output
// (chunks, a terminal's bytes) is what can be had in such amounts and what a reader can do without: the
// messages, tool calls and ends of turns that it leads to are always kept.
type budget struct {
	mu   sync.Mutex
	left int
	told bool
}

func newBudget(bytes int) *budget { return &budget{left: bytes} }

// admit returns the events that may be appended; the first time that some may not, an event in their place says so.
func (b *budget) admit(evs []api.Event) []api.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := evs[:0:0]
	for i, ev := range evs {
		if !partial(ev.Type) {
			kept = append(kept, ev)
			continue
		}
		cost := len(ev.Delta) + len(ev.Data)*4/3 + eventOverhead
		if cost <= b.left {
			b.left -= cost
			kept = append(kept, ev)
			continue
		}
		b.left = 0 // what comes later is not kept either, so that the rest is not a patchwork
		if !b.told {
			b.told = true
			kept = append(kept, api.Event{
				Type: api.EventError, Code: api.CodeExhausted, At: evs[i].At, ReplyTo: ev.ReplyTo,
				Detail: "the session has printed more than its log may hold; further partial output is not kept, its messages and tool calls are",
			})
		}
	}
	return kept
}

func partial(t api.EventType) bool {
	return t == api.EventTerminal || t == api.EventAgentMessageChunk || t == api.EventAgentThoughtChunk
}
