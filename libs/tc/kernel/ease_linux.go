package kernel

import (
	"time"

	"agentyard.dev/libs/tc"
)

// A lower rate comes with a shorter queue. Cut at once below what its senders have on the way, a bfifo would drop all that comes until the rest has drained: most of a TCP window, which is
// then sent again as one burst. So while packets wait in it, it is shortened in steps, each of which costs few of them, and its senders have noticed the first before the last.
const (
	easeEvery = 100 * time.Millisecond
	easePart  = 32       // of its length, in one step
	easeFrom  = 64 << 20 // bytes; none of ours is longer
)

// queueAt names the queue of a class on a device.
type queueAt struct {
	device int
	class  uint32
}

// ease has bfifos in which packets wait become shorter by one step only. What it decided it stays with, as long as this call of Apply takes.
func (a *apply) ease(at place, have, want *tree) {
	if have == nil {
		return
	}
	for h, q := range want.queues {
		old, ok := have.queues[h]
		if !ok || q.kind != string(tc.BFIFO) || old.kind != q.kind || old.handle != q.handle {
			continue
		}
		limit, decided := a.eased[queueAt{at.device, h}]
		if !decided {
			if have.waiting[h] == 0 || old.limit <= q.limit {
				continue
			}
			limit = min(old.limit, easeFrom)
			limit = max(limit-limit/easePart, q.limit)
			a.eased[queueAt{at.device, h}] = limit
		}
		a.easing = a.easing || limit > q.limit
		q.limit = limit
		want.queues[h] = q
	}
}
