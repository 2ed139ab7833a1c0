package bus

import "context"

// View is a ledger's newest state in memory, fed by one ordered consumer (recreated when it falls
// behind or the bus comes back, without losing or repeating an effect). All methods may be
// called at the same time. Reads never touch the bus.
type View[T any] struct{}

// ViewConfig says how a view indexes.
type ViewConfig[T any] struct {
	// Indexes maps an index's name to the values under which it lists an entry,
	// e.g. "owner" → tenant + "/" + owner. Each value lists its entries newest first (by Created).
	Indexes map[string]func(Entry[T]) []string
	// OnChange, if set, is called after each change was applied, in order, by the view's own goroutine; old is nil
	// for a new entity. It must not block.
	OnChange func(old *Entry[T], now Entry[T])
}

// View starts a view of the ledger. It must be run with Run.
func (l *Ledger[T]) View(cfg ViewConfig[T]) *View[T] { panic("todo") }

// Run feeds the view until ctx ends.
func (v *View[T]) Run(ctx context.Context) error { panic("todo") }

// Ready is closed when the view holds everything that the ledger held when Run began.
func (v *View[T]) Ready() <-chan struct{} { panic("todo") }

// Get returns the newest entry of key, and whether there is one (deleted entities are not).
func (v *View[T]) Get(key Key) (Entry[T], bool) { panic("todo") }

// Len returns how many entries index holds under value.
func (v *View[T]) Len(index, value string) int { panic("todo") }

// List returns up to limit entries that index holds under value, newest first, older than the entry whose
// Created is before (0: from the newest), for which keep (if not nil) answers true. It costs what it visits.
func (v *View[T]) List(index, value string, before uint64, limit int, keep func(Entry[T]) bool) []Entry[T] {
	panic("todo")
}

// All calls f for every live entry, in no order, until f returns false.
func (v *View[T]) All(f func(Entry[T]) bool) { panic("todo") }

// Wait returns the entry of key as soon as ok answers true for it, or ctx's error.
func (v *View[T]) Wait(ctx context.Context, key Key, ok func(Entry[T]) bool) (Entry[T], error) {
	panic("todo")
}

// Apply puts an entry that this process has just written into the view, if it is newer than what the view
// holds, so that a process reads its own writes. OnChange is called as usual, once per revision.
func (v *View[T]) Apply(e Entry[T]) { panic("todo") }
