package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

// Log is the LOG stream: the events of all sessions. A session has two subjects, one per writer (api.LogSubject);
// their common order is the stream's, and an event's Seq is its stream sequence. New entries are republished
// under api.LivePrefix.
//
// Every entry is written on the condition of the subject's last sequence, which stays in its
// header: so a reader can tell that the entry before it is no longer kept.
type Log struct {
	c      *Conn
	writer string
	writes atomic.Uint64
}

// LogConfig bounds the log.
type LogConfig struct {
	MaxAge   time.Duration // zero: for ever (until Purge)
	Replicas int
	// MaxPerSession bounds one subject's messages; zero: 1,000,000, the oldest goes first (readers get a gap event).
	MaxPerSession int64
}

const (
	defaultMaxPerSession = 1_000_000
	// dedupWindow is how long a repeated user event is recognised.
	dedupWindow = 24 * time.Hour
	maxRead     = 1000
)

// OpenLog makes or updates the stream (sessions service). It waits for the bus until ctx ends.
func OpenLog(ctx context.Context, c *Conn, cfg LogConfig) (*Log, error) {
	if cfg.MaxPerSession == 0 {
		cfg.MaxPerSession = defaultMaxPerSession
	}
	window := dedupWindow
	if cfg.MaxAge > 0 {
		window = min(window, cfg.MaxAge)
	}
	err := c.openStream(ctx, jetstream.StreamConfig{
		Name:               logStream,
		Subjects:           []string{api.LogPrefix + "*.*.*"},
		Storage:            jetstream.FileStorage,
		Replicas:           max(cfg.Replicas, 1),
		MaxAge:             cfg.MaxAge,
		MaxMsgsPerSubject:  cfg.MaxPerSession,
		Duplicates:         window,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		DenyDelete:         true,
		RePublish:          &jetstream.RePublish{Source: api.LogPrefix + ">", Destination: api.LivePrefix + ">"},
	})
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return ReadLog(c), nil
}

// ReadLog returns the log without touching the stream's configuration (gateway).
func ReadLog(c *Conn) *Log { return &Log{c: c, writer: nuid.Next()} }

// AppendUser appends an event on the user's side and returns its sequence. An event with the same non-empty dedupID
// within 24 h is not written again: the first one's sequence is returned with duplicate set.
func (l *Log) AppendUser(ctx context.Context, tenant, session, dedupID string, ev api.Event) (seq uint64, duplicate bool, err error) {
	if err := checkTokens(tenant, session); err != nil {
		return 0, false, err
	}
	data, err := encodeEvent(ev)
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := opContext(ctx)
	defer cancel()
	subject := api.LogSubject(tenant, session, api.WriterUser)
	id := l.writer + ":" + strconv.FormatUint(l.writes.Add(1), 10)
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{headerWrite: {id}}}
	if dedupID != "" {
		m.Header[headerMsgID] = []string{tenant + "." + session + "." + dedupID}
	}
	for n := 1; ; n++ {
		last, err := l.c.getLast(ctx, logStream, subject)
		if err != nil && !errors.Is(err, errNoMessage) {
			return 0, false, fmt.Errorf("append to log: %w", err)
		}
		ack, err := l.c.conditional(ctx, m, last.seq, l.c.written(logStream, subject, last.seq, id))
		if err == nil {
			return ack.Seq, ack.Duplicate, nil
		}
		if !errors.Is(err, errWrongSequence) {
			return 0, false, fmt.Errorf("append to log: %w", err)
		}
		if n > 1 {
			if err := pause(ctx, min(n, 3)); err != nil {
				return 0, false, busError("append to log", err)
			}
		}
	}
}

// Last returns the newest event of one writer; not_found when there is none.
func (l *Log) Last(ctx context.Context, tenant, session string, writer api.LogWriter) (api.Event, error) {
	m, err := l.last(ctx, tenant, session, writer)
	if err != nil {
		return api.Event{}, err
	}
	return decodeEvent(session, m), nil
}

// Position returns the sequence of the newest entry on the agent's side and its Yard-Writer
// header: what an Appender asks for after its connection was away. Without an entry both are zero.
func (l *Log) Position(ctx context.Context, tenant, session string) (seq uint64, writer string, err error) {
	m, err := l.last(ctx, tenant, session, api.WriterAgent)
	if api.CodeOf(err) == api.CodeNotFound {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	return m.seq, m.header.Get(headerWriter), nil
}

func (l *Log) last(ctx context.Context, tenant, session string, writer api.LogWriter) (stored, error) {
	if err := checkTokens(tenant, session); err != nil {
		return stored{}, err
	}
	if err := checkToken("writer", string(writer)); err != nil {
		return stored{}, err
	}
	m, err := l.c.getLast(ctx, logStream, api.LogSubject(tenant, session, writer))
	if errors.Is(err, errNoMessage) {
		return stored{}, api.Errorf(api.CodeNotFound, "session %s has no events", session)
	}
	if err != nil {
		return stored{}, fmt.Errorf("read log: %w", err)
	}
	return m, nil
}

// Purge erases a session's events.
func (l *Log) Purge(ctx context.Context, tenant, session string) error {
	if err := checkTokens(tenant, session); err != nil {
		return err
	}
	return l.c.purge(ctx, logStream, api.LogPrefix+tenant+"."+session+".*", 0)
}

// encodeEvent returns an event as the log keeps it: its sequence and session are where it is
// kept, not in it.
func encodeEvent(ev api.Event) ([]byte, error) {
	ev.Seq, ev.Session = 0, ""
	if ev.At.IsZero() {
		ev.At = time.Now().UTC()
	}
	data, err := json.Marshal(ev)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "event cannot be encoded: %w", err)
	}
	if len(data) > maxEvent {
		return nil, api.Errorf(api.CodeInvalid, "event is larger than %d bytes", maxEvent)
	}
	return data, nil
}

// maxEvent bounds an event's JSON; headers need some room besides.
const maxEvent = sessionMaxPayload - 4096

// decodeEvent returns the event that a message holds. What cannot be read becomes an error
// event in its place, so that a reader goes on.
func decodeEvent(session string, m stored) api.Event {
	var ev api.Event
	if err := json.Unmarshal(m.data, &ev); err != nil {
		ev = api.Event{Type: api.EventError, Code: api.CodeInternal, Detail: "this entry of the log cannot be read"}
	}
	ev.Seq, ev.Session = m.seq, session
	if ev.At.IsZero() {
		ev.At, _ = time.Parse(time.RFC3339Nano, m.header.Get(headerTimeStamp))
	}
	return ev
}
