package bus

import (
	"sync"

	"agentyard.dev/libs/api"
)

// maxTails bounds what a process remembers of where logs end.
const maxTails = 1 << 13

// tails remembers where the user's side of logs ended when this process last wrote there, so that it need not ask before it writes again. It may be wrong, for others
// write too: the write is on that condition, and who finds it wrong asks. The zero value knows nothing.
type tails struct {
	mu   sync.Mutex
	last map[string]uint64 // by subject
}

func (t *tails) get(subject string) (seq uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seq, ok = t.last[subject]
	return seq, ok
}

func (t *tails) put(subject string, seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.last[subject]; ok && old > seq {
		return
	}
	if t.last == nil {
		t.last = map[string]uint64{}
	}
	if len(t.last) >= maxTails {
		for one := range t.last { // any: who is asked for again is read again
			delete(t.last, one)
			break
		}
	}
	t.last[subject] = seq
}

func (t *tails) drop(subject string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, subject)
}

// Begin says that nothing was appended to the session's log yet, as far as the caller knows: who knows that a session is new saves AppendUser a question. Wrong, it costs
// one more.
func (l *Log) Begin(tenant, session string) {
	if checkTokens(tenant, session) == nil {
		l.tails.put(api.LogSubject(tenant, session, api.WriterUser), 0)
	}
}
