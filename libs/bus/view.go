package bus

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
)

// View is a ledger's newest state in memory, fed by one ordered consumer (recreated when it falls
// behind or the bus comes back, without losing or repeating an effect). All methods may be
// called at the same time. Reads never touch the bus. Entries are shared: do not modify what
// their state refers to.
type View[T any] struct {
	l   *Ledger[T]
	cfg ViewConfig[T]

	mu      sync.RWMutex
	items   map[Key]*viewItem[T]
	index   map[string]*viewIndex[T]
	indexes []*viewIndex[T]              // the same, in the order of viewItem.values
	maxAge  time.Duration                // of the stream
	seen    uint64                       // every change up to this revision was applied
	ahead   map[Key]uint64               // tombstones applied ahead of the consumer
	flying  map[string]*Entry[T]         // writes of this process on their way, by name, so that what it has just encoded need not be decoded
	waiters map[Key]map[*waiter]struct{} // who waits for a key
	expiry  []expiring                   // with MaxAge: in order of revision
	changes []viewChange[T]              // OnChange has yet to be called for
	spare   []viewChange[T]              // what changes uses next; guarded by feedMu
	running bool

	ready     chan struct{}
	readyOnce sync.Once
	wake      chan struct{} // changes was appended by Apply

	feedMu sync.Mutex // serialises OnChange; held while one message is handled
	epoch  *feed      // the consumer in use; guarded by feedMu
	heard  atomic.Int64
}

// ViewConfig says how a view indexes.
type ViewConfig[T any] struct {
	// Indexes maps an index's name to the values under which it lists an entry,
	// e.g. "owner" → tenant + "/" + owner. Each value lists its entries newest first (by Created).
	Indexes map[string]func(Entry[T]) []string
	// OnChange, if set, is called after each change was applied, in order and one at a time,
	// while Run runs; old is nil for a new entity. now.Deleted tells a deletion, with the last
	// state in old. At the start it is called for the newest change of each entity. It must not block, nor modify old.
	OnChange func(old *Entry[T], now Entry[T])
}

type viewItem[T any] struct {
	entry  *Entry[T]  // shared with changes: replaced, never modified
	values [][]string // by index, as in View.indexes
}

type viewChange[T any] struct{ old, now *Entry[T] }

// waiter is one call of Wait. It is a pointer's identity that counts, so it must not be empty: all empty structs may have one address.
type waiter struct{ changed chan struct{} }

type expiring struct {
	at  time.Time
	key Key
	rev uint64
}

// View starts a view of the ledger. It must be run with Run. The newest view of a ledger is
// what Update starts from and what the ledger's own writes are applied to.
func (l *Ledger[T]) View(cfg ViewConfig[T]) *View[T] {
	v := &View[T]{
		l: l, cfg: cfg,
		items:   map[Key]*viewItem[T]{},
		index:   map[string]*viewIndex[T]{},
		ahead:   map[Key]uint64{},
		flying:  map[string]*Entry[T]{},
		waiters: map[Key]map[*waiter]struct{}{},
		ready:   make(chan struct{}),
		wake:    make(chan struct{}, 1),
		maxAge:  l.cfg.MaxAge,
		running: true, // changes that are applied before Run are told by Run
	}
	for name, f := range cfg.Indexes {
		ix := newViewIndex(f)
		v.index[name], v.indexes = ix, append(v.indexes, ix)
	}
	l.view.Store(v)
	return v
}

// Ready is closed when the view holds everything that the ledger held when Run began.
func (v *View[T]) Ready() <-chan struct{} { return v.ready }

func (v *View[T]) setReady() { v.readyOnce.Do(func() { close(v.ready) }) }

// Get returns the newest entry of key, and whether there is one (deleted entities are not).
func (v *View[T]) Get(key Key) (Entry[T], bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if it := v.items[key]; it != nil {
		return *it.entry, true
	}
	return Entry[T]{}, false
}

// Seen returns the revision up to which the view has every change, whoever made it.
func (v *View[T]) Seen() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.seen
}

// Len returns how many entries index holds under value.
func (v *View[T]) Len(index, value string) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if ix := v.index[index]; ix != nil {
		return ix.len(value)
	}
	return 0
}

// LenWith is Len and, of the entries in coming, those that the view does not have yet: at one moment, so that none counts twice.
func (v *View[T]) LenWith(index, value string, coming iter.Seq[Key]) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n := 0
	if ix := v.index[index]; ix != nil {
		n = ix.len(value)
	}
	for key := range coming {
		if v.items[key] == nil {
			n++
		}
	}
	return n
}

// List returns up to limit entries that index holds under value, newest first, older than the entry whose
// Created is before (0: from the newest), for which keep (if not nil) answers true. It costs what it visits.
func (v *View[T]) List(index, value string, before uint64, limit int, keep func(Entry[T]) bool) []Entry[T] {
	v.mu.RLock()
	defer v.mu.RUnlock()
	ix := v.index[index]
	if ix == nil || limit <= 0 {
		return nil
	}
	var list []Entry[T]
	ix.descend(value, before, func(it *viewItem[T]) bool {
		if keep == nil || keep(*it.entry) {
			list = append(list, *it.entry)
		}
		return len(list) < limit
	})
	return list
}

