package fair

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func TestFairness(t *testing.T) {
	for _, c := range []struct {
		name    string
		slots   int
		weights map[string]int
		take    map[string]time.Duration // by tenant; else 10 s
		urgent  map[string]int           // priority by tenant
	}{
		{name: "a flood beside three", slots: 1},
		{name: "a flood beside three, eight at once", slots: 8},
		{name: "weights", slots: 4, weights: map[string]int{"b": 3, "c": 2}},
		{name: "the flood's tasks take ten times as long", slots: 4, take: map[string]time.Duration{"flood": 100 * time.Second}},
		{name: "the flood says that all of it is urgent", slots: 4, urgent: map[string]int{"flood": 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(Config{Concurrency: c.slots, TenantWeights: c.weights}, 10*time.Second)
			s.take = func(id string) time.Duration {
				if d := c.take[s.owner[id]]; d > 0 {
					return d
				}
				return 10 * time.Second
			}
			left := map[string]int{}
			add := func(tenant string, n int) {
				left[tenant] = n
				for i := range n {
					s.add(Task{Tenant: tenant, User: fmt.Sprint(tenant, i%3), Priority: c.urgent[tenant]})
				}
			}
			add("flood", 5000)
			for _, tenant := range []string{"a", "b", "c"} {
				add(tenant, 50)
			}
			backlogged := func() bool {
				for tenant := range left {
					if s.q.tenants[tenant] == nil || s.q.tenants[tenant].ready == 0 {
						return false
					}
				}
				return true
			}
			s.fill()
			s.runUntil(func() bool { return !backlogged() })
			// What runs still counts for what it has had by now.
			for _, e := range s.ends {
				s.done[s.owner[e.id]] += s.now.Sub(s.began[e.id])
			}
			if index := jain(s.done, c.weights); index < 0.95 || len(s.done) != 4 {
				t.Errorf("Jain's index %.3f of %v", index, s.done)
			}
			s.runUntil(func() bool { return false })
			if len(s.order) != 5150 {
				t.Errorf("%d tasks ran", len(s.order))
			}
		})
	}
	t.Run("users of a tenant share its part", func(t *testing.T) {
		s := newSim(Config{Concurrency: 2}, 10*time.Second)
		for i := range 300 {
			s.add(Task{Tenant: "a", User: "flood"})
			if i < 40 {
				s.add(Task{Tenant: "a", User: "other"})
				s.add(Task{Tenant: "b", User: "lone"})
			}
		}
		by := map[string]int{}
		s.runUntil(func() bool { return len(s.order) >= 60 })
		for _, id := range s.order[:60] {
			by[s.user[id]]++
		}
		if by["lone"] < 27 || by["other"] < 13 {
			t.Errorf("of the first 60 starts: %v", by)
		}
	})
	t.Run("who comes late gets its share at once and no more", func(t *testing.T) {
		s := newSim(Config{Concurrency: 1}, 10*time.Second)
		for range 1000 {
			s.add(Task{Tenant: "old"})
		}
		s.runUntil(func() bool { return len(s.order) == 500 })
		for range 100 {
			s.add(Task{Tenant: "new"})
		}
		s.runUntil(func() bool { return len(s.order) == 600 })
		n := 0
		for _, id := range s.order[500:] {
			if s.owner[id] == "new" {
				n++
			}
		}
		if n < 48 || n > 52 {
			t.Errorf("%d of the next 100", n)
		}
	})
}

