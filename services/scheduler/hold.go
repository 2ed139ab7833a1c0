package scheduler

import (
	"fmt"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Index names of the view of SESSIONS.
const (
	indexPool  = "pool"  // tenant/owner/pool, sessions that have not ended
	indexQueue = "queue" // queue, likewise
	indexHeld  = "held"  // tenant, likewise
)

// hold says for which tasks a session is, and which of them has it. It is the session's label, so it survives whoever wrote it. Together with the task in
// labelTask it says everything: a session waits for its next task when that task has succeeded in it. Nothing is written for that.
type hold struct {
	queue    string
	pool     string // what its tasks have in common (poolOf)
	maker    string // the task for which it was made, and
	made     int    // by which of its assignments: the session's id derives from that
	assigned int    // the assignment of the task in labelTask that has it
	tasks    int    // how many it has had, that one included
}

func (h hold) String() string {
	return fmt.Sprintf("%s %s %s %d %d %d", h.queue, h.pool, h.maker, h.made, h.assigned, h.tasks)
}

// parseHold is the inverse of String.
func parseHold(text string) (hold, bool) {
	f := strings.Split(text, " ")
	if len(f) != 6 || len(text) > maxLabel {
		return hold{}, false
	}
	h := hold{queue: f[0], pool: f[1], maker: f[2]}
	for i, n := range []*int{&h.made, &h.assigned, &h.tasks} {
		var err error
		if *n, err = strconv.Atoi(f[3+i]); err != nil || *n < 1 {
			return hold{}, false
		}
	}
	return h, h.String() == text
}

// holdOf reads a session's hold. The label alone proves nothing, as with superfluous: the session's id does.
func holdOf(e bus.Entry[api.SessionRecord]) (hold, bool) {
	label := e.State.Labels[labelReuse]
	if label == "" { // as of nearly every session
		return hold{}, false
	}
	h, ok := parseHold(label)
	if !ok {
		return h, false
	}
	rec := api.TaskRecord{Task: api.Task{Owner: e.State.Owner}, Assigned: h.made}
	id, _ := sessionOf(rec, keyIn(e.Key.Tenant, h.maker))
	return h, id == e.Key.ID
}

// sessionIndexes lists the sessions that tasks use one after another, and no others.
func sessionIndexes() map[string]func(bus.Entry[api.SessionRecord]) []string {
	by := func(value func(bus.Entry[api.SessionRecord], hold) string) func(bus.Entry[api.SessionRecord]) []string {
		return func(e bus.Entry[api.SessionRecord]) []string {
			if e.State.State.Final() || e.State.State == api.StateStopping {
				return nil
			}
			held, ok := holdOf(e)
			if !ok {
				return nil
			}
			return []string{value(e, held)}
		}
	}
	return map[string]func(bus.Entry[api.SessionRecord]) []string{
		indexPool: by(func(e bus.Entry[api.SessionRecord], h hold) string {
			return poolValue(e.Key.Tenant, e.State.Owner, h.pool)
		}),
		indexQueue: by(func(_ bus.Entry[api.SessionRecord], h hold) string { return h.queue }),
		indexHeld:  by(func(e bus.Entry[api.SessionRecord], _ hold) string { return e.Key.Tenant }),
	}
}

func poolValue(tenant, owner, pool string) string { return tenant + "/" + owner + "/" + pool }
