package bus

import (
	"context"
	"math/rand/v2"
	"time"

	"agentyard.dev/libs/api"
)

// followPage is how many events a follower reads at a time while it catches up.
const followPage = maxRead

// logCheck is how often, a half more or less, a follower of a log reads what it cannot have missed. A live message that was lost shows when another follows it, but the last
// of them is followed by nothing. Mostly that happens when somebody has just begun to listen, or has come back: the servers of a cluster hear of it one after another, and one that has not
// heard of it yet passes nothing on. So the first check is after a sixtieth of that, and each waits four times as long as the one before.
const logCheck = 2 * time.Minute

// Follow calls f for every event of the session after sequence after, in order, without gap or duplicate, across
// reconnects, until ctx ends or f returns an error, which Follow returns. It catches up with Read, then follows the live subject, and catches up
// again when the live stream shows a gap (a Nats-Last-Sequence that it has not seen, per subject), a drop or a reconnect, and now and then (logCheck). A log that went back (see Read) is followed from its end. atHead, if not nil, is called once when
// the first catch-up is complete. It holds at most a small bounded number of events in memory: a slow f makes Follow fall back to reading.
func (l *Log) Follow(ctx context.Context, tenant, session string, after uint64, f func(api.Event) error, atHead func()) error {
	return l.hub(decoded).Follow(ctx, tenant, session, after, func(ev *HubEvent) error { return f(ev.event) }, atHead)
}

// FollowUser is Log.Follow of the user's side for a session's runner, whose credential can
// follow that side live but cannot read the stream: read asks the sessions service instead.
func FollowUser(ctx context.Context, c *Conn, tenant, session string, after uint64,
	read func(ctx context.Context, after uint64, limit int) (evs []api.Event, more bool, err error),
	f func(api.Event) error, atHead func(),
) error {
	h := newHub(c, api.WriterUser, decoded, func(ctx context.Context, _, _ string, after uint64, limit int) ([]*HubEvent, bool, error) {
		evs, more, err := read(ctx, after, limit)
		out := make([]*HubEvent, len(evs))
		for i, ev := range evs {
			out[i] = plain(ev)
		}
		return out, more, err
	})
	return h.Follow(ctx, tenant, session, after, func(ev *HubEvent) error { return f(ev.event) }, atHead)
}

// Follow is Log.Follow through the hub.
func (h *Hub) Follow(ctx context.Context, tenant, session string, after uint64, f func(*HubEvent) error, atHead func()) error {
	if err := checkTokens(tenant, session); err != nil {
		return err
	}
	w := &follower{h: h, tenant: tenant, session: session, ring: newRing(), pos: after, f: f, atHead: atHead}
	name := topicName{tenant, session}
	for n := 1; ; n++ {
		t, err := h.join(ctx, name, w.ring)
		if err == nil {
			defer h.leave(name, t, w.ring)
			return w.run(ctx)
		}
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
}

// follower is one call of Follow.
type follower struct {
	h               *Hub
	tenant, session string
	ring            *ring
	f               func(*HubEvent) error
	atHead          func()

	pos   uint64            // all up to here was delivered
	seen  map[string]uint64 // by subject: its last event that was delivered live
	gapTo uint64            // the end of the last gap that was told

	checks int // since something was missing
}

func (w *follower) run(ctx context.Context) error {
	for {
		if err := w.catchUp(ctx); err != nil {
			return err
		}
		if w.atHead != nil {
			w.atHead()
			w.atHead = nil
		}
		if err := w.live(ctx); err != nil {
			return err
		}
	}
}

// catchUp reads until the head of the log.
func (w *follower) catchUp(ctx context.Context) error {
	w.seen = nil
	for n := 1; ; n++ {
		evs, more, err := w.page(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the bus is away: it will be back
			if api.CodeOf(err) == api.CodeInvalid || api.CodeOf(err) == api.CodeDenied || api.CodeOf(err) == api.CodeNotFound {
				return err
			}
			if err := pause(ctx, n); err != nil {
				return err
			}
			continue
		}
		n = 0
		for _, ev := range evs {
			if err := w.deliverRead(ev); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// page reads the next events. The place is given back before they are delivered: a slow f holds none.
func (w *follower) page(ctx context.Context) ([]*HubEvent, bool, error) {
	select {
	case w.h.reads <- struct{}{}:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	defer func() { <-w.h.reads }()
	return w.h.read(ctx, w.tenant, w.session, w.pos, followPage)
}

func (w *follower) deliverRead(ev *HubEvent) error {
	if ev.Type == api.EventGap && ev.Seq <= w.pos {
		if ev.Seq == w.pos && ev.To <= w.gapTo {
			return nil
		}
		w.gapTo, w.pos = ev.To, ev.Seq // the log may have gone back
		return w.f(ev)
	}
	if ev.Seq <= w.pos {
		return nil
	}
	if err := w.f(ev); err != nil {
		return err
	}
	w.pos = ev.Seq
	return nil
}

// untilCheck is how long the log is not read while nothing seems to be missing.
func (w *follower) untilCheck() time.Duration {
	most := w.h.c.logCheck
	d := min(most/60<<(2*min(w.checks, 3)), most)
	return d/2 + rand.N(d) //nolint:gosec // jitter
}

// live delivers what comes until something is missing, or may be.
func (w *follower) live(ctx context.Context) error {
	read := w.pos // everything up to here was seen, on both subjects
	w.seen = map[string]uint64{}
	check := time.NewTimer(w.untilCheck())
	defer check.Stop()
	for {
		entries, dropped, err := w.ring.take(ctx, check.C)
		if err != nil {
			return err
		}
		if len(entries) == 0 && !dropped {
			w.checks++
			return nil
		}
		for _, e := range entries {
			if e.events[len(e.events)-1].Seq <= w.pos {
				continue // read already
			}
			if e.before > max(read, w.seen[e.subject]) {
				w.checks = 0
				return nil // an entry of this subject is missing: read it
			}
			for _, ev := range e.events {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if ev.Seq <= w.pos {
					continue
				}
				if err := w.f(ev); err != nil {
					return err
				}
				w.pos = ev.Seq
			}
			w.seen[e.subject] = w.pos
		}
		if dropped {
			w.checks = 0
			return nil
		}
	}
}
