package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
)

const (
	// partRing is how many live changes wait for one follower of a part; with more it reads the ledger instead.
	partRing = 256
	// partPage is how many changes are read at a time.
	partPage = 500
	// partCheck is how often, a half more or less, a follower reads what it cannot have missed, since a live message that was lost, and not
	// followed by another of its entity, shows in nothing.
	partCheck = 30 * time.Second
)

// nextCheck is partCheck with jitter: thousands of followers that came at one moment, when the bus did, shall not come back at one moment.
func nextCheck() time.Duration { return partCheck/2 + rand.N(partCheck) } //nolint:gosec // jitter

// FollowPart calls f for the changes of one tenant's part of a ledger, with a revision above after, until ctx ends or f returns an error,
// which it returns. It holds no consumer, so any number of processes may do so: it reads what there is, follows what the ledger
// republishes under live (LedgerConfig.Live), and reads again when something was missed. A change may come twice, and one that another has
// superseded before it was read not at all; f keeps what is the newest (Entry.NewerThan). When the bus lost its data, and the ledger begins anew, it
// is read from its beginning, and what was told before is not taken back. atHead, if not nil, is called when all that
// there was has been told. While the bus is away it waits.
func (l *Ledger[T]) FollowPart(ctx context.Context, live, tenant string, after uint64, f func(Entry[T]) error, atHead func()) error {
	if err := checkToken("tenant", tenant); err != nil {
		return err
	}
	p := &part[T]{l: l, tenant: tenant, f: f, pos: after, changes: make(chan partChange[T], partRing), missed: make(chan struct{}, 1)}
	for n := 1; ; n++ {
		err := l.c.Subscribe(ctx, live+tenant+".*", p.receive, p.miss)
		if err == nil {
			break
		}
		if err := p.pause(ctx, n); err != nil {
			return err
		}
	}
	check := time.NewTimer(nextCheck())
	defer check.Stop()
	for {
		if err := p.catchUp(ctx); err != nil {
			return err
		}
		if atHead != nil {
			atHead()
			atHead = nil
		}
		if err := p.live(ctx, check); err != nil {
			return err
		}
	}
}

// part is one call of FollowPart.
type part[T any] struct {
	l      *Ledger[T]
	tenant string
	f      func(Entry[T]) error

	epoch   int64  // of the stream that pos is a position in
	pos     uint64 // everything up to here was read
	changes chan partChange[T]
	missed  chan struct{}
}

type partChange[T any] struct {
	entry  Entry[T]
	before uint64 // the revision of the change before it, of the same entity
}

// receive takes a live change; it does not block.
func (p *part[T]) receive(_ string, header Header, data []byte) {
	seq, err := strconv.ParseUint(header.Get(headerSequence), 10, 64)
	before, berr := strconv.ParseUint(header.Get(headerLastSequence), 10, 64)
	key, ok := p.l.keyOf(header.Get(headerSubject))
	if err != nil || berr != nil || !ok {
		p.miss()
		return
	}
	e, err := p.l.decode(key, stored{seq: seq, header: header, data: data})
	if err != nil {
		p.l.c.log.Error("a change cannot be read", "err", err)
		return
	}
	select {
	case p.changes <- partChange[T]{e, before}:
	default:
		p.miss()
	}
}

// miss says that changes may be missing.
func (p *part[T]) miss() {
	select {
	case p.missed <- struct{}{}:
	default:
	}
}

// pause waits before try n (1, 2, …) of a read. One of a crowd waits long, for where the bus has too much to do it is because all of them read; but when the bus
// comes back it reads at once, since that happens to one after the other.
func (p *part[T]) pause(ctx context.Context, n int) error {
	if !p.l.c.crowd {
		return pause(ctx, n)
	}
	t := time.NewTimer(crowdDelay(n))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.missed:
	case <-t.C:
	}
	return nil
}

// catchUp reads to the ledger's head.
func (p *part[T]) catchUp(ctx context.Context) error {
	subject := p.l.prefix + p.tenant + ".*"
	for n := 1; ; n++ {
		last, err := p.l.c.getLast(ctx, p.l.stream, subject)
		if errors.Is(err, errNoMessage) {
			return nil
		}
		if err == nil {
			if epoch := epochOf(last); epoch > p.epoch {
				if p.epoch != 0 {
					p.l.c.log.Warn("the bus has lost what it kept; the ledger is read from its beginning", "stream", p.l.stream)
					p.pos = 0
				}
				p.epoch = epoch
			}
			if last.seq <= p.pos {
				return nil
			}
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := p.pause(ctx, n); err != nil { // the bus is away, or the ledger not made yet
			return err
		}
	}
	for n := 1; ; {
		var stop error
		more, err := p.l.c.getNewest(ctx, p.l.stream, subject, p.pos+1, partPage, func(m stored) error {
			key, ok := p.l.keyOf(m.subject)
			if ok {
				e, err := p.l.decode(key, m)
				if err != nil { // a newer release's: the others are to be followed all the same
					p.l.c.log.Error("a change cannot be read", "err", err)
				} else if stop = p.f(e); stop != nil {
					return stop
				}
			}
			p.pos = m.seq
			return nil
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case stop != nil:
			return stop
		case err != nil && api.CodeOf(err) != api.CodeUnavailable:
			return fmt.Errorf("follow %s of %s: %w", p.l.cfg.Noun, p.tenant, err)
		case err != nil: // the bus is away, or the ledger not made yet
			if err := p.pause(ctx, n); err != nil {
				return err
			}
			n++
		case !more:
			return nil
		default:
			n = 1
		}
	}
}

// live tells what comes until something may be missing.
func (p *part[T]) live(ctx context.Context, check *time.Timer) error {
	seen := map[string]uint64{} // by entity: its last change that came live
	for {
		select {
		case c := <-p.changes:
			if c.entry.Epoch > p.epoch {
				return nil // another stream
			}
			if c.entry.Rev <= p.pos {
				continue // read already
			}
			if c.before > max(p.pos, seen[c.entry.Key.ID]) {
				return nil // one of this entity is missing
			}
			seen[c.entry.Key.ID] = c.entry.Rev
			if err := p.f(c.entry); err != nil {
				return err
			}
		case <-p.missed:
			return nil
		case <-check.C:
			check.Reset(nextCheck())
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
