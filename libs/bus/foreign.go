package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

// Whoever asks JetStream something says where the answer goes, and the server writes it there, whatever the asker's own permissions: a session that appends to its log
// has an acknowledgement, and a node's agent that reads has a copy of what it reads, on any subject that it names, in a ledger of any tenant too. No permission forbids
// that. So a ledger believes only what one of its writers has written.

// headerStream is what a server puts into each copy of a message that it hands out, other than to a consumer.
const headerStream = "Nats-Stream"

// Where a message comes from says how often a server has named its stream in it.
const (
	asStored = 0 // a consumer's message is as it was written
	asCopy   = 1 // a direct get's, and a republished one
)

// foreign reports whether a server, and not one of a ledger's writers, has written m: it has no writer's name, or it is the copy of another message. copies is asStored or asCopy.
// Nothing may be hidden behind a header's early end, where a server adds what this looks for.
func foreign(m *nats.Msg, copies int) bool {
	if len(m.Header[headerWrite]) == 0 || len(m.Header[headerStream]) != copies {
		return true
	}
	const begin, end, colon = len("NATS/1.0\r\n"), len("\r\n"), len(": ")
	size := begin + end + len(m.Subject) + len(m.Reply) + len(m.Data)
	for name, values := range m.Header {
		for _, v := range values {
			size += len(name) + colon + len(v) + end
		}
	}
	return size != m.Size()
}

// genuine reads the newest change of key that a writer has written, where the one at rev is foreign. It is at rev, behind which the next change goes: a foreign message
// changes the revision and nothing else. Without any, key is deleted.
func (l *Ledger[T]) genuine(ctx context.Context, key Key, rev uint64) (Entry[T], error) {
	l.c.log.Warn("a message in a ledger that no service wrote there is passed over", "stream", l.stream, "tenant", key.Tenant, "entry", key.ID)
	subject, err := l.subject(key)
	if err != nil {
		return Entry[T]{}, err
	}
	var last stored
	for from, more := uint64(1), true; more; {
		more, err = l.c.getBatch(ctx, l.stream, subject, from, defaultHistory, func(m stored) error {
			if from = m.seq + 1; !m.foreign && m.seq < rev {
				last = m
			}
			return nil
		})
		if err != nil {
			return Entry[T]{}, fmt.Errorf("look behind what no service wrote: %w", err)
		}
	}
	if last.seq == 0 {
		return Entry[T]{Key: key, Created: rev, Change: api.Change[T]{Rev: rev, Deleted: true}}, nil
	}
	e, err := l.decode(key, last)
	e.Rev = rev
	return e, err
}
