package fair

import (
	"container/heap"
	"time"
)

// gate lets only so many tasks of one key past. As many as could start now stand among the ready ones, the best of them; the others wait at
// the gate. A better one that comes later takes the place of the worst that was let past.
type gate struct {
	id       gateID
	waiting  treap
	admitted []*node // let past, not started
	running  int
	most     int // at once; of a rate gate unused
	users    int // nodes that have it

	rate   Rate // zero Count: not a rate gate
	tokens float64
	at     int64 // when tokens was counted
	timer  timer
}

type gateKind uint8

const (
	gateSession gateKind = iota
	gateKey
	gateRate
)

type gateID struct {
	kind   gateKind
	tenant string
	key    string
}

// pass is the gates that a task must pass, in order; the first past of them it has.
type pass struct {
	gates []*gate
	past  int
}

// passOf finds or makes the gates of a task.
func (q *Queue) passOf(t Task) *pass {
	var p pass
	for _, id := range []gateID{{gateSession, t.Tenant, t.Session}, {gateKey, t.Tenant, t.Key}, {gateRate, t.Tenant, t.RateKey}} {
		if id.key == "" {
			continue
		}
		g := q.gates[id]
		if g == nil {
			g = &gate{id: id}
			q.limitGate(g)
			g.tokens = float64(g.rate.Count)
			q.gates[id] = g
		}
		g.users++
		p.gates = append(p.gates, g)
	}
	if len(p.gates) == 0 {
		return nil
	}
	return &p
}

// limitGate takes a gate's limits from the configuration.
func (q *Queue) limitGate(g *gate) {
	switch g.id.kind {
	case gateSession:
		g.most = 1
	case gateKey:
		g.most = q.cfg.PerKey
	case gateRate:
		r, ok := q.cfg.Rates[g.id.key]
		if !ok {
			r = q.cfg.Rates["*"]
		}
		if r.Count <= 0 || r.Per <= 0 {
			r = Rate{}
		}
		if g.tokens > float64(r.Count) || g.rate.Count == 0 {
			g.tokens = float64(r.Count)
		}
		g.rate = r
	}
}

// room is how many more tasks may be let past now.
func (g *gate) room(now int64) int {
	if g.id.kind != gateRate {
		return g.most - g.running - len(g.admitted)
	}
	if g.rate.Count == 0 {
		return 1 // the key has no rate
	}
	g.refill(now)
	return int(g.tokens) - len(g.admitted)
}

func (g *gate) refill(now int64) {
	if g.at == 0 {
		g.at = now
	}
	if now > g.at {
		g.tokens = min(float64(g.rate.Count), g.tokens+float64(now-g.at)*float64(g.rate.Count)/float64(g.rate.Per))
		g.at = now
	}
}

// admit takes a node past its gates and returns the one at which it must wait, or nil.
func (q *Queue) admit(n *node, now int64) *gate {
	if n.pass == nil {
		return nil
	}
	for n.pass.past < len(n.pass.gates) {
		g := n.pass.gates[n.pass.past]
		if g.room(now) <= 0 && !q.displace(g, n, now) {
			return g
		}
		g.admitted = append(g.admitted, n)
		n.pass.past++
	}
	return nil
}

// wait puts a node to the others at a gate.
func (q *Queue) wait(n *node, g *gate, now int64) {
	n.ord = n.due
	g.waiting.insert(n)
	q.await(g, now)
}

// displace sends the worst of those that g has let past back to it, if n is better.
func (q *Queue) displace(g *gate, n *node, now int64) bool {
	worst := -1
	for i, m := range g.admitted {
		if worst < 0 || precedes(g.admitted[worst], m) {
			worst = i
		}
	}
	if worst < 0 || !precedes(n, g.admitted[worst]) {
		return false
	}
	m := g.admitted[worst]
	q.lift(m, now)
	freed := m.pass.gates[:m.pass.past]
	for m.pass.past > 0 && m.pass.gates[m.pass.past-1] != g {
		m.pass.past--
		m.pass.gates[m.pass.past].forget(m)
	}
	m.pass.past--
	g.forget(m)
	q.wait(m, g, now)
	for _, behind := range freed[m.pass.past+1:] {
		q.open(behind, now)
	}
	return true
}

// precedes is the order at a gate.
func precedes(a, b *node) bool {
	if a.due != b.due {
		return a.due < b.due
	}
	return a.seq < b.seq
}

