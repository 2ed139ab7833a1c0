package fair

import "time"

// Reason says why a task that the queue knows does not run.
type Reason uint8

// The reasons.
const (
	Running     Reason = iota // it does
	NotBefore                 // its time has not come
	Retry                     // it pauses after a failure
	Paused                    // the queue does
	QueueLimit                // as many run as the queue may
	TenantLimit               // likewise its tenant
	UserLimit                 // likewise its user
	KeyLimit                  // likewise its concurrency key
	RateLimit                 // its rate key is used up for now
	Session                   // its session works on another task
	Capacity                  // its user is held
	Turn                      // others are before it
)

// Why returns why a task does not run and, of one that only waits for its turn or for a place, which in the queue's present order it is: 1 is
// next. The place is an estimate that takes no account of urgency between flows; it costs as much as there are flows. ok
// is false for a task that the queue does not know.
func (q *Queue) Why(now time.Time, id string) (r Reason, position int, ok bool) {
	n := q.nodes[id]
	if n == nil {
		return Running, 0, false
	}
	switch n.home {
	case nil:
		return Running, 0, true
	case &q.later:
		return n.laterReason(), 0, true
	case &n.user.ready:
		return q.readyReason(n.user, now.UnixNano()), q.position(n), true
	}
	return n.pass.gates[n.pass.past].id.kind.reason(), 0, true
}

func (n *node) laterReason() Reason {
	if n.retry {
		return Retry
	}
	return NotBefore
}

func (k gateKind) reason() Reason {
	switch k {
	case gateSession:
		return Session
	case gateKey:
		return KeyLimit
	}
	return RateLimit
}

// readyReason is the same for all ready tasks of a user.
func (q *Queue) readyReason(u *user, now int64) Reason {
	switch {
	case q.cfg.Paused:
		return Paused
	case held(&u.flow, now):
		return Capacity
	case full(&u.flow):
		return UserLimit
	case full(&u.tenant.flow):
		return TenantLimit
	case q.cfg.Concurrency > 0 && q.running >= q.cfg.Concurrency:
		return QueueLimit
	}
	return Turn
}

// position counts what starts before n when everyone takes turns by weight.
func (q *Queue) position(n *node) int {
	u, t := n.user, n.user.tenant
	mine := u.ready.rank(n) + 1
	turns := mine
	for _, v := range t.users {
		if v != u {
			turns += min(v.ready.len(), int(float64(mine)*v.weight/u.weight))
		}
	}
	all := turns
	for _, o := range q.tenants {
		if o != t {
			all += min(o.ready, int(float64(turns)*o.weight/t.weight))
		}
	}
	return all
}

// Waiting counts the waiting tasks of a tenant, or of all for "", by reason. It costs as much as there are flows and gates.
func (q *Queue) Waiting(now time.Time, tenantName string) map[Reason]int {
	counts := map[Reason]int{}
	at := now.UnixNano()
	for _, t := range q.tenants {
		if tenantName != "" && t.name != tenantName {
			continue
		}
		if t.later > 0 {
			counts[NotBefore] += t.later // and those that pause after a failure
		}
		for _, u := range t.users {
			if n := u.ready.len(); n > 0 {
				counts[q.readyReason(u, at)] += n
			}
		}
	}
	for id, g := range q.gates {
		if n := g.waiting.len(); n > 0 && (tenantName == "" || id.tenant == tenantName) {
			counts[id.kind.reason()] += n
		}
	}
	return counts
}
