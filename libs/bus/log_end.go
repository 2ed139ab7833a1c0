package bus

import (
	"context"
	"math"
)

// end returns after, or the Seq of the log's last entry where that is before it. Then the bus has lost what was written last (it was restored from
// a backup, or its machine lost power), and numbers what it writes next as that was: who waits for what comes after it would miss this. Where the bus does not say, it returns after.
//
// Of a log with several copies nobody is believed. What most of them keep is not lost; but a server that was cut off from the others answers for some time from where it was then,
// and a runner that believed it would do all again that was done since.
func (l *Log) end(ctx context.Context, after uint64) uint64 {
	entry := nextEntry(after - 1) // after is in it
	reached := &l.c.logReached
	if reached.Load() >= entry {
		return after
	}
	times := l.c.nc.Stats().Reconnects
	info, err := l.c.streamInfo(ctx, logStream)
	switch {
	case ctx.Err() != nil || l.c.nc.Stats().Reconnects != times:
		return after // whoever looks next asks again
	case err != nil || info.Config.Replicas > 1:
		reached.Store(math.MaxUint64) // nobody asks again until the bus was away
		return after
	case info.State.Last >= entry:
		reached.Store(info.State.Last)
		return after
	}
	return info.State.Last * seqStride
}
