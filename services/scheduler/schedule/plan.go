package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/scheduler/cron"
)

// TaskID returns the id of the task that the fire planned for a time makes.
func TaskID(schedule string, planned time.Time) string {
	return api.DeriveID(api.KindTask, "schedule", schedule, strconv.FormatInt(planned.Unix(), 10))
}

// plan is when a schedule fires.
type plan struct {
	id      string
	times   cron.Schedule
	catchUp time.Duration
	jitter  time.Duration
}

func planOf(s api.Schedule) (plan, error) {
	loc, err := cron.Zone(s.Timezone)
	if err != nil {
		return plan{}, api.Invalid("/timezone", "%v", err)
	}
	times, err := cron.Parse(s.Cron, loc)
	if err != nil {
		return plan{}, api.Invalid("/cron", "%v", err)
	}
	times.Anchor = s.CreatedAt
	catchUp := s.CatchUp
	if catchUp == 0 {
		catchUp = api.DefaultCatchUp
	}
	return plan{id: s.ID, times: times, catchUp: catchUp.D(), jitter: s.Jitter.D()}, nil
}

// due is when the fire planned for a time is made: later by a part of the jitter that is always the same for it.
func (p plan) due(planned time.Time) time.Time {
	if p.jitter <= 0 {
		return planned
	}
	sum := sha256.Sum256(strconv.AppendInt([]byte(p.id+"\x00"), planned.Unix(), 10))
	return planned.Add(time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(p.jitter))) //nolint:gosec // checked above
}

// mostCounted bounds how many missed fires are counted one by one.
const mostCounted = 10_000

// overdue returns what has happened since planned: the times to fire, oldest first, at most api.MaxCatchUpFires; and how many before them
// were missed, by which planned moves to passed. Fires are made in the order of their planned times.
func (p plan) overdue(planned, now time.Time) (fires []time.Time, passed time.Time, missed int64) {
	at, tooLate := planned, now.Add(-p.catchUp)
	for {
		next, ok := p.times.Next(at)
		if !ok || p.due(next).After(now) {
			break
		}
		next = next.UTC()
		if p.due(next).Before(tooLate) {
			missed++
			at, passed = next, next
			if missed == mostCounted { // the rest of a long absence is passed over uncounted
				if skip := tooLate.Add(-p.jitter - time.Second); skip.After(at) {
					at, passed = skip, skip
				}
			}
			continue
		}
		at = next
		if fires = append(fires, next); len(fires) > api.MaxCatchUpFires {
			missed++
			passed, fires = fires[0], fires[1:]
		}
	}
	return fires, passed, missed
}

// nextDue is when the first fire after planned is made; zero: never.
func (p plan) nextDue(planned time.Time) time.Time {
	next, ok := p.times.Next(planned)
	if !ok {
		return time.Time{}
	}
	return p.due(next)
}

// failedInRow counts the schedule's tasks that failed since a time, from the newest back to one that succeeded. What has not ended, and
// what somebody cancelled, says nothing. It returns the newest failure's reason, too.
func failedInRow(recent []api.Task, since time.Time) (n int, reason string) {
	for _, t := range recent {
		if t.CreatedAt.Before(since) {
			break
		}
		switch t.State {
		case api.TaskSucceeded:
			return n, reason
		case api.TaskFailed, api.TaskExpired:
			if n == 0 {
				reason = t.Reason
			}
			n++
		}
	}
	return n, reason
}
