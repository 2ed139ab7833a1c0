package bus

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
)

// secondLook is how long a log must have ended before what a reader has seen: a server that has just become the stream's leader may not know yet how far it goes.
const secondLook = time.Second

// end returns after, or the Seq of the log's last entry where that is before it. Then the bus has lost what was written last (it was restored from
// a backup, or its machine lost power), and numbers what it writes next as that was: who waits for what comes after it would miss this. Where the bus does not say, it returns after.
func (l *Log) end(ctx context.Context, tenant, session string, after uint64) uint64 {
	entry := nextEntry(after - 1) // after is in it
	reached := &l.c.logReached
	if reached.Load() >= entry {
		return after
	}
	// Mostly the entry is where it was, on any server. Where it is not, it may have aged out, or that server be late: the stream's leader knows.
	_, err := l.c.getBatch(ctx, logStream, api.LogPrefix+tenant+"."+session+".*", entry, 1, func(m stored) error {
		reached.Store(m.seq)
		return nil
	})
	if err != nil || reached.Load() >= entry {
		return after
	}
	for n := 1; ; n++ {
		info, err := l.c.streamInfo(ctx, logStream)
		if err != nil {
			return after
		}
		last := info.State.Last
		if last >= entry {
			reached.Store(last)
			return after
		}
		if n == 2 {
			return last * seqStride
		}
		select {
		case <-time.After(secondLook):
		case <-ctx.Done():
			return after
		}
	}
}
