package fair

import (
	"container/heap"
	"fmt"
	"slices"
	"testing"
	"time"
)

// spareFor is how long, in these simulations, a task that was put off cannot be put off again.
const spareFor = 10 * time.Minute

// preempting is a simulation in which tasks are put off.
type preempting struct {
	*sim
	tasks map[string]Task
	off   map[string][]time.Time // when each was put off
}

func newPreempting(cfg Config, take time.Duration) *preempting {
	return &preempting{sim: newSim(cfg, take), tasks: map[string]Task{}, off: map[string][]time.Time{}}
}

func (p *preempting) put(t Task) string {
	t.Since = p.now
	id := p.add(t)
	t.ID, t.Seq = id, p.seq
	if t.User == "" {
		t.User = "u-" + t.Tenant
	}
	p.tasks[id] = t
	return id
}

func (p *preempting) may(id string) bool {
	off := p.off[id]
	return len(off) == 0 || p.now.Sub(off[len(off)-1]) >= spareFor
}

// preempt puts off as many as make room now.
func (p *preempting) preempt() {
	for {
		p.fill()
		id, by, ok := p.q.Victim(p.now, p.may)
		if !ok {
			return
		}
		if p.tasks[id].Priority >= p.tasks[by].Priority {
			panic("put off by one that is no more urgent")
		}
		i := slices.IndexFunc(p.ends, func(e ending) bool { return e.id == id })
		heap.Remove(&p.ends, i)
		ran := p.now.Sub(p.began[id])
		p.done[p.owner[id]] += ran
		p.off[id] = append(p.off[id], p.now)
		p.q.Finish(p.now, id, ran)
		p.q.Add(p.now, p.tasks[id])
	}
}

func (p *preempting) run(stop func() bool) {
	for p.preempt(); !stop() && p.step(); {
		p.preempt()
	}
}

func TestVictim(t *testing.T) {
	any := func(string) bool { return true }
	full := func(priorities ...int) *preempting {
		p := newPreempting(Config{Concurrency: len(priorities)}, time.Hour)
		for i, n := range priorities {
			p.put(Task{ID: fmt.Sprint("r", i), Tenant: "a", Priority: n})
			p.fill()
			p.now = p.now.Add(time.Second)
		}
		return p
	}
	for _, c := range []struct {
		name    string
		running []int
		urgent  int
		may     func(string) bool
		want    string
	}{
		{"the least urgent", []int{5, 2, 4}, 9, any, "r1"},
		{"of those the one that began last", []int{5, 2, 2, 5}, 9, any, "r2"},
		{"not one of the same priority", []int{5, 5}, 5, any, ""},
		{"not a more urgent one", []int{7, 8}, 6, any, ""},
		{"not one that is spared", []int{2, 3}, 9, func(id string) bool { return id != "r0" }, "r1"},
		{"nobody when all are spared", []int{2, 3}, 9, func(string) bool { return false }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := full(c.running...)
			p.put(Task{ID: "urgent", Tenant: "b", Priority: c.urgent})
			id, by, ok := p.q.Victim(p.now, c.may)
			if id != c.want || ok != (c.want != "") || ok && by != "urgent" {
				t.Errorf("%q for %q, want %q", id, by, c.want)
			}
		})
	}
	t.Run("nobody while there is room, or the queue is paused", func(t *testing.T) {
		p := full(1, 1)
		p.put(Task{ID: "urgent", Tenant: "b", Priority: 9})
		p.q.Configure(p.now, Config{Concurrency: 3})
		if id, _, ok := p.q.Victim(p.now, any); ok {
			t.Errorf("%s although there is room", id)
		}
		p.q.Configure(p.now, Config{Concurrency: 2, Paused: true})
		if id, _, ok := p.q.Victim(p.now, any); ok {
			t.Errorf("%s although the queue is paused", id)
		}
	})
	t.Run("age makes nobody urgent enough", func(t *testing.T) {
		p := full(5)
		p.put(Task{ID: "old", Tenant: "b", Priority: 4})
		p.now = p.now.Add(100 * time.Hour)
		if id, _, ok := p.q.Victim(p.now, any); ok {
			t.Errorf("%s was put off", id)
		}
	})
}

// TestPreemptionIsFair: a tenant that calls all of its tasks urgent gets no larger share by it, and what is put off is not put off again and again.
func TestPreemptionIsFair(t *testing.T) {
	p := newPreempting(Config{Concurrency: 4}, time.Minute)
	left := map[string]int{}
	put := func(tenant string, n, priority int) {
		left[tenant] = n
		for i := range n {
			p.put(Task{Tenant: tenant, User: fmt.Sprint(tenant, i%2), Priority: priority})
		}
	}
	for _, tenant := range []string{"a", "b", "c"} {
		put(tenant, 100, 2)
	}
	p.preempt()
	put("loud", 1000, 9)
	backlogged := func() bool {
		for tenant := range left {
			if p.q.tenants[tenant] == nil || p.q.tenants[tenant].ready == 0 {
				return false
			}
		}
		return true
	}
	p.run(func() bool { return !backlogged() })
	for _, e := range p.ends {
		p.done[p.owner[e.id]] += p.now.Sub(p.began[e.id])
	}
	if index := jain(p.done, nil); index < 0.95 || len(p.done) != 4 {
		t.Errorf("Jain's index %.3f of %v", index, p.done)
	}
	if len(p.off) == 0 {
		t.Error("nobody was ever put off: the test shows nothing")
	}
	p.run(func() bool { return false })
	for id, times := range p.off {
		for i := 1; i < len(times); i++ {
			if d := times[i].Sub(times[i-1]); d < spareFor {
				t.Errorf("%s was put off again after %s", id, d)
			}
		}
	}
	if waiting, running := p.q.Len(); waiting+running != 0 {
		t.Errorf("%d and %d are left", waiting, running)
	}
}

// TestPreemptionIsPrompt: a lone urgent task starts at once among long ones.
func TestPreemptionIsPrompt(t *testing.T) {
	p := newPreempting(Config{Concurrency: 3}, time.Hour)
	for range 30 {
		p.put(Task{Tenant: "a", Priority: 3})
	}
	p.preempt()
	p.now = p.now.Add(time.Minute)
	id := p.put(Task{Tenant: "b", Priority: 8})
	p.preempt()
	if began, ok := p.began[id]; !ok || !began.Equal(p.now) {
		t.Errorf("it began at %v", began)
	}
	if len(p.off) != 1 {
		t.Errorf("%d were put off for one", len(p.off))
	}
}
