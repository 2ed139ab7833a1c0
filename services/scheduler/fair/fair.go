// Package fair decides which task of a queue is next, and says of every other one why it is not. It is a data structure: it does no I/O and
// is told the time.
//
// Tenants share a queue by their weights, and the users of a tenant the tenant's part (flow.go). What is shared is slot time: a start is
// charged with the time that the flow's tasks usually take, and the charge corrected when the task ends. A user's own tasks go by priority, and
// by age: waiting for Config.Ageing is worth one priority, so of two tasks the order never changes while they wait, and one of the lowest
// priority is overtaken for at most nine times Ageing. A task that is more urgent than what others wait for goes before them, but only until
// its tenant is a few tasks ahead of its share.
//
// Tasks that may not start stand apart, where they cost nothing: those whose time has not come in time's order, those of a key that is used up at
// its gate (gate.go). So every operation takes time logarithmic in the number of tasks, whatever they wait for.
package fair

import (
	"math"
	"time"
)

// Config is what a queue's owner decides. Zero limits do not limit.
type Config struct {
	Paused        bool
	Concurrency   int // tasks at once
	PerTenant     int
	PerUser       int
	PerKey        int            // of a concurrency key; at least 1
	TenantWeights map[string]int // absent: 1
	UserWeights   map[string]int
	Rates         map[string]Rate // by rate key; "*": any other
	Ageing        time.Duration   // zero: 30 minutes
}

// Rate is how many tasks of a key may start in a time.
type Rate struct {
	Count int
	Per   time.Duration
}

const (
	// DefaultAgeing lifts a task from the usual priority to the highest in two hours.
	DefaultAgeing = 30 * time.Minute
	maxPriority   = 9
)

// Task is what the queue must know of a task.
type Task struct {
	ID        string
	Tenant    string
	User      string
	Priority  int       // 0–9, 9 first
	Since     time.Time // when it began to wait; its age
	Seq       uint64    // orders tasks that began to wait at the same time
	NotBefore time.Time // zero: now
	Retry     bool      // NotBefore is the end of a pause after a failure
	Key       string    // concurrency key; "": none
	Session   string    // the session that it reuses; "": none
	RateKey   string    // "": none
}

// Queue is one queue. Its methods must not be called at the same time.
type Queue struct {
	cfg     Config
	nodes   map[string]*node
	tenants map[string]*tenant
	group   group // of tenants
	running int
	ready   int
	since   map[*node]int64 // when each that runs began

	later  treap            // nodes whose time has not come, by time
	gates  map[gateID]*gate // of the keys that tasks have
	timers timers           // gates and flows that time lets go on
}

type tenant struct {
	flow
	users map[string]*user
	group group // of users
	ready int   // nodes by where they are
	later int
	known int
}

type user struct {
	flow
	tenant *tenant
	ready  treap
	timer  timer // set while it is held
}

// node is one task. It is in exactly one place: in its user's ready treap, in the treap later, in the treap of the gate
// that it waits at, or it runs.
type node struct {
	id          string
	user        *user
	seq         uint64
	ord         int64 // its order in the treap where it is
	due         int64 // its order among its user's tasks: when it began to wait, less what its priority is worth
	from        int64 // not before
	left, right *node
	home        *treap
	pass        *pass // nil: it has no keys
	random      uint32
	size        int32
	charged     float32 // seconds, while it runs
	priority    int8
	retry       bool
	running     bool
}

// New returns an empty queue.
func New(cfg Config) *Queue {
	q := &Queue{nodes: map[string]*node{}, tenants: map[string]*tenant{}, gates: map[gateID]*gate{}, group: newGroup(), since: map[*node]int64{}}
	q.cfg = cfg.withDefaults()
	return q
}

func (c Config) withDefaults() Config {
	if c.Ageing <= 0 {
		c.Ageing = DefaultAgeing
	}
	c.PerKey = max(c.PerKey, 1)
	return c
}

// Configure changes the rules. It costs as much as there are tasks only when Ageing has changed.
func (q *Queue) Configure(now time.Time, cfg Config) {
	was := q.cfg
	q.cfg = cfg.withDefaults()
	if q.cfg.Ageing != was.Ageing {
		q.reorder(was.Ageing)
	}
	for _, g := range q.gates {
		q.limitGate(g)
		q.open(g, now.UnixNano())
	}
	for _, t := range q.tenants {
		q.group.update(&t.flow, func(f *flow) { f.weight, f.limit = weight(q.cfg.TenantWeights, t.name), q.cfg.PerTenant })
		for _, u := range t.users {
			t.group.update(&u.flow, func(f *flow) { f.weight, f.limit = weight(q.cfg.UserWeights, u.name), q.cfg.PerUser })
			q.refresh(u, now.UnixNano())
		}
	}
}

func weight(of map[string]int, name string) float64 {
	if w := of[name]; w > 0 {
		return float64(w)
	}
	return 1
}