func TestPriority(t *testing.T) {
	t.Run("a lone urgent task starts within two task lengths", func(t *testing.T) {
		for _, tenant := range []string{"flood", "a", "new"} {
			s := newSim(Config{Concurrency: 1}, 10*time.Second)
			for range 2000 {
				s.add(Task{Tenant: "flood", Priority: 5})
			}
			for i := range 150 {
				s.add(Task{Tenant: string(rune('a' + i%3)), Priority: 5})
			}
			s.runUntil(func() bool { return len(s.order) == 100 })
			asked := s.now
			id := s.add(Task{Tenant: tenant, Priority: 9})
			s.runUntil(func() bool { return !s.began[id].IsZero() })
			if wait := s.began[id].Sub(asked); wait > 20*time.Second {
				t.Errorf("of %s: waited %s", tenant, wait)
			}
		}
	})
	t.Run("ageing bounds the wait of the lowest", func(t *testing.T) {
		const ageing = time.Minute
		s := newSim(Config{Concurrency: 1, Ageing: ageing}, 10*time.Second)
		low := s.add(Task{Tenant: "a", Priority: 0})
		s.add(Task{Tenant: "a", Priority: 9})
		for range 10_000 { // always one of the highest that waits
			if !s.began[low].IsZero() {
				break
			}
			s.add(Task{Tenant: "a", Priority: 9})
			s.step()
		}
		began, ok := s.began[low]
		if wait := began.Sub(epoch); !ok || wait > 9*ageing+20*time.Second || wait < 8*ageing {
			t.Errorf("it waited %s", wait)
		}
	})
	t.Run("is in order for one user", func(t *testing.T) {
		s := newSim(Config{Concurrency: 1}, time.Second)
		ids := map[int]string{}
		for _, p := range []int{3, 9, 0, 7, 5} {
			ids[p] = s.add(Task{Tenant: "a", Priority: p})
		}
		s.runUntil(func() bool { return false })
		want := []string{ids[9], ids[7], ids[5], ids[3], ids[0]}
		if fmt.Sprint(s.order) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", s.order, want)
		}
	})
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		cfg    Config
		task   func(i int) Task
		most   int
		of     func(t Task) string
		reason Reason
	}{
		{"queue", Config{Concurrency: 3}, func(int) Task { return Task{Tenant: "a"} }, 3, func(Task) string { return "" }, QueueLimit},
		{"tenant", Config{PerTenant: 2}, func(i int) Task { return Task{Tenant: fmt.Sprint("t", i%2)} }, 2, func(t Task) string { return t.Tenant }, TenantLimit},
		{"user", Config{PerUser: 2}, func(i int) Task { return Task{Tenant: "a", User: fmt.Sprint("u", i%3)} }, 2, func(t Task) string { return t.User }, UserLimit},
		{"key", Config{}, func(i int) Task { return Task{Tenant: "a", Key: fmt.Sprint("k", i%4)} }, 1, func(t Task) string { return t.Key }, KeyLimit},
		{"two of a key", Config{PerKey: 2}, func(int) Task { return Task{Tenant: "a", Key: "k"} }, 2, func(t Task) string { return t.Key }, KeyLimit},
		{"session", Config{}, func(i int) Task { return Task{Tenant: "a", Session: fmt.Sprint("s", i%2)} }, 1, func(t Task) string { return t.Session }, Session},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(c.cfg, 10*time.Second)
			tasks := map[string]Task{}
			running := map[string]int{}
			for i := range 24 {
				task := c.task(i)
				tasks[s.add(task)] = task
			}
			s.fill()
			for id, task := range tasks {
				if r, _, ok := s.q.Why(s.now, id); !ok || r != Running && r != c.reason {
					t.Errorf("%s waits for %v", id, r)
				}
				if !s.began[id].IsZero() {
					running[c.of(task)]++
				}
			}
			for name, n := range running {
				if n != c.most {
					t.Errorf("%d of %q at once, want %d", n, name, c.most)
				}
			}
			s.runUntil(func() bool { return false })
			if len(s.order) != 24 {
				t.Errorf("%d of 24 ran", len(s.order))
			}
			if len(s.q.nodes)+len(s.q.gates)+len(s.q.tenants)+len(s.q.timers) != 0 {
				t.Error("the empty queue remembers something")
			}
		})
	}
	t.Run("an urgent task does not wait for a lesser one of its key", func(t *testing.T) {
		s := newSim(Config{Concurrency: 1}, 10*time.Second)
		for range 50 {
			s.add(Task{Tenant: "a", Priority: 5})
		}
		low := s.add(Task{Tenant: "a", Priority: 0, Key: "k"})
		s.fill()
		high := s.add(Task{Tenant: "a", Priority: 9, Key: "k"})
		s.runUntil(func() bool { return !s.began[low].IsZero() })
		if s.order[1] != high || s.order[len(s.order)-1] != low {
			t.Errorf("%v", s.order)
		}
	})
	t.Run("a rate lets so many start in a time", func(t *testing.T) {
		s := newSim(Config{Rates: map[string]Rate{"*": {Count: 5, Per: time.Minute}}}, time.Second)
		for range 20 {
			s.add(Task{Tenant: "a", RateKey: "r"})
		}
		s.fill()
		if len(s.order) != 5 {
			t.Fatalf("%d started at once", len(s.order))
		}
		s.runUntil(func() bool { return len(s.order) == 20 })
		if took := s.now.Sub(epoch); took < 170*time.Second || took > 190*time.Second {
			t.Errorf("15 more took %s, want 3 minutes", took)
		}
	})
	t.Run("a key and a rate together", func(t *testing.T) {
		s := newSim(Config{PerKey: 2, Rates: map[string]Rate{"r": {Count: 3, Per: time.Second}}}, time.Second)
		for i := range 60 {
			task := Task{Tenant: "a", Key: fmt.Sprint("k", i%3), Priority: i % 10}
			if i%2 == 0 {
				task.RateKey = "r"
			}
			s.add(task)
		}
		s.runUntil(func() bool { return false })
		if len(s.order) != 60 || len(s.q.gates) > 1 {
			t.Errorf("%d of 60 ran; %d gates left", len(s.order), len(s.q.gates))
		}
	})
}

