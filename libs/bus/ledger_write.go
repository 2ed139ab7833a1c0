package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

// write stores the change that follows old, on the condition that old is the newest. It
// returns errWrongSequence when it is not. A write whose answer was lost is asked for again,
// so an entry is returned exactly if it was written once.
func (l *Ledger[T]) write(ctx context.Context, subject string, old Entry[T], meta Meta, state T, deleted bool, extra nats.Header) (Entry[T], error) {
	// One copy on the heap is encoded and becomes the view's.
	e := &Entry[T]{Key: old.Key, Change: api.Change[T]{
		At: time.Now().UTC(), Actor: meta.Actor, Verb: meta.Verb, Reason: meta.Reason, Deleted: deleted, State: state,
	}}
	data, err := json.Marshal(&e.Change)
	if err != nil {
		return Entry[T]{}, api.Errorf(api.CodeInternal, "encode %s: %w", l.cfg.Noun, err)
	}
	id := l.writer + ":" + strconv.FormatUint(l.writes.Add(1), 10)
	h := nats.Header{headerWrite: {id}}
	for k, v := range extra {
		h[k] = v
	}
	if l.epoch != "" {
		h[headerEpoch] = []string{l.epoch}
	}
	// After a deletion the entity begins anew.
	if old.Rev != 0 && (!old.Deleted || deleted) {
		h[headerCreated] = []string{strconv.FormatUint(old.Created, 10)}
	}
	m := &nats.Msg{Subject: subject, Header: h, Data: data}
	v := l.view.Load()
	if v != nil {
		v.expect(id, e)
	}
	ack, err := l.c.conditional(ctx, m, old.Rev, l.c.written(l.stream, subject, old.Rev, id))
	if err != nil {
		if v != nil {
			v.expect(id, nil)
		}
		return Entry[T]{}, err
	}
	kept := stored{seq: ack.Seq, header: h}
	if v != nil {
		return v.answered(id, kept), nil
	}
	e.place(kept)
	return *e, nil
}

// Create writes the first change of key, or the first after a deletion: conflict when the entity exists.
func (l *Ledger[T]) Create(ctx context.Context, key Key, meta Meta, state T) (Entry[T], error) {
	subject, err := l.subject(key)
	if err != nil {
		return Entry[T]{}, err
	}
	ctx, cancel := opContext(ctx)
	defer cancel()
	old := Entry[T]{Key: key}
	for n := 1; ; n++ {
		e, err := l.write(ctx, subject, old, meta, state, false, nil)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, errWrongSequence) {
			return Entry[T]{}, fmt.Errorf("create %s: %w", l.cfg.Noun, err)
		}
		var ok bool
		if old, ok, err = l.newest(ctx, key, subject); err != nil {
			return Entry[T]{}, fmt.Errorf("create %s: %w", l.cfg.Noun, err)
		}
		if ok && !old.Deleted || n == updateTries {
			return Entry[T]{}, api.Errorf(api.CodeConflict, "%s already has an entry %s", l.cfg.Noun, key.ID)
		}
	}
}

// Update reads key, calls f with its state and writes what f returns, on the condition that
// nobody wrote in between; otherwise it starts again (bounded, with jitter; then conflict). f must be pure and
// must not modify what its argument refers to (it is called again when another was faster); an
// error from it is returned as is, and ErrUnchanged writes nothing and returns the current entry. Update starts from view's
// entry when the ledger has one, so the usual cost is one round trip.
func (l *Ledger[T]) Update(ctx context.Context, key Key, meta Meta, f func(T) (T, error)) (Entry[T], error) {
	return l.change(ctx, key, 0, meta, false, f)
}

// UpdateAt is Update on the condition that the entity is at revision rev: conflict otherwise, without retry. rev 0 is Update.
func (l *Ledger[T]) UpdateAt(ctx context.Context, key Key, rev uint64, meta Meta, f func(T) (T, error)) (Entry[T], error) {
	return l.change(ctx, key, rev, meta, false, f)
}

// Replace writes state after old, the entry that the caller read or wrote last: conflict when it is not the newest any more. For who alone writes an
// entity: one round trip, where Update asks for the newest first.
func (l *Ledger[T]) Replace(ctx context.Context, old Entry[T], meta Meta, state T) (Entry[T], error) {
	subject, err := l.subject(old.Key)
	if err != nil {
		return Entry[T]{}, err
	}
	e, err := l.write(ctx, subject, old, meta, state, false, nil)
	switch {
	case errors.Is(err, errWrongSequence):
		return Entry[T]{}, l.conflict(old.Key)
	case err != nil:
		return Entry[T]{}, fmt.Errorf("replace %s: %w", l.cfg.Noun, err)
	}
	return e, nil
}

// Delete writes a tombstone: the entity is gone, its history stays. rev as in UpdateAt. Deleting what is gone is success.
func (l *Ledger[T]) Delete(ctx context.Context, key Key, rev uint64, meta Meta) error {
	_, err := l.change(ctx, key, rev, meta, true, func(T) (zero T, err error) { return zero, nil })
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	return err
}

func (l *Ledger[T]) change(ctx context.Context, key Key, rev uint64, meta Meta, deleted bool, f func(T) (T, error)) (Entry[T], error) {
	subject, err := l.subject(key)
	if err != nil {
		return Entry[T]{}, err
	}
	ctx, cancel := opContext(ctx)
	defer cancel()
	old, known := l.viewed(key, rev)
	viewed := known
	for n := 1; ; n++ {
		if !known {
			if old, known, err = l.newest(ctx, key, subject); err != nil {
				return Entry[T]{}, fmt.Errorf("update %s: %w", l.cfg.Noun, err)
			}
			if !known || old.Deleted {
				return Entry[T]{}, l.notFound(key)
			}
		}
		if rev != 0 && old.Rev != rev {
			return Entry[T]{}, l.conflict(key)
		}
		state, err := f(old.State)
		if err != nil && viewed {
			// The view may be behind, and an answer without a write proves nothing: ask the bus.
			known, viewed = false, false
			continue
		}
		if errors.Is(err, ErrUnchanged) {
			return old, nil
		}
		if err != nil {
			return Entry[T]{}, err
		}
		e, err := l.write(ctx, subject, old, meta, state, deleted, nil)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, errWrongSequence) {
			return Entry[T]{}, fmt.Errorf("update %s: %w", l.cfg.Noun, err)
		}
		if rev != 0 || n == updateTries {
			return Entry[T]{}, l.conflict(key)
		}
		if n > 1 || !viewed { // the first retry is at once: the view was merely behind
			if err := pause(ctx, min(n, 3)); err != nil {
				return Entry[T]{}, busError("update "+l.cfg.Noun, err)
			}
		}
		known, viewed = false, false
	}
}

// viewed returns the view's entry of key, if there is a view and it is not behind rev.
func (l *Ledger[T]) viewed(key Key, rev uint64) (Entry[T], bool) {
	v := l.view.Load()
	if v == nil {
		return Entry[T]{}, false
	}
	e, ok := v.Get(key)
	if !ok || e.Rev < rev {
		return Entry[T]{}, false
	}
	return e, true
}