// All calls f for every live entry, in no order, until f returns false. f must not call the
// view's methods.
func (v *View[T]) All(f func(Entry[T]) bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, it := range v.items {
		if !f(*it.entry) {
			return
		}
	}
}

// Wait returns the entry of key as soon as ok answers true for it, or ctx's error.
func (v *View[T]) Wait(ctx context.Context, key Key, ok func(Entry[T]) bool) (Entry[T], error) {
	w := &waiter{changed: make(chan struct{}, 1)}
	v.mu.Lock()
	if v.waiters[key] == nil {
		v.waiters[key] = map[*waiter]struct{}{}
	}
	v.waiters[key][w] = struct{}{}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		delete(v.waiters[key], w)
		if len(v.waiters[key]) == 0 {
			delete(v.waiters, key)
		}
		v.mu.Unlock()
	}()
	for {
		if e, found := v.Get(key); found && ok(e) {
			return e, nil
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
			return Entry[T]{}, api.Errorf(api.CodeUnavailable, "wait for %s: %w", v.l.cfg.Noun, ctx.Err())
		}
	}
}

// Apply puts an entry that this process has just written into the view, if it is newer than what the view
// holds, so that a process reads its own writes. OnChange is called as usual, once per revision.
// The ledger's own writes are applied already.
func (v *View[T]) Apply(e Entry[T]) {
	v.mu.Lock()
	v.applyLocked(&e, false)
	told := len(v.changes) > 0
	v.mu.Unlock()
	v.wakeIf(told)
}

// expect says that e is written under the name id; nil: no more.
func (v *View[T]) expect(id string, e *Entry[T]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e == nil {
		delete(v.flying, id)
		return
	}
	v.flying[id] = e
}

// answered applies the write id, which the bus keeps as m, unless the consumer has brought it before the answer came, and returns it.
func (v *View[T]) answered(id string, m stored) Entry[T] {
	v.mu.Lock()
	e := v.flying[id]
	delete(v.flying, id)
	e.place(m)
	v.applyLocked(e, false)
	told := len(v.changes) > 0
	v.mu.Unlock()
	v.wakeIf(told)
	return *e
}

// wakeIf has Run call OnChange.
func (v *View[T]) wakeIf(changed bool) {
	if changed {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}

// applyLocked takes a change into the view. fed says that it came from the consumer, which
// brings all changes in order.
func (v *View[T]) applyLocked(e *Entry[T], fed bool) {
	// What the consumer has passed is in the view, or was replaced or removed since.
	if e.Rev <= v.seen {
		return
	}
	gone := v.ahead[e.Key]
	if fed {
		v.seen = e.Rev
		if gone != 0 && gone <= e.Rev {
			delete(v.ahead, e.Key)
		}
	}
	it := v.items[e.Key]
	if gone >= e.Rev || (it != nil && it.entry.Rev >= e.Rev) {
		return
	}
	if e.Deleted && !fed {
		v.ahead[e.Key] = e.Rev
	}

	var old *Entry[T]
	if it != nil {
		old = it.entry
	}
	switch {
	case e.Deleted && it == nil:
		return // of an entity that this view never saw
	case e.Deleted:
		v.removeLocked(it)
	case it != nil && it.entry.Created != e.Created: // deleted and made again, unseen
		v.removeLocked(it)
		v.insertLocked(e)
	case it != nil:
		v.replaceLocked(it, e)
	default:
		v.insertLocked(e)
	}
	if v.maxAge > 0 && !e.Deleted {
		v.expiry = append(v.expiry, expiring{at: e.At.Add(v.maxAge), key: e.Key, rev: e.Rev})
	}
	if v.cfg.OnChange != nil && v.running {
		v.changes = append(v.changes, viewChange[T]{old: old, now: e})
	}
	for w := range v.waiters[e.Key] {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (v *View[T]) insertLocked(e *Entry[T]) {
	it := &viewItem[T]{entry: e}
	v.items[e.Key] = it
	if len(v.indexes) > 0 {
		it.values = make([][]string, len(v.indexes))
	}
	for i, ix := range v.indexes {
		it.values[i] = ix.values(*e)
		ix.add(it, it.values[i])
	}
}

func (v *View[T]) removeLocked(it *viewItem[T]) {
	for i, ix := range v.indexes {
		ix.remove(it, it.values[i])
	}
	delete(v.items, it.entry.Key)
}

// replaceLocked keeps the item in those index lists that the new entry stays in.
func (v *View[T]) replaceLocked(it *viewItem[T], e *Entry[T]) {
	it.entry = e
	for i, ix := range v.indexes {
		it.values[i] = ix.move(it, it.values[i])
	}
}

// expireLocked removes what the stream has dropped by age. It is no change: nobody made it.
func (v *View[T]) expireLocked(now time.Time) {
	n := 0
	for ; n < len(v.expiry) && now.After(v.expiry[n].at); n++ {
		x := v.expiry[n]
		if it := v.items[x.key]; it != nil && it.entry.Rev == x.rev {
			v.removeLocked(it)
		}
	}
	if n > 0 {
		v.expiry = append(v.expiry[:0:0], v.expiry[n:]...)
	}
}
