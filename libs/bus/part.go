package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

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
func (c *Conn) nextCheck() time.Duration { return c.partCheck/2 + rand.N(c.partCheck) } //nolint:gosec // jitter

// Part is a tenant's part of a ledger, and how it is followed.
type Part[T any] struct {
	// Live is where the ledger's changes are republished (LedgerConfig.Live).
	Live   string
	Tenant string
	// After is the revision behind which it begins.
	After uint64
	// Also, if not nil, lists entities of other parts to be followed, too: it is asked after each change of the part, and must not block.
	Also func() []Key
	// Read, if not nil, reads the changes that it knows for less than JSON costs.
	Read func(data []byte) (c api.Change[T], ok bool)
	// Tell is called for each change.
	Tell func(Entry[T]) error
	// CaughtUp, if not nil, is called whenever all that there was has been told, of entities that are listed anew, too.
	CaughtUp func()
}

// FollowPart tells of the changes of a part until ctx ends or Tell returns an error, which it returns. It holds no consumer, so any number of processes may do so: it reads what there is,
// follows what the ledger republishes, and reads again when something was missed. A change may come twice, and one that another has
// superseded before it was read not at all; Tell keeps what is the newest (Entry.NewerThan). What was written to the part before a change of an entity of another is told before
// that. When the bus lost its data, and the ledger begins anew, it is read from its beginning, and what was told before is not taken back. While the bus is away it waits.
func (l *Ledger[T]) FollowPart(ctx context.Context, cfg Part[T]) error {
	if err := checkToken("tenant", cfg.Tenant); err != nil {
		return err
	}
	if cfg.CaughtUp == nil {
		cfg.CaughtUp = func() {}
	}
	p := &part[T]{
		Part: cfg, l: l, pos: cfg.After, others: map[Key]*other{}, inbox: make(chan *nats.Msg, partRing), missed: make(chan struct{}, 1),
	}
	defer p.leave()
	for n := 1; ; n++ {
		end, err := l.c.subscribeInto(p.Live+p.Tenant+".*", p.inbox, p.miss)
		if err == nil {
			if err = l.c.confirm(ctx); err == nil {
				defer end()
				break
			}
			end()
		}
		if err := p.pause(ctx, n); err != nil {
			return err
		}
	}
	check := time.NewTimer(l.c.nextCheck())
	defer check.Stop()
	for {
		if err := p.catchUp(ctx); err != nil {
			return err
		}
		p.CaughtUp()
		if err := p.follow(ctx, check); err != nil {
			return err
		}
	}
}

// part is one call of FollowPart.
type part[T any] struct {
	Part[T]
	l *Ledger[T]

	epoch  int64  // of the stream that pos is a position in
	pos    uint64 // everything of the part up to here was read
	others map[Key]*other
	// checked is up to where nothing is missing, of the part and of the others: what came live after that may have left gaps.
	checked uint64
	inbox   chan *nats.Msg // of all subscriptions, in the order in which the bus sent them
	missed  chan struct{}
	fresh   bool   // some of the others have not been read
	came    uint64 // how often the connection had come back when reading began
}

// other is an entity of another part.
type other struct {
	pos uint64 // its newest change that was told
	end func() // nil: it is read now and then, and not heard
}

// maxOthers bounds the entities of other parts that are heard. The others are read at each check.
const maxOthers = 128

// sync follows what Also lists.
func (p *part[T]) sync() {
	if p.Also == nil {
		return
	}
	keys := p.Also()
	for key, o := range p.others {
		if !slices.Contains(keys, key) {
			o.leave()
			delete(p.others, key)
		}
	}
	for _, key := range keys {
		if p.others[key] != nil {
			continue
		}
		o := &other{}
		if len(p.others) < maxOthers {
			// What is asked for after this is read behind it: the bus takes what one connection says in order.
			end, err := p.l.c.subscribeInto(p.Live+key.Tenant+"."+key.ID, p.inbox, p.miss)
			if err != nil {
				p.l.c.log.Warn("follow", "stream", p.l.stream, "entry", key.ID, "err", err)
			}
			o.end = end
		}
		p.others[key], p.fresh = o, true
	}
}

func (o *other) leave() {
	if o.end != nil {
		o.end()
	}
}