func TestWaiting(t *testing.T) {
	t.Run("not before", func(t *testing.T) {
		s := newSim(Config{}, time.Second)
		id := s.add(Task{Tenant: "a", NotBefore: epoch.Add(time.Hour)})
		if r, _, _ := s.q.Why(s.now, id); r != NotBefore {
			t.Errorf("%v", r)
		}
		s.runUntil(func() bool { return false })
		if !s.began[id].Equal(epoch.Add(time.Hour)) {
			t.Errorf("began at %s", s.began[id])
		}
	})
	t.Run("a pause", func(t *testing.T) {
		s := newSim(Config{Paused: true}, time.Second)
		id := s.add(Task{Tenant: "a"})
		if r, at, _ := s.q.Why(s.now, id); r != Paused || at != 1 || s.step() {
			t.Errorf("%v at %d", r, at)
		}
		s.q.Configure(s.now, Config{})
		if s.fill(); len(s.order) != 1 {
			t.Error("does not start after the pause")
		}
	})
	t.Run("no capacity for one user holds nobody else", func(t *testing.T) {
		s := newSim(Config{}, time.Second)
		id := s.add(Task{Tenant: "a", User: "x"})
		if got, ok := s.q.Next(s.now); !ok || got != id {
			t.Fatal("not next")
		}
		s.q.Return(s.now, id)
		s.q.HoldUser(s.now, "a", "x", s.now.Add(time.Minute))
		other := s.add(Task{Tenant: "a", User: "y"})
		s.fill()
		if r, _, _ := s.q.Why(s.now, id); r != Capacity || s.began[other].IsZero() || !s.began[id].IsZero() {
			t.Errorf("%v; %v", r, s.order)
		}
		s.runUntil(func() bool { return false })
		if !s.began[id].Equal(epoch.Add(time.Minute)) {
			t.Errorf("began at %s", s.began[id])
		}
	})
	t.Run("a returned task is as if it had not started", func(t *testing.T) {
		q := New(Config{Rates: map[string]Rate{"r": {1, time.Hour}}, PerKey: 1})
		q.Add(epoch, Task{ID: "x", Tenant: "a", User: "u", Since: epoch, Key: "k", RateKey: "r"})
		for range 5 {
			if id, ok := q.Next(epoch); !ok || id != "x" {
				t.Fatal("not next")
			}
			q.Return(epoch, "x")
		}
		if got := q.tenants["a"].virtual; got > 1e-6 {
			t.Errorf("it was charged %v", got)
		}
	})
	t.Run("positions are the order", func(t *testing.T) {
		s := newSim(Config{Concurrency: 1}, time.Second)
		for i := range 30 {
			s.add(Task{Tenant: string(rune('a' + i%3)), Priority: 5})
		}
		at := map[string]int{}
		for id := range s.owner {
			_, at[id], _ = s.q.Why(s.now, id)
		}
		s.runUntil(func() bool { return false })
		for i, id := range s.order {
			if d := math.Abs(float64(at[id] - (i + 1))); d > 2 {
				t.Errorf("%s was at %d and came at %d", id, at[id], i+1)
			}
		}
	})
}
