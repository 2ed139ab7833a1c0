package fair

import (
	"container/heap"
	"fmt"
	"time"
)

// epoch is when every simulation begins.
var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// sim runs a queue with a clock of its own: tasks take the time that they are told to.
type sim struct {
	q     *Queue
	now   time.Time
	take  func(id string) time.Duration
	ends  endings
	seq   uint64
	began map[string]time.Time
	order []string
	done  map[string]time.Duration // slot time by tenant
	owner map[string]string        // tenant by task
	user  map[string]string        // likewise
}

func newSim(cfg Config, take time.Duration) *sim {
	return &sim{
		q: New(cfg), now: epoch, take: func(string) time.Duration { return take },
		began: map[string]time.Time{}, done: map[string]time.Duration{}, owner: map[string]string{}, user: map[string]string{},
	}
}

func (s *sim) add(t Task) string {
	s.seq++
	t.Seq = s.seq
	if t.ID == "" {
		t.ID = fmt.Sprintf("%s-%d", t.Tenant, s.seq)
	}
	if t.User == "" {
		t.User = "u-" + t.Tenant
	}
	if t.Since.IsZero() {
		t.Since = s.now
	}
	s.owner[t.ID], s.user[t.ID] = t.Tenant, t.User
	s.q.Add(s.now, t)
	return t.ID
}

func (s *sim) fill() {
	for {
		id, ok := s.q.Next(s.now)
		if !ok {
			return
		}
		s.began[id] = s.now
		s.order = append(s.order, id)
		heap.Push(&s.ends, ending{s.now.Add(s.take(id)), id})
	}
}

// step goes on to the next event; it reports false when nothing is left to happen.
func (s *sim) step() bool {
	s.fill()
	wake, ok := s.q.Wake()
	switch {
	case len(s.ends) > 0 && (!ok || !wake.Before(s.ends[0].at)):
		e := heap.Pop(&s.ends).(ending)
		s.now = e.at
		ran := s.now.Sub(s.began[e.id])
		s.done[s.owner[e.id]] += ran
		s.q.Finish(s.now, e.id, ran)
	case ok:
		s.now = latest(s.now, wake)
	default:
		return false
	}
	s.fill()
	return true
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *sim) runUntil(stop func() bool) {
	for !stop() && s.step() {
	}
}

type ending struct {
	at time.Time
	id string
}

type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e endings) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

// jain is Jain's fairness index of what each had per weight: 1 when all are equal.
func jain(had map[string]time.Duration, weights map[string]int) float64 {
	sum, squares := 0.0, 0.0
	for name, d := range had {
		x := d.Seconds() / weight(weights, name)
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(len(had)) * squares)
}