func (p *part[T]) leave() {
	for _, o := range p.others {
		o.leave()
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
	p.came = p.l.c.nc.Stats().Reconnects
	if err := p.readPart(ctx); err != nil {
		return err
	}
	p.checked = max(p.checked, p.pos)
	p.sync()
	return p.readOthers(ctx)
}

// readPart reads what is new in the part.
func (p *part[T]) readPart(ctx context.Context) error {
	subject := p.l.prefix + p.Tenant + ".*"
	for n := 1; ; n++ {
		last, err := p.l.c.getLast(ctx, p.l.stream, subject)
		if errors.Is(err, errNoMessage) {
			return nil
		}
		if err == nil {
			if epoch := epochOf(last); epoch > p.epoch && !last.foreign {
				if p.epoch != 0 {
					p.l.c.log.Warn("the bus has lost what it kept; the ledger is read from its beginning", "stream", p.l.stream)
					p.pos, p.checked = 0, 0
					for _, o := range p.others {
						o.pos = 0
					}
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
	return p.pages(ctx, func(each func(stored) error) (more bool, err error) {
		return p.l.c.getNewest(ctx, p.l.stream, subject, p.pos+1, partPage, each)
	}, func(m stored) error {
		if key, ok := p.l.keyOf(m.subject); ok {
			if err := p.tell(ctx, key, m); err != nil {
				return err
			}
		}
		p.pos = m.seq
		return nil
	})
}

// pages asks for page after page until there are no more, and waits while the bus is away. It ends with an error of each, which gets what was read.
func (p *part[T]) pages(ctx context.Context, page func(each func(stored) error) (more bool, err error), each func(stored) error) error {
	for n := 1; ; {
		var stop error
		more, err := page(func(m stored) error { stop = each(m); return stop })
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case stop != nil:
			return stop
		case err != nil && api.CodeOf(err) != api.CodeUnavailable:
			return fmt.Errorf("follow %s of %s: %w", p.l.cfg.Noun, p.Tenant, err)
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

// tell calls Tell for a change. One that cannot be read is a newer release's: the others are to be followed all the same.
func (p *part[T]) tell(ctx context.Context, key Key, m stored) error {
	e, err := p.decode(key, m)
	if m.foreign {
		e, err = p.l.genuine(ctx, key, m.seq)
	}
	if err != nil {
		p.l.c.log.Error("a change cannot be read", "err", err)
		return nil
	}
	return p.Tell(e)
}

func (p *part[T]) decode(key Key, m stored) (Entry[T], error) {
	if p.Read != nil {
		if c, ok := p.Read(m.data); ok {
			c.Rev = m.seq
			return Entry[T]{Key: key, Created: createdAt(m), Epoch: epochOf(m), Change: c}, nil
		}
	}
	return p.l.decode(key, m)
}

// othersAsked is how many entities of other parts are asked for at a time.
const othersAsked = 100

// readOthers reads what is new of the entities of other parts.
func (p *part[T]) readOthers(ctx context.Context) error {
	defer func() { p.fresh = false }()
	for keys := range slices.Chunk(slices.Collect(maps.Keys(p.others)), othersAsked) {
		req := batchRequest{Batch: othersAsked}
		from := uint64(math.MaxUint64)
		for _, key := range keys {
			req.NewestFor = append(req.NewestFor, p.l.prefix+key.Tenant+"."+key.ID)
			from = min(from, p.others[key].pos+1)
		}
		if err := p.pages(ctx, func(each func(stored) error) (more bool, err error) {
			_, err = p.l.c.getPage(ctx, p.l.stream, req, from, each) // of each the newest, so there are no more than were asked for
			return false, err
		}, func(m stored) error {
			key, ok := p.l.keyOf(m.subject)
			o := p.others[key]
			if !ok || o == nil || m.seq <= o.pos {
				return nil
			}
			if err := p.tell(ctx, key, m); err != nil {
				return err
			}
			o.pos = m.seq
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// behindMost is how many changes a check looks at of which some came live. Behind more it reads all.
const behindMost = 8

// behind reports whether there may be something that was not read. Mostly that is one question of the bus and an answer without a message, where catchUp takes several and a subscription. That
// the bus lost its data shows in nothing here; but then the connection came back.
func (p *part[T]) behind(ctx context.Context) bool {
	keys := slices.Collect(maps.Keys(p.others))
	if len(keys) > othersAsked {
		return true
	}
	of := []string{p.l.prefix + p.Tenant + ".*"}
	for _, key := range keys {
		of = append(of, p.l.prefix+key.Tenant+"."+key.ID)
	}
	for range behindMost {
		m, err := p.l.c.getFirst(ctx, p.l.stream, of, p.checked+1)
		if errors.Is(err, errNoMessage) {
			return false
		}
		read := p.pos
		if key, ok := p.l.keyOf(m.subject); ok && p.others[key] != nil {
			read = p.others[key].pos
		}
		if err != nil || m.seq > read {
			return true
		}
		p.checked = m.seq
	}
	return true
}

// follow tells what comes until something may be missing.
func (p *part[T]) follow(ctx context.Context, check *time.Timer) error {
	seen := map[string]uint64{} // by entity of the part: its last change that came live
	for {
		select {
		case m := <-p.inbox:
			missing, err := p.take(m, seen)
			if missing || err != nil {
				return err
			}
			if p.fresh {
				if err := p.readOthers(ctx); err != nil {
					return err
				}
				p.CaughtUp()
			}
		case <-p.missed:
			return nil
		case <-check.C:
			check.Reset(p.l.c.nextCheck())
			if len(p.others) == 0 || p.behind(ctx) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take tells a live change, unless one before it may be missing.
func (p *part[T]) take(m *nats.Msg, seen map[string]uint64) (missing bool, err error) {
	seq, err := strconv.ParseUint(m.Header.Get(headerSequence), 10, 64)
	before, berr := strconv.ParseUint(m.Header.Get(headerLastSequence), 10, 64)
	key, ok := p.l.keyOf(m.Header.Get(headerSubject))
	if err != nil || berr != nil || !ok || foreign(m, asCopy) {
		return true, nil
	}
	o := p.others[key]
	if o == nil && key.Tenant != p.Tenant {
		return false, nil // it is followed no more
	}
	e, err := p.decode(key, stored{seq: seq, header: m.Header, data: m.Data})
	if err != nil {
		p.l.c.log.Error("a change cannot be read", "err", err)
		return false, nil
	}
	if e.Epoch > p.epoch {
		return true, nil // another stream
	}
	if o != nil {
		// A connection that came back has missed changes of the part, perhaps, which go before this.
		if seq > o.pos && (before > o.pos || p.l.c.nc.Stats().Reconnects != p.came) {
			return true, nil
		}
		if seq <= o.pos {
			return false, nil
		}
		o.pos = seq
		return false, p.Tell(e)
	}
	if seq <= p.pos {
		return false, nil // read already
	}
	if before > max(p.pos, seen[key.ID]) {
		return true, nil // one of this entity is missing
	}
	seen[key.ID] = seq
	if err := p.Tell(e); err != nil {
		return false, err
	}
	p.sync()
	return false, nil
}
