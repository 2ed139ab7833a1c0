package fair

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestAnything puts random operations to the queue and checks after each what must always hold.
func TestAnything(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{Concurrency: 1 + r.IntN(6), PerTenant: r.IntN(4), PerUser: r.IntN(3), PerKey: 1 + r.IntN(2), Rates: map[string]Rate{"r0": {2, time.Second}}}
		q, now := New(cfg), epoch
		waiting, running := map[string]Task{}, map[string]Task{}
		for i := range 3000 {
			switch r.IntN(8) {
			case 0, 1, 2:
				task := Task{
					ID: fmt.Sprint(i), Tenant: fmt.Sprint("t", r.IntN(3)), User: fmt.Sprint("u", r.IntN(3)), Priority: r.IntN(10),
					Since: now, Seq: uint64(i),
				}
				if r.IntN(3) == 0 {
					task.Key = fmt.Sprint("k", r.IntN(3))
				}
				if r.IntN(3) == 0 {
					task.RateKey = fmt.Sprint("r", r.IntN(2))
				}
				if r.IntN(6) == 0 {
					task.Session = fmt.Sprint("s", r.IntN(3))
				}
				if r.IntN(5) == 0 {
					task.NotBefore = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
				}
				q.Add(now, task)
				waiting[task.ID] = task
			case 3, 4:
				if id, ok := q.Next(now); ok {
					if _, was := waiting[id]; !was {
						t.Fatalf("seed %d: %s does not wait", seed, id)
					}
					running[id] = waiting[id]
					delete(waiting, id)
				}
			case 5:
				for id := range running {
					q.Finish(now, id, time.Second)
					delete(running, id)
					break
				}
			case 6:
				for id := range waiting {
					q.Remove(now, id)
					delete(waiting, id)
					break
				}
			case 7:
				for id, task := range running {
					q.Return(now, id)
					waiting[id] = task
					delete(running, id)
					break
				}
			}
			now = now.Add(time.Duration(r.IntN(100)) * time.Millisecond)
			check(t, q, cfg, waiting, running)
			if t.Failed() {
				t.Fatalf("seed %d, operation %d", seed, i)
			}
		}
		for stuck := 0; len(waiting)+len(running) > 0; stuck++ {
			for id := range running {
				q.Finish(now, id, time.Second)
				delete(running, id)
			}
			for id, ok := q.Next(now); ok; id, ok = q.Next(now) {
				running[id] = waiting[id]
				delete(waiting, id)
			}
			now = now.Add(time.Second)
			if stuck > 10_000 {
				t.Fatalf("seed %d: %d never start", seed, len(waiting))
			}
		}
		if len(q.nodes) != 0 || q.ready != 0 || q.running != 0 || len(q.tenants) != 0 {
			t.Errorf("seed %d: the empty queue holds something", seed)
		}
	}
}

func check(t *testing.T, q *Queue, cfg Config, waiting, running map[string]Task) {
	t.Helper()
	if w, r := q.Len(); w != len(waiting) || r != len(running) {
		t.Errorf("%d wait and %d run, want %d and %d", w, r, len(waiting), len(running))
	}
	count := map[string]int{}
	for _, task := range running {
		count["all"]++
		count["t"+task.Tenant]++
		count["u"+task.Tenant+task.User]++
		count["k"+task.Tenant+task.Key]++
		count["s"+task.Tenant+task.Session]++
		for what, most := range map[string]int{"all": cfg.Concurrency, "t" + task.Tenant: cfg.PerTenant, "u" + task.Tenant + task.User: cfg.PerUser} {
			if most > 0 && count[what] > most {
				t.Errorf("%d of %s run", count[what], what)
			}
		}
		if task.Key != "" && count["k"+task.Tenant+task.Key] > cfg.PerKey || task.Session != "" && count["s"+task.Tenant+task.Session] > 1 {
			t.Errorf("too many of one key: %v", count)
		}
	}
	sum := 0
	for _, n := range q.Waiting(epoch, "") {
		sum += n
	}
	if sum != len(waiting) {
		t.Errorf("the counts by reason add up to %d of %d", sum, len(waiting))
	}
}
