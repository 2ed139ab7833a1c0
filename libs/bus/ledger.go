package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

// LedgerConfig names one ledger.
type LedgerConfig struct {
	Noun   string        // subject token: "sessions"; the stream is its upper-case form
	MaxAge time.Duration // of a change; zero: for ever. For ledgers of short-lived things.
	// History bounds the changes kept for one entity; zero: 512, and the oldest goes first.
	History  int64
	Replicas int // zero: 1
	// Live, if set, is the subject prefix under which each new change also appears, followed by tenant.id.
	Live string
}

// Key names one entity of a ledger. Both are single subject tokens (letters, digits, '-', '_').
type Key struct {
	Tenant string
	ID     string
}

// Meta says who changes an entity and why. At is set by the ledger.
type Meta struct {
	Actor  string
	Verb   string
	Reason string
}

// Entry is the newest change of one entity. Rev is the stream sequence.
type Entry[T any] struct {
	Key     Key
	Created uint64 // the revision of the entity's first change that is known; orders entities by age
	// Epoch says which stream it is that Rev counts in: when it was made, in milliseconds since 1970. A bus that lost its data begins another,
	// whose revisions are low again. Only ledgers with Live have it (LedgerConfig).
	Epoch int64
	api.Change[T]
}

// place says where the bus keeps e. Who is told first says it: afterwards others read e.
func (e *Entry[T]) place(m stored) {
	if e.Rev == 0 {
		e.Rev, e.Created, e.Epoch = m.seq, createdAt(m), epochOf(m)
	}
}

// NewerThan reports whether e is to be believed rather than a change that was at rev of the stream of epoch.
func (e Entry[T]) NewerThan(epoch int64, rev uint64) bool {
	return e.Epoch > epoch || e.Epoch == epoch && e.Rev > rev
}

const (
	defaultHistory = 512
	// purgedFor is how long the tombstone of a purged entity stays, so that a view that was
	// away hears of it.
	purgedFor = 24 * time.Hour
	// updateTries bounds the retries of one Update; with jitter, a hundred writers of one
	// entity all get through.
	updateTries = 200
)

// Ledger holds the state and history of all entities of one noun: a stream with a subject
// per entity, LedgerPrefix + noun.tenant.id, whose newest message is the state.
type Ledger[T any] struct {
	c      *Conn
	cfg    LedgerConfig
	stream string
	prefix string // of subjects, with the final dot
	epoch  string // of the stream, if its entries are to say it

	view   atomic.Pointer[View[T]]
	writer string        // names this process's writes
	writes atomic.Uint64 // numbers them
}

// OpenLedger makes or updates the stream of cfg and returns the ledger. It waits for the bus
// until ctx ends.
func OpenLedger[T any](ctx context.Context, c *Conn, cfg LedgerConfig) (*Ledger[T], error) {
	l, err := newLedger[T](c, cfg)
	if err != nil {
		return nil, err
	}
	var live *jetstream.RePublish
	if cfg.Live != "" {
		live = &jetstream.RePublish{Source: l.prefix + ">", Destination: cfg.Live + ">"}
	}
	made, err := c.openStream(ctx, jetstream.StreamConfig{
		Name:              l.stream,
		RePublish:         live,
		Subjects:          []string{l.prefix + "*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          max(cfg.Replicas, c.replicas),
		MaxAge:            cfg.MaxAge,
		MaxMsgsPerSubject: l.cfg.History,
		AllowDirect:       true,
		DenyDelete:        true,
		AllowMsgTTL:       true,
		Duplicates:        duplicatesWindow(cfg.MaxAge),
	})
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", cfg.Noun, err)
	}
	if cfg.Live != "" {
		l.epoch = strconv.FormatInt(made.UnixMilli(), 10)
	}
	return l, nil
}

// ReadLedger returns the ledger of noun without making or changing its stream, for a process
// that reads what another service owns (the gateway's session table; libs/trust). Get, History
// and View work as soon as the owner has made the stream: a View waits for it. It panics for a
// noun that is no subject token.
func ReadLedger[T any](c *Conn, noun string) *Ledger[T] {
	l, err := newLedger[T](c, LedgerConfig{Noun: noun})
	if err != nil {
		panic(fmt.Sprintf("bus: ledger %q: %v", noun, err))
	}
	return l
}

