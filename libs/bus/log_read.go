package bus

import (
	"context"
	"fmt"
	"strconv"

	"agentyard.dev/libs/api"
)

// Read returns up to limit events (≤ 1000) of the session after sequence after, in order. writer "" means both. An event is
// returned with its Seq and Session set. When the oldest kept event shows that some after `after` aged out, the first
// returned event is, beyond limit, an api.EventGap with From and To, whose Seq is after. more says that others follow.
func (l *Log) Read(ctx context.Context, tenant, session string, writer api.LogWriter, after uint64, limit int) (evs []api.Event, more bool, err error) {
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
	evs = make([]api.Event, 1, min(limit, 256)+1)
	more, err = l.c.getBatch(ctx, logStream, base+filter, after+1, limit, func(m stored) error {
		if _, ok := before[m.subject]; !ok {
			before[m.subject] = precedes(m)
		}
		evs = append(evs, decodeEvent(session, m))
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("read log: %w", err)
	}
	if more { // a writer that this page does not show may begin later, behind a gap
		for _, w := range writers {
			if _, ok := before[base+string(w)]; ok {
				continue
			}
			_, err := l.c.getBatch(ctx, logStream, base+string(w), after+1, 1, func(m stored) error {
				before[m.subject] = precedes(m)
				return nil
			})
			if err != nil {
				return nil, false, fmt.Errorf("read log: %w", err)
			}
		}
	}
	var lost uint64
	for _, seq := range before {
		lost = max(lost, seq)
	}
	if lost <= after {
		return evs[1:], more, nil
	}
	evs[0] = api.Event{Type: api.EventGap, Seq: after, Session: session, From: after + 1, To: lost}
	if len(evs) > 1 {
		evs[0].At = evs[1].At
	}
	return evs, more, nil
}

// precedes returns the sequence of the entry that m followed on its subject when it was
// written; 0: none, or not known.
func precedes(m stored) uint64 {
	// Behind the first of an atomic batch, the entry before is the batch's own, and a batch has
	// consecutive sequences.
	if n, err := strconv.ParseUint(m.header.Get(headerBatchSeq), 10, 64); err == nil && n > 1 {
		return m.seq - 1
	}
	n, err := strconv.ParseUint(m.header.Get(headerExpectedLast), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
