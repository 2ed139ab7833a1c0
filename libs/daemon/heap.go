package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// heapFloor is how much a process may allocate before it collects garbage, however little it keeps. Go collects whenever the heap has doubled:
	// a service that keeps 20 MiB and allocates 500 MiB a second would do so 25 times a second, which was a quarter of the scheduler's work.
	// A process that keeps more than this is collected as Go would. A limit (GOMEMLIMIT, which the charts set) goes before it.
	heapFloor = 128 << 20
	// usualPercent is Go's own GOGC.
	usualPercent = 100
	liveMetric   = "/gc/heap/live:bytes"
)

var floorOnce sync.Once

// KeepHeapFloor has this process collect garbage no more often than each 128 MiB that it allocates, unless GOGC in its environment says
// when to. Every Daemon that runs does so.
func KeepHeapFloor() {
	floorOnce.Do(func() {
		if os.Getenv("GOGC") == "" {
			(&collection{percent: usualPercent, live: []metrics.Sample{{Name: liveMetric}}}).adjust()
		}
	})
}

// collection sees each garbage collection: it is garbage itself, and comes back.
type collection struct {
	percent int
	live    []metrics.Sample
}

func (c *collection) adjust() {
	metrics.Read(c.live)
	live := uint64(0)
	if v := c.live[0].Value; v.Kind() == metrics.KindUint64 {
		live = v.Uint64()
	}
	// Setting it stops the world for a moment: not for little.
	if p := percentFor(live); p > c.percent+c.percent/8 || p < c.percent-c.percent/8 || p == usualPercent && c.percent != p {
		c.percent = p
		debug.SetGCPercent(p)
	}
	runtime.SetFinalizer(c, (*collection).adjust)
}

// percentFor returns GOGC for a heap of which so much is live.
func percentFor(live uint64) int {
	const least = 4 << 20 // Go's own smallest heap
	return max(usualPercent, int(100*heapFloor/max(live, least)))
}
