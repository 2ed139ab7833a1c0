package bus

import (
	"context"
	"fmt"
)

// Changes calls f for up to limit changes of every entity with a revision above after, in the order in which they were
// written, tombstones included; more says that others follow. It keeps nothing in memory and needs no consumer: a reader that stores the
// last revision it handled goes on from there. An error from f ends it and is returned as is.
func (l *Ledger[T]) Changes(ctx context.Context, after uint64, limit int, f func(Entry[T]) error) (more bool, err error) {
	more, err = l.c.getBatch(ctx, l.stream, l.prefix+"*.*", after+1, limit, func(m stored) error {
		key, ok := l.keyOf(m.subject)
		if !ok || m.foreign {
			return nil
		}
		e, err := l.decode(key, m)
		if err != nil {
			return err
		}
		return f(e)
	})
	if err != nil {
		return false, fmt.Errorf("read changes of %s: %w", l.cfg.Noun, err)
	}
	return more, nil
}
