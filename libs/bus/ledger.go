package bus

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
)

// LedgerConfig names one ledger.
type LedgerConfig struct {
	Noun   string        // subject token: "sessions"; the stream is its upper-case form
	MaxAge time.Duration // of a change; zero: for ever. For ledgers of short-lived things.
	// History bounds the changes kept for one entity; zero: 512, and the oldest goes first.
	History  int64
	Replicas int // zero: 1
}

// Key names one entity of a ledger. Both are single subject tokens.
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
	api.Change[T]
}

// Ledger holds the state and history of all entities of one noun: a stream with a subject
// per entity, LedgerPrefix + noun.tenant.id, whose newest message is the state.
type Ledger[T any] struct{}

// OpenLedger makes or updates the stream of cfg and returns the ledger. It waits for the bus
// until ctx ends.
func OpenLedger[T any](ctx context.Context, c *Conn, cfg LedgerConfig) (*Ledger[T], error) {
	panic("todo")
}

// Get reads the newest change of key from the bus: not_found when there is none or it was deleted.
func (l *Ledger[T]) Get(ctx context.Context, key Key) (Entry[T], error) { panic("todo") }

// Create writes the first change of key, or the first after a deletion: conflict when the entity exists.
func (l *Ledger[T]) Create(ctx context.Context, key Key, meta Meta, state T) (Entry[T], error) {
	panic("todo")
}

// Update reads key, calls f with its state and writes what f returns, on the condition that
// nobody wrote in between; otherwise it starts again (bounded, with jitter; then conflict). f must be pure; an error from it is
// returned as is, and ErrUnchanged writes nothing and returns the current entry. Update starts from view's
// entry when the ledger has one, so the usual cost is one round trip.
func (l *Ledger[T]) Update(ctx context.Context, key Key, meta Meta, f func(T) (T, error)) (Entry[T], error) {
	panic("todo")
}

// UpdateAt is Update on the condition that the entity is at revision rev: conflict otherwise, without retry. rev 0 is Update.
func (l *Ledger[T]) UpdateAt(ctx context.Context, key Key, rev uint64, meta Meta, f func(T) (T, error)) (Entry[T], error) {
	panic("todo")
}

// Delete writes a tombstone: the entity is gone, its history stays. rev as in UpdateAt. Deleting what is gone is success.
func (l *Ledger[T]) Delete(ctx context.Context, key Key, rev uint64, meta Meta) error { panic("todo") }

// Purge erases an entity with its history (retention).
func (l *Ledger[T]) Purge(ctx context.Context, key Key) error { panic("todo") }

// History returns up to limit changes of key with a revision above after, oldest first.
func (l *Ledger[T]) History(ctx context.Context, key Key, after uint64, limit int) ([]api.Change[T], error) {
	panic("todo")
}

// ErrUnchanged is returned by an update function that has nothing to write.
var ErrUnchanged = api.Errorf(api.CodeConflict, "unchanged")
