package fair

import "container/heap"

// flow is one party of a fair share: a tenant among the queue's tenants, or a user among its tenant's users.
//
// Its virtual time is the slot time that it has had, divided by its weight, and whoever is furthest behind is next. A more urgent task may
// go before its turn, but only until its flow is ahead by a few tasks: so urgency buys a place in the line and never a larger share. Who
// becomes eligible starts at the group's present virtual time: nothing is saved up while there is nothing to do.
type flow struct {
	name    string
	weight  float64
	limit   int // zero: none
	virtual float64
	running int
	holdTo  int64 // no start before: there was no capacity

	level int // priority of its next task
	ahead bool
	best  int // place in group.best; -1: not eligible
	late  int // place in group.late; -1: not eligible
	over  int // place in group.over; -1: not ahead

	mean  float64 // seconds that a task takes
	known bool    // mean is of real tasks
}

func newFlow(name string) flow {
	return flow{name: name, weight: 1, best: -1, late: -1, over: -1}
}

// group is flows that share.
type group struct {
	best    flowHeap // eligible flows, next first
	late    flowHeap // the same, furthest behind first
	over    flowHeap // those of them that are ahead, soonest back first
	virtual float64  // never decreases
}

func newGroup() group {
	return group{
		best: flowHeap{less: (*flow).before, place: func(f *flow) *int { return &f.best }},
		late: flowHeap{less: func(f, o *flow) bool { return f.virtual < o.virtual }, place: func(f *flow) *int { return &f.late }},
		over: flowHeap{less: func(f, o *flow) bool { return f.back() < o.back() }, place: func(f *flow) *int { return &f.over }},
	}
}

// next returns the flow that is next, or nil.
func (g *group) next() *flow {
	if len(g.best.flows) == 0 {
		return nil
	}
	return g.best.flows[0]
}

// set says whether f may be next, and how urgent its next task is.
func (g *group) set(f *flow, eligible bool, level int) {
	switch {
	case !eligible && f.best >= 0:
		g.best.remove(f)
		g.late.remove(f)
		g.over.remove(f)
		f.ahead = false
		g.settle()
	case !eligible:
	case f.best < 0:
		f.virtual, f.level = max(f.virtual, g.virtual), level
		heap.Push(&g.best, f)
		heap.Push(&g.late, f)
		g.place(f)
	case f.level != level:
		f.level = level
		heap.Fix(&g.best, f.best)
	}
}

// update changes what f's place depends on.
func (g *group) update(f *flow, change func(f *flow)) {
	g.over.remove(f)
	change(f)
	if f.best >= 0 {
		heap.Fix(&g.late, f.late)
		g.place(f)
	}
}

// place decides anew whether f is ahead, and puts it where it then belongs.
func (g *group) place(f *flow) {
	g.raise()
	if f.ahead = f.back() > g.virtual; f.ahead {
		heap.Push(&g.over, f)
	}
	heap.Fix(&g.best, f.best)
	g.settle()
}

// raise moves the group's virtual time to that of the flow furthest behind.
func (g *group) raise() {
	if len(g.late.flows) > 0 {
		g.virtual = max(g.virtual, g.late.flows[0].virtual)
	}
}

// settle raises the virtual time and finds those who are no longer ahead.
func (g *group) settle() {
	g.raise()
	for len(g.over.flows) > 0 && g.over.flows[0].back() <= g.virtual {
		f := g.over.flows[0]
		g.over.remove(f)
		f.ahead = false
		heap.Fix(&g.best, f.best)
	}
}

// spare is by how many tasks, besides those that it runs, a flow may be ahead and still be urgent.
const spare = 2

// back is the group's virtual time from which f is not ahead.
func (f *flow) back() float64 { return f.virtual - float64(spare+f.running)*f.guess()/f.weight }

func (f *flow) before(o *flow) bool {
	if a, b := f.urgency(), o.urgency(); a != b {
		return a > b
	}
	if f.virtual != o.virtual {
		return f.virtual < o.virtual
	}
	return f.name < o.name
}

func (f *flow) urgency() int {
	if f.ahead {
		return -1
	}
	return f.level
}

const (
	firstGuess = 1.0   // seconds; corrected when the task ends
	learning   = 0.125 // weight of the newest task in the mean
	leastGuess = 1e-3  // seconds: a task that takes no time takes a turn
)

// guess is how long a task of the flow is expected to take, in seconds.
func (f *flow) guess() float64 {
	if !f.known {
		return firstGuess
	}
	return max(f.mean, leastGuess)
}

// learn takes the length of a task that has ended into account.
func (f *flow) learn(seconds float64) {
	if !f.known {
		f.mean, f.known = seconds, true
		return
	}
	f.mean += (seconds - f.mean) * learning
}

// flowHeap is a heap of flows that know their places in it.
type flowHeap struct {
	flows []*flow
	less  func(f, o *flow) bool
	place func(*flow) *int
}

func (h *flowHeap) Len() int           { return len(h.flows) }
func (h *flowHeap) Less(i, j int) bool { return h.less(h.flows[i], h.flows[j]) }

func (h *flowHeap) Swap(i, j int) {
	h.flows[i], h.flows[j] = h.flows[j], h.flows[i]
	*h.place(h.flows[i]), *h.place(h.flows[j]) = i, j
}

func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	*h.place(f) = len(h.flows)
	h.flows = append(h.flows, f)
}

func (h *flowHeap) Pop() any {
	last := len(h.flows) - 1
	f := h.flows[last]
	h.flows[last] = nil
	h.flows = h.flows[:last]
	*h.place(f) = -1
	return f
}

// remove takes f out of the heap, if it is there.
func (h *flowHeap) remove(f *flow) {
	if i := *h.place(f); i >= 0 {
		heap.Remove(h, i)
	}
}
