package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
)

// Read returns up to limit events (≤ 1000) of the session after sequence after, in order. writer "" means both. An event is
// returned with its Seq and Session set. When the oldest kept event shows that some after `after` aged out, the first
// returned event is, beyond limit, an api.EventGap with From and To, whose Seq is after. more says that others follow.
//
// A log that ends before `after` went back (see end): then all that is returned is an api.EventGap whose To, as its Seq, is the end.
func (l *Log) Read(ctx context.Context, tenant, session string, writer api.LogWriter, after uint64, limit int) (evs []api.Event, more bool, err error) {
	read, more, err := l.read(ctx, tenant, session, writer, after, limit, decoded)
	if err != nil {
		return nil, false, err
	}
	evs = make([]api.Event, len(read))
	for i, ev := range read {
		evs[i] = ev.event
	}
	return evs, more, nil
}

// read is Read; open makes events of an entry.
func (l *Log) read(ctx context.Context, tenant, session string, writer api.LogWriter, after uint64, limit int,
	open func(session string, m stored) []*HubEvent,
) (evs []*HubEvent, more bool, err error) {
	if err := checkTokens(tenant, session); err != nil {
		return nil, false, err
	}
	writers := []api.LogWriter{api.WriterUser, api.WriterAgent}
	filter := "*"
	if writer != "" {
		if err := checkToken("writer", string(writer)); err != nil {
			return nil, false, err
		}
		writers, filter = []api.LogWriter{writer}, string(writer)
	}
	if limit <= 0 || limit > maxRead {
		limit = maxRead
	}
	ctx, cancel := opContext(ctx)
	defer cancel()

	base := api.LogPrefix + tenant + "." + session + "."
	before := map[string]uint64{} // by subject: the sequence before its first message here
	evs = make([]*HubEvent, 1, min(limit, 256)+1)
	more, err = l.c.getBatch(ctx, logStream, base+filter, nextEntry(after), limit, func(m stored) error {
		if _, ok := before[m.subject]; !ok {
			before[m.subject] = precedes(m)
		}
		entry := open(session, m)
		for len(entry) > 0 && entry[0].Seq <= after {
			entry = entry[1:]
		}
		evs = append(evs, entry...)
		if len(evs)-1 >= limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		more, err = true, nil // for all that is known: an entry of several events filled the page
		evs = evs[:limit+1]
	}
	if err != nil {
		return nil, false, fmt.Errorf("read log: %w", err)
	}
	if more { // a writer that this page does not show may begin later, behind a gap
		for _, w := range writers {
			if _, ok := before[base+string(w)]; ok {
				continue
			}
			_, err := l.c.getBatch(ctx, logStream, base+string(w), nextEntry(after), 1, func(m stored) error {
				before[m.subject] = precedes(m)
				return nil
			})
			if err != nil {
				return nil, false, fmt.Errorf("read log: %w", err)
			}
		}
	}
	if len(evs) == 1 && after > 0 {
		if end := l.end(ctx, after); end < after {
			return append(evs[:0], gap(session, end, after+1, end)), false, nil
		}
	}
	var lost uint64
	for _, seq := range before {
		lost = max(lost, seq)
	}
	if lost <= after {
		return evs[1:], more, nil
	}
	evs[0] = gap(session, after, after+1, lost)
	return evs, more, nil
}

func gap(session string, seq, from, to uint64) *HubEvent {
	ev := plain(api.Event{Type: api.EventGap, At: time.Now().UTC(), Seq: seq, Session: session, From: from, To: to})
	ev.encode()
	return ev
}

// errEnough ends a batched read before its end.
var errEnough = errors.New("enough")

// precedes returns the Seq of the last event before m's entry on its subject, as it was when m
// was written; 0: none, or not known.
func precedes(m stored) uint64 {
	n, err := strconv.ParseUint(m.header.Get(headerExpectedLast), 10, 64)
	if err != nil {
		return 0
	}
	return n * seqStride
}
