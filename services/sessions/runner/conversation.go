package runner

import (
	"slices"
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

const (
	maxMessages     = 1000    // of the conversation that the agentapi contract serves
	maxConversation = 8 << 20 // bytes of them together
)

// entry is a message as the agentapi contract has it.
type entry struct {
	id      int // its place in the conversation
	role    string
	content string
	at      time.Time
	version int // of the conversation when it last changed

	message string // its id in the log
	replyTo string // of an agent's message: the user message of its turn
	open    bool   // more text follows
}

// conversation is the newest part of the session's conversation, in memory, for the
// agentapi contract. Readers wait for changed; none of them holds it up.
type conversation struct {
	mu      sync.Mutex
	entries []entry
	next    int
	bytes   int
	version int
	from    int           // the id of the first entry that the agent may know of
	changed chan struct{} // closed and replaced at each change
}

func newConversation(past []api.Message) *conversation {
	c := &conversation{changed: make(chan struct{})}
	for _, m := range past {
		c.add(entry{role: m.Role, content: m.Content, at: m.At, message: m.ID, replyTo: m.ReplyTo})
	}
	return c
}

// touch tells readers. mu is held.
func (c *conversation) touch() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// add appends e, dropping the oldest entries when there are too many. mu is held or c is new.
func (c *conversation) add(e entry) {
	c.version++
	e.id, e.version = c.next, c.version
	c.next++
	c.entries = append(c.entries, e)
	c.bytes += len(e.content)
	for len(c.entries) > 1 && (len(c.entries) > maxMessages || c.bytes > maxConversation) {
		c.bytes -= len(c.entries[0].content)
		c.entries = c.entries[1:]
	}
	c.touch()
}

// user adds a person's message, unless it is there already (it is driven again).
func (c *conversation) user(id, content string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.message == id {
			return
		}
	}
	c.add(entry{role: "user", content: content, at: time.Now(), message: id})
}

// renew has the agent's memory begin with the message id.
func (c *conversation) renew(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.message == id {
			c.from = e.id
		}
	}
}

// remembered returns what the agent may know of.
func (c *conversation) remembered() []entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range c.entries {
		if e.id >= c.from {
			return slices.Clone(c.entries[i:])
		}
	}
	return nil
}

// grow adds to the agent's message id, which is under way.
func (c *conversation) grow(id, delta, replyTo string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.entries); n > 0 && c.entries[n-1].message == id {
		e := &c.entries[n-1]
		if len(e.content) < maxHead { // the end of a longer one comes with its last form
			c.version++
			e.content += delta
			e.version = c.version
			c.bytes += len(delta)
			c.touch()
		}
		return
	}
	c.add(entry{role: "agent", content: delta, at: time.Now(), message: id, replyTo: replyTo, open: true})
}

// agent sets the last form of an agent's message.
func (c *conversation) agent(ev api.Event) {
	if ev.Content == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.entries); n > 0 && c.entries[n-1].message == ev.MessageID {
		e := &c.entries[n-1]
		c.version++
		c.bytes += len(ev.Content) - len(e.content)
		e.content, e.version, e.open = ev.Content, c.version, false
		c.touch()
		return
	}
	c.add(entry{role: "agent", content: ev.Content, at: time.Now(), message: ev.MessageID, replyTo: ev.ReplyTo})
}

// since returns the entries that changed after version, the current version, and what
// is closed at the next change.
func (c *conversation) since(version int) ([]entry, int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []entry
	for _, e := range c.entries {
		if e.version > version {
			out = append(out, e)
		}
	}
	return out, c.version, c.changed
}
