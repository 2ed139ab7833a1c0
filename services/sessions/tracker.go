package sessions

import (
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// tracker remembers what is known beside the ledger while the process lives: what the runtime runs, what it saw end, and what
// runners said that is not written yet. All of it can be had again, from the runtime and the runners, or is of no use after a restart.
type tracker struct {
	mu       sync.Mutex
	sessions map[bus.Key]*tracked
}

// tracked is what is known of one session.
type tracked struct {
	running   int       // the incarnation that the runtime runs; 0: none known
	ended     int       // the newest incarnation that ended
	reason    string    // how it ended
	innocent  bool      // and it is no sign of a fault
	failures  int       // steps in a row that did not work
	notBefore time.Time // the runtime shall not be asked to start it
	written   time.Time
	report    *api.RunnerReportRequest // the newest that is not written
	touched   time.Time                // when a person last said something
	announce  []announcement
}

// announcement is a change of state that the session's log does not show yet.
type announcement struct {
	rev    uint64
	at     time.Time
	state  api.State
	reason string
	first  bool // the session is new, and so is its log
}

// maxAnnouncements bounds what waits for a log that cannot be written; the oldest goes first.
const maxAnnouncements = 16

func newTracker() *tracker { return &tracker{sessions: map[bus.Key]*tracked{}} }

// with calls f with what is known of key.
func (t *tracker) with(key bus.Key, f func(*tracked)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.sessions[key]
	if k == nil {
		k = &tracked{}
		t.sessions[key] = k
	}
	f(k)
}

// see returns a copy of what is known of key.
func (t *tracker) see(key bus.Key) tracked {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.sessions[key]; k != nil {
		return *k
	}
	return tracked{}
}

// forget drops what is known of a session of which nothing runs and nothing waits.
func (t *tracker) forget(key bus.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.sessions[key]; k != nil && k.running == 0 && len(k.announce) == 0 {
		delete(t.sessions, key)
	}
}

// restart begins anew with what the runtime runs: what an earlier term knew may be long ago.
func (t *tracker) restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.sessions {
		k.running, k.failures = 0, 0
	}
}

// keys returns the sessions of which anything is known.
func (t *tracker) keys() []bus.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([]bus.Key, 0, len(t.sessions))
	for key := range t.sessions {
		keys = append(keys, key)
	}
	return keys
}

// tidy drops announcements from before then, which the replica that reconciles has made, and what is known of
// sessions that over says have ended.
func (t *tracker) tidy(then time.Time, over func(bus.Key) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, k := range t.sessions {
		for len(k.announce) > 0 && k.announce[0].at.Before(then) {
			k.announce = k.announce[1:]
		}
		if k.running == 0 && len(k.announce) == 0 && k.report == nil && over(key) {
			delete(t.sessions, key)
		}
	}
}

func (t *tracker) touch(key bus.Key, at time.Time) {
	t.with(key, func(k *tracked) { k.touched = at })
}

// started notes that the runtime runs an incarnation, unless it has ended meanwhile.
func (t *tracker) started(key bus.Key, incarnation int) {
	t.with(key, func(k *tracked) {
		if k.ended < incarnation {
			k.running = incarnation
		}
	})
}

// exited notes the end of an incarnation.
func (t *tracker) exited(key bus.Key, x Exit) {
	t.with(key, func(k *tracked) {
		if k.running <= x.Incarnation {
			k.running = 0
		}
		if x.Incarnation > k.ended {
			k.ended, k.reason, k.innocent = x.Incarnation, x.Reason, x.Unwatched
		}
	})
}
