package bus

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
)

// Log is the LOG stream: the events of all sessions. A session has two subjects, one per writer (api.LogSubject);
// their common order is the stream's, and an event's Seq is its stream sequence. New entries are republished
// under api.LivePrefix.
type Log struct{}

// LogConfig bounds the log.
type LogConfig struct {
	MaxAge   time.Duration // zero: for ever (until Purge)
	Replicas int
	// MaxPerSession bounds one subject's messages; zero: 1,000,000, the oldest goes first (readers get a gap event).
	MaxPerSession int64
}

// OpenLog makes or updates the stream (sessions service).
func OpenLog(ctx context.Context, c *Conn, cfg LogConfig) (*Log, error) { panic("todo") }

// ReadLog returns the log without touching the stream's configuration (gateway).
func ReadLog(c *Conn) *Log { panic("todo") }

// AppendUser appends an event on the user's side and returns its sequence. An event with the same non-empty dedupID
// within 24 h is not written again: the first one's sequence is returned with duplicate set.
func (l *Log) AppendUser(ctx context.Context, tenant, session, dedupID string, ev api.Event) (seq uint64, duplicate bool, err error) {
	panic("todo")
}

// Read returns up to limit events (≤ 1000) of the session after sequence after, in order. writer "" means both. An event is
// returned with its Seq and Session set. When the oldest kept event shows that some after `after` aged out, the first
// returned event is an api.EventGap with From and To. more says that others follow.
func (l *Log) Read(ctx context.Context, tenant, session string, writer api.LogWriter, after uint64, limit int) (evs []api.Event, more bool, err error) {
	panic("todo")
}

// Last returns the newest event of one writer; not_found when there is none.
func (l *Log) Last(ctx context.Context, tenant, session string, writer api.LogWriter) (api.Event, error) {
	panic("todo")
}

// Purge erases a session's events.
func (l *Log) Purge(ctx context.Context, tenant, session string) error { panic("todo") }

// Follow calls f for every event of the session after sequence after, in order, without gap or duplicate, across
// reconnects, until ctx ends or f returns an error, which Follow returns. It catches up with Read, then follows the live subject, and catches up
// again when the live stream shows a gap (a Nats-Last-Sequence that it has not seen, per subject), a drop or a reconnect. atHead, if not nil, is called once when the first catch-up
// is complete. It holds at most a small bounded number of events in memory: a slow f makes Follow fall back to reading.
func (l *Log) Follow(ctx context.Context, tenant, session string, after uint64, f func(api.Event) error, atHead func()) error {
	panic("todo")
}

// Hub shares Follow's live subscriptions: however many clients of one process follow a session, it holds one
// subscription to that session. It decodes (and, for SSE, encodes) an event once.
type Hub struct{}

// NewHub returns a hub over the log.
func NewHub(l *Log) *Hub { panic("todo") }

// Follow is Log.Follow through the hub.
func (h *Hub) Follow(ctx context.Context, tenant, session string, after uint64, f func(*HubEvent) error, atHead func()) error {
	panic("todo")
}

// HubEvent is an event with its JSON form, made once and shared: do not modify either.
type HubEvent struct {
	api.Event
	JSON []byte
}

// Appender is the agent's side of one session's log: a single writer, fenced, that retries until its events are
// kept exactly once, in order.
//
// Appends made while a commit is in flight are grouped and committed together (JetStream's atomic batch
// publish, ≤ 1000 per batch; a lone event is published plainly), each on the condition that the subject's last sequence is the one that this
// writer wrote. So a second writer makes the first fail with ErrSuperseded. When a commit's fate is unknown (the bus
// went away), the appender asks again with the same condition: the batch was kept exactly if the condition now fails and the last
// entry is its own (header Yard-Writer: <writer id>:<n>), which a published copy with the same condition would also tell. The runner has no JetStream API permission,
// so the position is asked by the function that NewAppender is given.
type Appender struct{}

// NewAppender returns an appender whose first append expects the subject's last sequence to be last.
// position asks for the subject's last sequence and the Yard-Writer header of that entry (the runner asks the sessions service).
func NewAppender(c *Conn, tenant, session string, last uint64, position func(context.Context) (seq uint64, writer string, err error)) *Appender {
	panic("todo")
}

// Append queues events that are committed in one atomic batch (a turn's last message and its end); it blocks while the queue (bounded in count and bytes) is full and returns ErrSuperseded or ctx's error. The events are
// on their way, not yet kept.
func (a *Appender) Append(ctx context.Context, evs ...api.Event) error { panic("todo") }

// Flush returns when all that was queued before is kept.
func (a *Appender) Flush(ctx context.Context) error { panic("todo") }

// Run commits what is queued until ctx ends (after a last bounded try to commit what is left) or the appender is superseded.
func (a *Appender) Run(ctx context.Context) error { panic("todo") }

// ErrSuperseded says that another runner writes this session's log now.
var ErrSuperseded = api.Errorf(api.CodeConflict, "another runner writes this session's log now")