// forget takes n from those that were let past.
func (g *gate) forget(n *node) {
	for i, m := range g.admitted {
		if m == n {
			last := len(g.admitted) - 1
			g.admitted[i] = g.admitted[last]
			g.admitted[last] = nil
			g.admitted = g.admitted[:last]
			return
		}
	}
}

// enter counts a node that starts at its gates.
func (q *Queue) enter(n *node, now int64) {
	if n.pass == nil {
		return
	}
	for i, g := range n.pass.gates {
		if i < n.pass.past {
			g.forget(n)
		}
		g.running++
		if g.id.kind == gateRate && g.rate.Count > 0 {
			g.refill(now)
			g.tokens--
			q.await(g, now)
		}
	}
	n.pass.past = len(n.pass.gates)
}

// leave takes a node that no longer runs, or waits, from its gates and lets others past. refund gives back what its start cost.
func (q *Queue) leave(n *node, now int64, refund bool) {
	if n.pass == nil {
		return
	}
	p := n.pass
	past := p.past
	p.past = 0
	for i, g := range p.gates {
		if i >= past {
			break
		}
		admitted := len(g.admitted)
		if g.forget(n); len(g.admitted) == admitted {
			g.running-- // it ran
			if refund && g.rate.Count > 0 {
				g.tokens = min(g.tokens+1, float64(g.rate.Count))
			}
		}
	}
	for _, g := range p.gates {
		q.open(g, now)
	}
}

// open lets past as many as there is room for.
func (q *Queue) open(g *gate, now int64) {
	for g.waiting.len() > 0 && g.room(now) > 0 {
		n := g.waiting.first()
		g.waiting.remove(n)
		q.place(n, now)
		if n.home == &g.waiting {
			break
		}
	}
	q.await(g, now)
	q.forgetGate(g)
}

// forgetGate drops a gate that nobody has and that remembers nothing.
func (q *Queue) forgetGate(g *gate) {
	if g.users == 0 && (g.rate.Count == 0 || g.tokens >= float64(g.rate.Count)) {
		q.timers.drop(&g.timer)
		delete(q.gates, g.id)
	}
}

// await has the clock open a rate gate when the next token comes, or forget it when all have.
func (q *Queue) await(g *gate, now int64) {
	if g.rate.Count == 0 {
		return
	}
	missing := float64(g.rate.Count) - g.tokens
	if g.waiting.len() > 0 {
		missing = float64(len(g.admitted)+1) - g.tokens
	}
	if missing <= 0 {
		return
	}
	wait := int64(missing * float64(g.rate.Per) / float64(g.rate.Count))
	q.timers.set(&g.timer, now+max(wait, int64(time.Millisecond)), g)
}

// due implements timed.
func (g *gate) due(q *Queue, now int64) {
	g.refill(now)
	q.open(g, now)
}

// timed is what a timer belongs to.
type timed interface{ due(q *Queue, now int64) }

// timer is a place in timers.
type timer struct {
	at    int64
	place int // and 1; 0: it is not set
	what  timed
}

// timers is a heap, the soonest first.
type timers []*timer

func (ts *timers) set(t *timer, at int64, what timed) {
	t.at, t.what = at, what
	if t.place > 0 {
		heap.Fix(ts, t.place-1)
		return
	}
	heap.Push(ts, t)
}

func (ts *timers) drop(t *timer) {
	if t.place > 0 {
		heap.Remove(ts, t.place-1)
	}
}

func (ts *timers) run(q *Queue, now int64) {
	for len(*ts) > 0 && (*ts)[0].at <= now {
		t := (*ts)[0]
		heap.Remove(ts, 0)
		t.what.due(q, now)
	}
}

func (ts timers) Len() int           { return len(ts) }
func (ts timers) Less(i, j int) bool { return ts[i].at < ts[j].at }
func (ts timers) Swap(i, j int) {
	ts[i], ts[j] = ts[j], ts[i]
	ts[i].place, ts[j].place = i+1, j+1
}

func (ts *timers) Push(x any) {
	t := x.(*timer)
	t.place = len(*ts) + 1
	*ts = append(*ts, t)
}

func (ts *timers) Pop() any {
	old := *ts
	t := old[len(old)-1]
	old[len(old)-1] = nil
	t.place = 0
	*ts = old[:len(old)-1]
	return t
}
