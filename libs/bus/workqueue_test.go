package bus

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestWorkQueue(t *testing.T) {
	const patience = 20 * time.Second
	q := NewWorkQueue()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	working, most, twice := map[Key]int{}, 0, false
	runs := make(chan Key, 1000)
	block := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.Run(ctx, 4, func(_ context.Context, k Key) {
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
	next := func() Key {
		t.Helper()
		select {
		case k := <-runs:
			return k
		case <-time.After(patience):
			t.Fatal("nothing runs")
			return Key{}
		}
	}
	slow := Key{ID: "slow"}
	q.Add(slow)
	next()
	for range 5 { // while it is being worked on: once more, not five times
		q.Add(slow)
	}
	for i := range 100 {
		q.Add(Key{ID: fmt.Sprint(i)})
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
	late, early := Key{ID: "late"}, Key{ID: "early"}
	q.AddAfter(late, time.Hour)
	q.AddAfter(late, 60*time.Millisecond) // the earlier time stands
	q.AddAfter(late, 2*time.Hour)
	q.AddAfter(early, 20*time.Millisecond)
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
