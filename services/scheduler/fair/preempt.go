package fair

import "time"

// Victim returns a running task that is to make room for a waiting one of a higher priority: for the one that is next, when the queue runs as many
// tasks as it may and may says of the running one that it can be put off. Of those of the lowest priority it is the one that began last, so that
// the least work is lost. Priorities are as they were given, without age; and a tenant or a user that is ahead of its share puts nobody off. It
// costs as much as tasks run.
func (q *Queue) Victim(now time.Time, may func(id string) bool) (victim, by string, ok bool) {
	at := now.UnixNano()
	q.advance(at)
	if q.cfg.Paused || q.cfg.Concurrency == 0 || q.running < q.cfg.Concurrency {
		return "", "", false
	}
	top := q.group.next()
	if top == nil || top.ahead {
		return "", "", false
	}
	t := q.tenants[top.name]
	flow := t.group.next()
	if flow.ahead {
		return "", "", false
	}
	next := t.users[flow.name].ready.first()
	var worst *node
	for n, since := range q.since {
		if n.priority >= next.priority || worst != nil && !worse(n, since, worst, q.since[worst]) || !may(n.id) {
			continue
		}
		worst = n
	}
	if worst == nil {
		return "", "", false
	}
	return worst.id, next.id, true
}

// worse reports whether n is rather put off than m.
func worse(n *node, nSince int64, m *node, mSince int64) bool {
	switch {
	case n.priority != m.priority:
		return n.priority < m.priority
	case nSince != mSince:
		return nSince > mSince
	}
	return n.seq > m.seq
}
