package bus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

// Appender is the agent's side of one session's log: a single writer, fenced, that retries until its events are
// kept exactly once, in order.
//
// Appends made while a commit is in flight are grouped and committed together: as one entry of
// the log, which is published on the condition that the subject's last sequence is the one that
// this writer wrote. So a second writer makes the first fail with ErrSuperseded. When a commit's
// fate is unknown (the bus went away), the appender asks again with the same condition: it was
// kept exactly if the condition now fails and the last entry is its own (header Yard-Writer:
// <writer id>:<n>), which also holds when an earlier copy arrives late. The runner has no
// JetStream API permission, so the position is asked by the function that NewAppender is given.
//
// (JetStream's atomic batch publish would give each event a message of its own. But it stages a
// batch in files of its own and syncs them, under the stream's lock: some 15 ms for which every
// other session waits.)
type Appender struct {
	c        *Conn
	subject  string
	id       string
	position func(context.Context) (seq uint64, writer string, err error)

	mu      sync.Mutex
	queue   []group
	events  int // queued or in flight
	bytes   int
	queued  uint64 // events accepted so far
	kept    uint64 // events kept so far
	err     error  // why it ended
	changed chan struct{}

	wake chan struct{}
	last uint64 // the subject's last stream sequence; Run's own
	sent uint64 // the number of the last event that was given to a commit; Run's own
}

// group is events that are committed together or not at all.
type group struct {
	data  [][]byte
	bytes int
}

const (
	// The queue's bounds: what a burst may hold in memory while the bus is slow or away.
	appenderMaxEvents = 8192
	appenderMaxBytes  = 16 << 20
	// A commit's bounds: what is one entry. Beyond commitBytes no further group joins it.
	commitMaxEvents = maxEntry
	commitMaxBytes  = maxEvent
	commitBytes     = 256 << 10
	// lastTry bounds what Run does when its context has ended.
	lastTry = 3 * time.Second
)

// NewAppender returns an appender whose first append expects the subject's last sequence to be last.
// position asks for the subject's last sequence and the Yard-Writer header of that entry (the runner asks the sessions service).
func NewAppender(c *Conn, tenant, session string, last uint64, position func(context.Context) (seq uint64, writer string, err error)) *Appender {
	return &Appender{
		c: c, subject: api.LogSubject(tenant, session, api.WriterAgent), id: nuid.Next(), position: position,
		changed: make(chan struct{}), wake: make(chan struct{}, 1), last: last / seqStride,
	}
}

// Append queues events that are committed together or not at all (a turn's last message and its end); it blocks while the queue (bounded in count and bytes) is full and returns ErrSuperseded or ctx's error. The events are
// on their way, not yet kept. More than 1000 events, or one that is too large, are invalid.
func (a *Appender) Append(ctx context.Context, evs ...api.Event) error {
	if len(evs) == 0 {
		return nil
	}
	g := group{data: make([][]byte, len(evs))}
	for i, ev := range evs {
		data, err := encodeEvent(ev)
		if err != nil {
			return err
		}
		g.data[i] = data
		g.bytes += len(data)
	}
	g.bytes += len(evs) + 1 // brackets and commas
	if len(evs) > commitMaxEvents || g.bytes > commitMaxBytes {
		return api.Errorf(api.CodeInvalid, "%d events of %d bytes are too many for one commit", len(evs), g.bytes)
	}
	for {
		a.mu.Lock()
		if a.err != nil {
			a.mu.Unlock()
			return a.err
		}
		if a.events == 0 || (a.events+len(evs) <= appenderMaxEvents && a.bytes+g.bytes <= appenderMaxBytes) {
			a.queue = append(a.queue, g)
			a.events += len(evs)
			a.bytes += g.bytes
			a.queued += uint64(len(evs))
			a.mu.Unlock()
			select {
			case a.wake <- struct{}{}:
			default:
			}
			return nil
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "append to log: %w", ctx.Err())
		}
	}
}

// Flush returns when all that was queued before is kept.
func (a *Appender) Flush(ctx context.Context) error {
	a.mu.Lock()
	want := a.queued
	a.mu.Unlock()
	for {
		a.mu.Lock()
		kept, err, changed := a.kept, a.err, a.changed
		a.mu.Unlock()
		if kept >= want {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "flush log: %w", ctx.Err())
		}
	}
}

