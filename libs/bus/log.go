package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

// Log is the LOG stream: the events of all sessions. A session has two subjects, one per writer (api.LogSubject);
// their common order is the stream's. New entries are republished under api.LivePrefix.
//
// An entry holds one event, or several that were appended together (a JSON array), so they are
// kept together or not at all. An event's Seq follows from its entry's stream sequence and its place there
// (entrySeq): it grows along the log, and nothing outside this package looks into it.
//
// Every entry is written on the condition of the subject's last sequence, which stays in its
// header: so a reader can tell that the entry before it is no longer kept.
type Log struct {
	c      *Conn
	writer string
	writes atomic.Uint64
	tails  tails
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
	// maxEntry bounds the events of one entry.
	maxEntry = 1000
	// seqStride is the distance between the last events of two adjacent entries.
	seqStride = 1024
)

// entrySeq returns the Seq of event i of the n events of the entry at a stream sequence. The
// last one's is a multiple of seqStride, so that every Seq tells at which entry to go on.
func entrySeq(stream uint64, i, n int) uint64 { return stream*seqStride - uint64(n-1-i) }

// nextEntry returns the stream sequence from which events after seq are found.
func nextEntry(seq uint64) uint64 { return seq/seqStride + 1 }

// OpenLog makes or updates the stream (sessions service). It waits for the bus until ctx ends.
func OpenLog(ctx context.Context, c *Conn, cfg LogConfig) (*Log, error) {
	if cfg.MaxPerSession == 0 {
		cfg.MaxPerSession = defaultMaxPerSession
	}
	window := dedupWindow
	if cfg.MaxAge > 0 {
		window = min(window, cfg.MaxAge)
	}
	_, err := c.openStream(ctx, jetstream.StreamConfig{
		Name:              logStream,
		Subjects:          []string{api.LogPrefix + "*.*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          max(cfg.Replicas, c.replicas),
		MaxAge:            cfg.MaxAge,
		MaxMsgsPerSubject: cfg.MaxPerSession,
		Duplicates:        window,
		AllowDirect:       true,
		DenyDelete:        true,
		RePublish:         &jetstream.RePublish{Source: api.LogPrefix + ">", Destination: api.LivePrefix + ">"},
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
	last, known := l.tails.get(subject)
	guessed := known
	for n := 1; ; n++ {
		if !known {
			m, err := l.c.getLast(ctx, logStream, subject)
			if err != nil && !errors.Is(err, errNoMessage) {
				return 0, false, fmt.Errorf("append to log: %w", err)
			}
			last = m.seq
		}
		ack, err := l.c.conditional(ctx, m, last, l.c.written(logStream, subject, last, id))
		if err == nil {
			if !ack.Duplicate {
				l.tails.put(subject, ack.Seq)
			}
			return entrySeq(ack.Seq, 0, 1), ack.Duplicate, nil
		}
		l.tails.drop(subject)
		if !errors.Is(err, errWrongSequence) {
			return 0, false, fmt.Errorf("append to log: %w", err)
		}
		known = false
		if n > 1 && !(guessed && n == 2) { // after a guess the first try is the second
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
	evs := decodeEntry(session, m)
	return evs[len(evs)-1], nil
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
	return entrySeq(m.seq, 0, 1), m.header.Get(headerWriter), nil
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
	l.tails.drop(api.LogSubject(tenant, session, api.WriterUser))
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

// decodeEntry returns the events that a message holds, at least one. What cannot be read
// becomes an error event in its place, so that a reader goes on.
func decodeEntry(session string, m stored) []api.Event {
	var evs []api.Event
	var err error
	if data := bytes.TrimLeft(m.data, " \t\r\n"); len(data) > 0 && data[0] == '[' {
		err = json.Unmarshal(data, &evs)
	} else {
		evs = make([]api.Event, 1)
		err = json.Unmarshal(data, &evs[0])
	}
	if err != nil || len(evs) == 0 || len(evs) > maxEntry {
		evs = []api.Event{{Type: api.EventError, Code: api.CodeInternal, Detail: "this entry of the log cannot be read"}}
	}
	for i := range evs {
		evs[i].Seq, evs[i].Session = entrySeq(m.seq, i, len(evs)), session
		if evs[i].At.IsZero() {
			evs[i].At, _ = time.Parse(time.RFC3339Nano, m.header.Get(headerTimeStamp))
		}
	}
	return evs
}

// joinEvents returns the entry of several encoded events.
func joinEvents(data [][]byte) []byte {
	if len(data) == 1 {
		return data[0]
	}
	n := len(data) + 1
	for _, d := range data {
		n += len(d)
	}
	entry := append(make([]byte, 0, n), '[')
	for i, d := range data {
		if i > 0 {
			entry = append(entry, ',')
		}
		entry = append(entry, d...)
	}
	return append(entry, ']')
}