func newLedger[T any](c *Conn, cfg LedgerConfig) (*Ledger[T], error) {
	if err := checkToken("noun", cfg.Noun); err != nil {
		return nil, err
	}
	if cfg.History == 0 {
		cfg.History = defaultHistory
	}
	return &Ledger[T]{
		c: c, cfg: cfg, stream: streamName(cfg.Noun),
		prefix: api.LedgerPrefix + cfg.Noun + ".", writer: nuid.Next(),
	}, nil
}

// duplicatesWindow is the smallest that a stream with maxAge may have: ledgers do not use it.
func duplicatesWindow(maxAge time.Duration) time.Duration {
	const small = time.Minute
	if maxAge > 0 && maxAge < small {
		return maxAge
	}
	return small
}

// openStream makes or updates a stream, and repeats while the bus is away. It returns when the stream was made.
func (c *Conn) openStream(ctx context.Context, cfg jetstream.StreamConfig) (made time.Time, err error) {
	for n := 1; ; n++ {
		try, cancel := context.WithTimeout(ctx, OpTimeout)
		stream, err := c.js.CreateOrUpdateStream(try, cfg)
		cancel()
		if err == nil {
			return stream.CachedInfo().Created, nil
		}
		var refused *jetstream.APIError
		if errors.As(err, &refused) && refused.Code >= 400 && refused.Code < 500 {
			return made, api.Errorf(api.CodeInternal, "the bus refused the stream: %w", err)
		}
		if perr := pause(ctx, n); perr != nil {
			return made, busError("make stream", errors.Join(perr, err))
		}
	}
}

func (l *Ledger[T]) subject(key Key) (string, error) {
	if err := checkTokens(key.Tenant, key.ID); err != nil {
		return "", err
	}
	return l.prefix + key.Tenant + "." + key.ID, nil
}

// keyOf is the inverse of subject.
func (l *Ledger[T]) keyOf(subject string) (Key, bool) {
	rest, ok := strings.CutPrefix(subject, l.prefix)
	if !ok {
		return Key{}, false
	}
	tenant, id, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(id, ".") {
		return Key{}, false
	}
	return Key{Tenant: tenant, ID: id}, true
}

func (l *Ledger[T]) decode(key Key, m stored) (Entry[T], error) {
	e := Entry[T]{Key: key}
	if err := json.Unmarshal(m.data, &e.Change); err != nil {
		return Entry[T]{}, api.Errorf(api.CodeInternal, "%s/%s/%s at %d cannot be read: %w", l.cfg.Noun, key.Tenant, key.ID, m.seq, err)
	}
	e.Rev = 0 // whatever it says itself
	e.place(m)
	return e, nil
}

// createdAt returns the revision of the first change of m's entity.
func createdAt(m stored) uint64 {
	if v := m.header.Get(headerCreated); v != "" {
		if created, err := strconv.ParseUint(v, 10, 64); err == nil {
			return created
		}
	}
	return m.seq
}

// epochOf returns which stream m says it is in; 0: it does not.
func epochOf(m stored) int64 {
	v := m.header.Get(headerEpoch)
	if v == "" {
		return 0
	}
	epoch, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0
	}
	return epoch
}

// newest reads the newest change of key, which may be a tombstone; ok is false when there is
// none at all.
func (l *Ledger[T]) newest(ctx context.Context, key Key, subject string) (e Entry[T], ok bool, err error) {
	m, err := l.c.getLast(ctx, l.stream, subject)
	if errors.Is(err, errNoMessage) {
		return Entry[T]{Key: key}, false, nil
	}
	if err != nil {
		return Entry[T]{}, false, err
	}
	if m.foreign {
		e, err = l.genuine(ctx, key, m.seq)
	} else {
		e, err = l.decode(key, m)
	}
	return e, err == nil, err
}

