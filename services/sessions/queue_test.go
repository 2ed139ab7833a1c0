package sessions

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
)

func TestQueue(t *testing.T) {
	const patience = 20 * time.Second
	q := newQueue()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	working, most, twice := map[bus.Key]int{}, 0, false
	runs := make(chan bus.Key, 1000)
	block := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.run(ctx, 4, func(_ context.Context, k bus.Key) {
			mu.Lock()
			working[k]++
			twice = twice || working[k] > 1
			most = max(most, len(working))
			mu.Unlock()
			runs <- k
			if k.ID == "slow" {
				<-block
			}
			mu.Lock()
			if working[k]--; working[k] == 0 {
				delete(working, k)
			}
			mu.Unlock()
		})
	}()
	next := func() bus.Key {
		t.Helper()
		select {
		case k := <-runs:
			return k
		case <-time.After(patience):
			t.Fatal("nothing runs")
			return bus.Key{}
		}
	}
	slow := bus.Key{ID: "slow"}
	q.add(slow)
	next()
	for range 5 { // while it is being worked on: once more, not five times
		q.add(slow)
	}
	for i := range 100 {
		q.add(bus.Key{ID: fmt.Sprint(i)})
	}
	for range 100 {
		if next() == slow {
			t.Fatal("two workers at once for one key")
		}
	}
	close(block)
	if next() != slow {
		t.Fatal("what was added meanwhile is lost")
	}
	begin := time.Now()
	late, early := bus.Key{ID: "late"}, bus.Key{ID: "early"}
	q.addAfter(late, time.Hour)
	q.addAfter(late, 60*time.Millisecond) // the earlier time stands
	q.addAfter(late, 2*time.Hour)
	q.addAfter(early, 20*time.Millisecond)
	if a, b := next(), next(); a != early || b != late || time.Since(begin) < 60*time.Millisecond {
		t.Errorf("%v, %v after %s", a, b, time.Since(begin))
	}
	cancel()
	<-done
	if twice || most > 4 {
		t.Errorf("one key twice: %v; %d at once", twice, most)
	}
	if len(q.state) != 0 || len(runs) != 0 {
		t.Errorf("left: %v, %d runs", q.state, len(runs))
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{-1: 1, 0: 1, 1: 2, 3: 8, 4: 10, 1000: 10} {
		if got := backoff(1, 10, n); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}