// reorder gives every task its place under a new ageing.
func (q *Queue) reorder(was time.Duration) {
	for _, n := range q.nodes {
		since := n.due + int64(n.priority)*int64(was)
		due := since - int64(n.priority)*int64(q.cfg.Ageing)
		home := n.home
		if home == nil || home == &q.later {
			n.due = due
			continue
		}
		home.remove(n)
		n.due, n.ord = due, due
		home.insert(n)
	}
}

// Len returns how many tasks wait and how many run.
func (q *Queue) Len() (waiting, running int) { return len(q.nodes) - q.running, q.running }

// Has reports whether the queue knows a task, and whether it runs.
func (q *Queue) Has(id string) (known, running bool) {
	n := q.nodes[id]
	return n != nil, n != nil && n.running
}

// TenantOf returns the tenant of a task that the queue knows.
func (q *Queue) TenantOf(id string) string {
	if n := q.nodes[id]; n != nil {
		return n.user.tenant.name
	}
	return ""
}

// Add puts a task into the queue. One that is there already is taken out first.
func (q *Queue) Add(now time.Time, t Task) {
	q.Remove(now, t.ID)
	n := q.newNode(t)
	q.place(n, now.UnixNano())
}

func (q *Queue) newNode(t Task) *node {
	u := q.user(t.Tenant, t.User)
	u.tenant.known++
	priority := min(max(t.Priority, 0), maxPriority)
	n := &node{
		id: t.ID, user: u, seq: t.Seq, priority: int8(priority), retry: t.Retry, //nolint:gosec // 0 to 9
		due: t.Since.UnixNano() - int64(priority)*int64(q.cfg.Ageing),
	}
	if !t.NotBefore.IsZero() {
		n.from = t.NotBefore.UnixNano()
	}
	n.pass = q.passOf(t)
	q.nodes[t.ID] = n
	return n
}

func (q *Queue) user(tenantName, name string) *user {
	t := q.tenants[tenantName]
	if t == nil {
		t = &tenant{flow: newFlow(tenantName), users: map[string]*user{}, group: newGroup()}
		t.weight, t.limit = weight(q.cfg.TenantWeights, tenantName), q.cfg.PerTenant
		q.tenants[tenantName] = t
	}
	u := t.users[name]
	if u == nil {
		u = &user{flow: newFlow(name), tenant: t}
		u.weight, u.limit = weight(q.cfg.UserWeights, name), q.cfg.PerUser
		t.users[name] = u
	}
	return u
}

// place puts a node that waits where it belongs now.
func (q *Queue) place(n *node, now int64) {
	if n.from > now {
		n.ord = n.from
		q.later.insert(n)
		n.user.tenant.later++
		return
	}
	if g := q.admit(n, now); g != nil {
		q.wait(n, g, now)
		return
	}
	q.makeReady(n, now)
}

func (q *Queue) makeReady(n *node, now int64) {
	n.ord = n.due
	n.user.ready.insert(n)
	n.user.tenant.ready++
	q.ready++
	q.refresh(n.user, now)
}

// lift takes a waiting node out of where it is.
func (q *Queue) lift(n *node, now int64) {
	home := n.home
	if home == nil {
		return
	}
	home.remove(n)
	switch home {
	case &q.later:
		n.user.tenant.later--
	case &n.user.ready:
		n.user.tenant.ready--
		q.ready--
		q.refresh(n.user, now)
	}
}

// refresh says anew whether a user, and its tenant, may be next.
func (q *Queue) refresh(u *user, now int64) {
	t := u.tenant
	first := u.ready.first()
	free := first != nil && !full(&u.flow) && !held(&u.flow, now)
	level := 0
	if first != nil {
		level = int(first.priority)
	}
	t.group.set(&u.flow, free, level)
	next := t.group.next()
	free = next != nil && !full(&t.flow) && !held(&t.flow, now)
	level = 0
	if next != nil {
		level = next.level
	}
	q.group.set(&t.flow, free, level)
}

func full(f *flow) bool            { return f.limit > 0 && f.running >= f.limit }
func held(f *flow, now int64) bool { return f.holdTo > now }

// Remove takes a task out of the queue: it has ended, or must not run. It reports whether it was there.
func (q *Queue) Remove(now time.Time, id string) bool {
	n := q.nodes[id]
	if n == nil {
		return false
	}
	at := now.UnixNano()
	if n.running {
		q.stop(n, at)
	} else {
		q.lift(n, at)
	}
	q.leave(n, at, false)
	q.forget(n)
	return true
}

// forget drops a node, and what was kept for its sake alone.
func (q *Queue) forget(n *node) {
	delete(q.nodes, n.id)
	if n.pass != nil {
		for _, g := range n.pass.gates {
			g.users--
			q.forgetGate(g)
		}
	}
	t := n.user.tenant
	if t.known--; t.known > 0 {
		return
	}
	// What the tenant's users have had counts only while they compete.
	for _, u := range t.users {
		q.timers.drop(&u.timer)
	}
	t.users, t.group = map[string]*user{}, newGroup()
	if t.virtual <= q.group.virtual || len(q.nodes) == 0 {
		delete(q.tenants, t.name)
	}
	if len(q.nodes) == 0 {
		q.tenants, q.group = map[string]*tenant{}, newGroup()
	}
}