// notify wakes Append and Flush; a.mu is held.
func (a *Appender) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Run commits what is queued until ctx ends (after a last bounded try to commit what is left) or the appender is superseded.
// Then Append and Flush fail: with ErrSuperseded, or with unavailable after ctx's end.
func (a *Appender) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
			defer cancel()
			err := a.drain(last)
			if errors.Is(err, ErrSuperseded) {
				return a.end(ErrSuperseded)
			}
			_ = a.end(api.Errorf(api.CodeUnavailable, "append to log: the appender has stopped"))
			return err
		case <-a.wake:
			if err := a.drain(ctx); errors.Is(err, ErrSuperseded) {
				return a.end(ErrSuperseded)
			}
		}
	}
}

func (a *Appender) end(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	a.queue = nil
	a.notify()
	return err
}

// drain commits until the queue is empty. Its errors are ErrSuperseded and ctx's.
func (a *Appender) drain(ctx context.Context) error {
	for {
		groups, data := a.next()
		if len(data) == 0 {
			return nil
		}
		if err := a.commit(ctx, groups, data); err != nil {
			return err
		}
	}
}

// next returns the groups of the next commit, which stay queued until they are kept.
func (a *Appender) next() (groups []group, data [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	bytes, n := 0, 0
	for ; n < len(a.queue); n++ {
		g := a.queue[n]
		if n > 0 && (len(data)+len(g.data) > commitMaxEvents || bytes+g.bytes > commitBytes) {
			break
		}
		data = append(data, g.data...)
		bytes += g.bytes
	}
	groups = a.queue[:n:n]
	return groups, data
}

// commit writes data, the events of groups, and takes them from the queue.
func (a *Appender) commit(ctx context.Context, groups []group, data [][]byte) error {
	if a.err != nil {
		return a.err
	}
	number := a.sent + uint64(len(data))
	for n := 1; ; n++ {
		seq, err := a.try(ctx, data)
		if errors.Is(err, errWrongSequence) {
			seq, err = a.resolve(ctx, number)
		}
		if err == nil {
			a.last, a.sent = seq, number
			a.done(groups, len(data))
			return nil
		}
		if errors.Is(err, ErrSuperseded) {
			return err
		}
		if n == 10 {
			a.c.log.Warn("log does not take an append; trying on", "err", err)
		}
		if perr := pause(ctx, n); perr != nil {
			return api.Errorf(api.CodeUnavailable, "append to log: %w", errors.Join(perr, err))
		}
	}
}

// resolve finds out why the condition failed: because this very commit is kept already, whose
// answer was lost, or because of another writer.
func (a *Appender) resolve(ctx context.Context, number uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	seq, writer, err := a.position(ctx)
	if err != nil {
		return 0, err
	}
	seq /= seqStride
	id, n, _ := strings.Cut(writer, ":")
	if id == a.id && n == strconv.FormatUint(number, 10) {
		return seq, nil
	}
	if seq == a.last {
		// The position is older than the condition's failure: a reader that is behind.
		return 0, errors.New("the log's position is behind")
	}
	return 0, ErrSuperseded
}

func (a *Appender) done(groups []group, events int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = a.queue[len(groups):]
	if len(a.queue) == 0 {
		a.queue = nil // let go of the array
	}
	for _, g := range groups {
		a.bytes -= g.bytes
	}
	a.events -= events
	a.kept += uint64(events)
	a.notify()
}

// try publishes data as one entry, once, and waits for the answer.
func (a *Appender) try(ctx context.Context, data [][]byte) (uint64, error) {
	ack, err := a.c.publishOnce(ctx, &nats.Msg{Subject: a.subject, Data: joinEvents(data), Header: nats.Header{
		headerWriter:       {a.id + ":" + strconv.FormatUint(a.sent+uint64(len(data)), 10)},
		headerExpectedLast: {strconv.FormatUint(a.last, 10)},
	}})
	return ack.Seq, err
}

// ErrSuperseded says that another runner writes this session's log now.
var ErrSuperseded = api.Errorf(api.CodeConflict, "another runner writes this session's log now")
