package kernel_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// compiled is what a policy that bounds both directions makes of this kernel.
func compiled(t *testing.T, can tc.Capabilities, rate tc.BitsPerSecond) *tc.Plan {
	t.Helper()
	policy, err := tc.NewPolicy("office").Download(rate).Upload(rate).Policy()
	must(t, err)
	p, _, err := tc.Compile([]tc.Policy{policy}, tc.Session{ID: "s"}, can, time.Now())
	must(t, err)
	return p
}

// TestChangeCausesNoBurst changes rates, down and up, under TCP that fills its queue.
func TestChangeCausesNoBurst(t *testing.T) {
	for _, upload := range []bool{false, true} {
		name := "download"
		if upload {
			name = "upload"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			noBurst(t, upload, 40*tc.Mbit, 10*tc.Mbit, 2)
		})
	}
}

// noBurst follows a plan as an agent does, and counts what a sender has to send again in the second after a change. The same is counted without a change, and where the tree is made
// anew instead, which loses what waits.
func noBurst(t *testing.T, upload bool, fast, slow tc.BitsPerSecond, rounds int) {
	const span = time.Second
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	from, to := lab.Extend(t)
	address := kerneltest.Within4
	if upload {
		from, to, address = to, from, kerneltest.Beyond4
	}
	nothing := func() {}
	remake := func() {
		_, err := k.Remove(t.Context(), on)
		must(t, err)
	}
	for try := 1; ; try++ {
		flow := kerneltest.Connect(t, from, to, fmt.Sprintf("%s:%d", address, 5000+try), "cubic")
		again := func(rate tc.BitsPerSecond, first func()) int {
			p, before, end := compiled(t, k.Capabilities(), rate), flow.Retransmits(t), time.Now().Add(span)
			first()
			for time.Now().Before(end) {
				left := time.Until(end)
				if r := apply(t, k, on, p); r.Again != 0 {
					left = min(left, r.Again)
				}
				kerneltest.Wait(left)
			}
			return flow.Retransmits(t) - before
		}
		var still, down, up, anew []int
		again(fast, nothing) // the queue fills
		for range rounds {
			still = append(still, again(fast, nothing))
			down = append(down, again(slow, nothing))
			up = append(up, again(fast, nothing))
			again(fast, nothing)
			anew = append(anew, again(slow, remake))
		}
		flow.Stop()
		few := sum(still) + sum(anew)/5
		t.Logf("sent again: %v without a change, %v with a lower rate, %v with a higher one, %v with a new tree", still, down, up, anew)
		if sum(anew) >= 20*rounds && sum(down) <= few && sum(up) <= few {
			return
		}
		if try == 5 {
			t.Fatalf("changes of rates have more than %d packets sent again", few)
		}
	}
}

func sum(of []int) (total int) {
	for _, n := range of {
		total += n
	}
	return total
}

// TestEase has a queue that is always full get shorter: in steps that end, and at once when nothing waits.
func TestEase(t *testing.T) {
	const long, short = 400_000, 80_000
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	queued := func(limit tc.Bytes) *tc.Plan {
		p := plan(simple(tc.AtHost, 2*tc.Mbit), nil)
		p.Download.Leaves[0].Queue.Limit = limit
		return p
	}
	backlog := func() uint32 {
		counters, err := k.Count([]kernel.Interface{on})
		must(t, err)
		return counters[0].Download[0].Backlog
	}
	apply(t, k, on, queued(long))
	lab.Session.Sink(t, kerneltest.Session4+":4000")
	stop := lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 40 * tc.Mbit})
	until(t, "the queue is full", func() bool { return backlog() > long*9/10 })
	calls := 0
	for again := true; again; calls++ {
		if calls == 100 {
			t.Fatal("it does not end")
		}
		k := k
		if calls%2 == 1 { // another process goes on
			k = lab.Node.Open(t)
		}
		r := apply(t, k, on, queued(short))
		if len(r.Steps) != 1 || !strings.Contains(r.Steps[0], "bfifo") {
			t.Fatalf("steps: %v", r.Steps)
		}
		again = r.Again != 0
		kerneltest.Wait(10 * time.Millisecond) // less is sent than one step takes
	}
	if r := apply(t, k, on, queued(short)); len(r.Steps) != 0 || r.Again != 0 {
		t.Errorf("it is not as planned: %+v", r)
	}
	if calls < 2 {
		t.Errorf("it took %d steps", calls)
	}
	apply(t, k, on, queued(long))
	stop()
	until(t, "the queue is empty", func() bool { return backlog() == 0 })
	if r := apply(t, k, on, queued(short)); len(r.Steps) != 1 || r.Again != 0 {
		t.Errorf("nothing waits: %+v", r)
	}
}