// Get reads the newest change of key from the bus: not_found when there is none or it was deleted.
func (l *Ledger[T]) Get(ctx context.Context, key Key) (Entry[T], error) {
	subject, err := l.subject(key)
	if err != nil {
		return Entry[T]{}, err
	}
	e, ok, err := l.newest(ctx, key, subject)
	if err != nil {
		return Entry[T]{}, fmt.Errorf("get %s: %w", l.cfg.Noun, err)
	}
	if !ok || e.Deleted {
		return Entry[T]{}, l.notFound(key)
	}
	return e, nil
}

func (l *Ledger[T]) notFound(key Key) error {
	return api.Errorf(api.CodeNotFound, "%s has no entry %s", l.cfg.Noun, key.ID)
}

func (l *Ledger[T]) conflict(key Key) error {
	return api.Errorf(api.CodeConflict, "%s entry %s was changed by another", l.cfg.Noun, key.ID)
}

// History returns up to limit changes of key with a revision above after, oldest first.
func (l *Ledger[T]) History(ctx context.Context, key Key, after uint64, limit int) ([]api.Change[T], error) {
	subject, err := l.subject(key)
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	var changes []api.Change[T]
	_, err = l.c.getBatch(ctx, l.stream, subject, after+1, limit, func(m stored) error {
		if m.foreign {
			return nil
		}
		e, err := l.decode(key, m)
		if err == nil {
			changes = append(changes, e.Change)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read history of %s: %w", l.cfg.Noun, err)
	}
	return changes, nil
}

// Purge erases an entity with its history (retention). What remains is a tombstone, which the
// stream drops after a day, so that every view hears of the end.
func (l *Ledger[T]) Purge(ctx context.Context, key Key) error { return l.PurgeAt(ctx, key, 0) }

// PurgeAt is Purge on the condition that rev is the newest revision (unless it is zero): conflict otherwise, and nothing is erased.
func (l *Ledger[T]) PurgeAt(ctx context.Context, key Key, rev uint64) error {
	subject, err := l.subject(key)
	if err != nil {
		return err
	}
	ctx, cancel := opContext(ctx)
	defer cancel()
	meta := Meta{Actor: "service:bus", Verb: "purge"}
	for n := 1; ; n++ {
		e, ok, err := l.newest(ctx, key, subject)
		if err != nil {
			return fmt.Errorf("purge %s: %w", l.cfg.Noun, err)
		}
		if !ok {
			return nil
		}
		if rev != 0 && e.Rev != rev {
			return l.conflict(key)
		}
		var zero T
		_, err = l.write(ctx, subject, e, meta, zero, true, nats.Header{"Nats-TTL": {purgedFor.String()}})
		if err == nil {
			break
		}
		if !errors.Is(err, errWrongSequence) || n == updateTries {
			return fmt.Errorf("purge %s: %w", l.cfg.Noun, err)
		}
	}
	return l.c.purge(ctx, l.stream, subject, 1)
}

// Forget erases the history of an entity: its newest change stays, and is all that is known of it.
func (l *Ledger[T]) Forget(ctx context.Context, key Key) error {
	subject, err := l.subject(key)
	if err != nil {
		return err
	}
	return l.c.purge(ctx, l.stream, subject, 1)
}

// purge removes the messages of subject, but the newest keep ones.
func (c *Conn) purge(ctx context.Context, stream, subject string, keep uint64) error {
	body, err := json.Marshal(map[string]any{"filter": subject, "keep": keep})
	if err != nil {
		return err
	}
	ctx, cancel := opContext(ctx)
	defer cancel()
	for n := 1; ; n++ {
		err := c.purgeOnce(ctx, stream, body)
		if err == nil {
			return nil
		}
		var refused *api.Error
		if errors.As(err, &refused) {
			return err
		}
		if perr := pause(ctx, n); perr != nil {
			return busError("purge "+stream, errors.Join(perr, err))
		}
	}
}

func (c *Conn) purgeOnce(ctx context.Context, stream string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.attempt)
	defer cancel()
	r, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+stream, body)
	if err != nil {
		return err
	}
	_, err = parseAck(r.Data)
	return err
}

// ErrUnchanged is returned by an update function that has nothing to write.
var ErrUnchanged = api.Errorf(api.CodeConflict, "unchanged")