// Next takes the task that is next, which then counts as running; ok is false when none may start now.
func (q *Queue) Next(now time.Time) (id string, ok bool) {
	at := now.UnixNano()
	q.advance(at)
	if q.cfg.Paused || q.cfg.Concurrency > 0 && q.running >= q.cfg.Concurrency {
		return "", false
	}
	top := q.group.next()
	if top == nil {
		return "", false
	}
	t := q.tenants[top.name]
	u := t.users[t.group.next().name]
	n := u.ready.first()
	q.start(n, at)
	return n.id, true
}

// Start makes a task run that another has started: one that the queue knows, or t otherwise.
func (q *Queue) Start(now time.Time, t Task) {
	n := q.nodes[t.ID]
	if n == nil {
		n = q.newNode(t)
	}
	if !n.running {
		q.start(n, now.UnixNano())
	}
}

func (q *Queue) start(n *node, now int64) {
	u, t := n.user, n.user.tenant
	q.lift(n, now)
	q.enter(n, now)
	n.running = true
	q.since[n] = now
	n.charged = float32(u.guess())
	q.running++
	q.group.update(&t.flow, func(f *flow) { f.running++; f.virtual += float64(n.charged) / f.weight })
	t.group.update(&u.flow, func(f *flow) { f.running++; f.virtual += float64(n.charged) / f.weight })
	q.refresh(u, now)
}

// stop ends a node's run without any charge: what it is charged with is Finish's.
func (q *Queue) stop(n *node, now int64) {
	u, t := n.user, n.user.tenant
	n.running = false
	delete(q.since, n)
	q.running--
	q.group.update(&t.flow, func(f *flow) { f.running-- })
	t.group.update(&u.flow, func(f *flow) { f.running-- })
	q.refresh(u, now)
}

// Finish ends a task that ran for so long, and corrects what its flow was charged.
func (q *Queue) Finish(now time.Time, id string, ran time.Duration) {
	n := q.nodes[id]
	if n == nil || !n.running {
		q.Remove(now, id)
		return
	}
	q.correct(n, max(ran.Seconds(), leastGuess))
	u, t := n.user, n.user.tenant
	q.group.update(&t.flow, func(f *flow) { f.learn(ran.Seconds()) })
	t.group.update(&u.flow, func(f *flow) { f.learn(ran.Seconds()) })
	q.Remove(now, id)
}

// correct replaces what a running node was charged with.
func (q *Queue) correct(n *node, seconds float64) {
	more := seconds - float64(n.charged)
	u, t := n.user, n.user.tenant
	q.group.update(&t.flow, func(f *flow) { f.virtual += more / f.weight })
	t.group.update(&u.flow, func(f *flow) { f.virtual += more / f.weight })
	n.charged = float32(seconds)
}

// Return undoes a start that did not come about: the task waits as before and nothing is charged.
func (q *Queue) Return(now time.Time, id string) {
	n := q.nodes[id]
	if n == nil || !n.running {
		return
	}
	at := now.UnixNano()
	q.correct(n, 0)
	q.stop(n, at)
	q.leave(n, at, true)
	q.place(n, at)
}

// HoldUser starts no task of a user before a time: there is no capacity for it.
func (q *Queue) HoldUser(now time.Time, tenantName, name string, until time.Time) {
	t := q.tenants[tenantName]
	if t == nil || t.users[name] == nil {
		return
	}
	u := t.users[name]
	u.holdTo = until.UnixNano()
	q.timers.set(&u.timer, u.holdTo, u)
	q.refresh(u, now.UnixNano())
}

// Release ends what HoldUser began, for all users of a tenant.
func (q *Queue) Release(now time.Time, tenantName string) {
	t := q.tenants[tenantName]
	if t == nil {
		return
	}
	for _, u := range t.users {
		if u.holdTo > now.UnixNano() {
			u.holdTo = 0
			q.timers.drop(&u.timer)
			q.refresh(u, now.UnixNano())
		}
	}
}

// due implements timed.
func (u *user) due(q *Queue, now int64) { q.refresh(u, now) }

// advance does what time has brought.
func (q *Queue) advance(now int64) {
	for n := q.later.first(); n != nil && n.from <= now; n = q.later.first() {
		q.lift(n, now)
		q.place(n, now)
	}
	q.timers.run(q, now)
}

// Wake returns when Next may answer otherwise than now without any other change; ok is false when time alone changes nothing.
func (q *Queue) Wake() (at time.Time, ok bool) {
	first := int64(math.MaxInt64)
	if n := q.later.first(); n != nil {
		first = n.from
	}
	if len(q.timers) > 0 {
		first = min(first, q.timers[0].at)
	}
	if first == math.MaxInt64 {
		return time.Time{}, false
	}
	return time.Unix(0, first), true
}
