package runner

import (
	"context"
	"sync"

	"agentyard.dev/libs/api"
)

const (
	maxQueued      = 1000     // messages that wait for their turn
	maxQueuedBytes = 16 << 20 // of their content together
	maxAnswers     = 256      // answers kept for questions that were not asked yet
)

// item is one message that waits for its turn.
type item struct {
	api.Event
	own         bool          // posted to this runner directly, not to the log's user side
	interrupted bool          // before its turn began
	started     chan struct{} // closed when the turn begins, if not nil
}

func (i item) size() int {
	n := len(i.Content)
	for _, a := range i.Attachments {
		n += len(a.Data)
	}
	return n
}

// queue holds what the user's side of the log demands of the agent: messages in order,
// interruptions of the current turn and answers to questions.
type queue struct {
	mu       sync.Mutex
	items    []item
	bytes    int
	current  *turn             // nil between turns
	answers  map[string]string // by approval id
	order    []string          // of answers, oldest first
	changed  chan struct{}     // closed and replaced at each change
	intrSeq  uint64            // of the last interrupt that took effect
	askIndex map[string]chan string
}

func newQueue(interruptSeq uint64) *queue {
	return &queue{
		answers: map[string]string{}, changed: make(chan struct{}), intrSeq: interruptSeq,
		askIndex: map[string]chan string{},
	}
}

// wake tells all who wait. mu is held.
func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// push adds a message; it waits while too many wait already.
func (q *queue) push(ctx context.Context, it item) error {
	for {
		q.mu.Lock()
		if len(q.items) == 0 || len(q.items) < maxQueued && q.bytes+it.size() <= maxQueuedBytes {
			q.items = append(q.items, it)
			q.bytes += it.size()
			q.wake()
			q.mu.Unlock()
			return nil
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pushIdle adds a message if the agent is idle and nothing waits.
func (q *queue) pushIdle(it item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.current != nil || len(q.items) > 0 {
		return false
	}
	q.items, q.bytes = append(q.items, it), it.size()
	q.wake()
	return true
}

// next returns the oldest message and makes t, which is then about it, the current turn.
// It returns early, with false, when gone is closed.
func (q *queue) next(ctx context.Context, t *turn, gone <-chan struct{}) (bool, error) {
	for {
		q.mu.Lock()
		if len(q.items) > 0 {
			t.item = q.items[0]
			q.items = q.items[1:]
			q.bytes -= t.item.size()
			q.current = t
			q.wake()
			q.mu.Unlock()
			return true, nil
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-gone:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// done ends the current turn.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.current = nil
	q.wake()
}

// idle reports whether no turn is current and no message waits.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.current == nil && len(q.items) == 0
}

// interrupt interrupts the current turn. Between turns it meets the message that waits
// first, if any: it was sent while that message's turn was expected or under way (before a restart).
func (q *queue) interrupt(seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if seq <= q.intrSeq {
		return // it took effect before a restart
	}
	q.intrSeq = seq
	switch {
	case q.current != nil:
		q.current.interrupt()
	case len(q.items) > 0:
		q.items[0].interrupted = true
	}
}

// interruptSeq returns the sequence of the last interrupt that took effect.
func (q *queue) interruptSeq() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.intrSeq
}

// answer keeps the answer to a question or hands it to who waits.
func (q *queue) answer(approval, option string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ch, ok := q.askIndex[approval]; ok {
		select {
		case ch <- option:
		default: // the first answer counts
		}
		return
	}
	if _, known := q.answers[approval]; known {
		return
	}
	if len(q.order) == maxAnswers {
		delete(q.answers, q.order[0])
		q.order = q.order[1:]
	}
	q.answers[approval] = option
	q.order = append(q.order, approval)
}

// asking returns where the answer to a question arrives, and what ends the waiting.
func (q *queue) asking(approval string) (<-chan string, func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ch := make(chan string, 1)
	if option, ok := q.answers[approval]; ok {
		ch <- option
		delete(q.answers, approval)
		for i, id := range q.order {
			if id == approval {
				q.order = append(q.order[:i:i], q.order[i+1:]...)
				break
			}
		}
	}
	q.askIndex[approval] = ch
	return ch, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.askIndex, approval)
	}
}

// watch returns what is closed at the next change.
func (q *queue) watch() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.changed
}
