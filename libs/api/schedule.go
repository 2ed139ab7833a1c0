package api

import "time"

// KindSchedule is the kind of a schedule's id.
const KindSchedule Kind = 'c'

// Overlap says what a fire does while a task of an earlier one has not ended.
type Overlap string

// What a fire that meets an unfinished task does.
const (
	OverlapSkip   Overlap = "skip"           // it makes no task; the default
	OverlapQueue  Overlap = "queue"          // its task waits until the earlier ones have ended
	OverlapCancel Overlap = "cancel_running" // the earlier ones are cancelled, and its task waits until they have ended
)

// The bounds and defaults of a schedule.
const (
	DefaultCatchUp    = Duration(10 * time.Minute)
	MaxCatchUp        = Duration(7 * 24 * time.Hour)
	MaxJitter         = Duration(time.Hour)
	DefaultPauseAfter = 10
	// MaxCatchUpFires is how many fires at most are made up for at once; the latest ones are.
	MaxCatchUpFires = 100
	// MaxOverlapQueue is how many unfinished tasks of one schedule there are at most; a fire above it is skipped.
	MaxOverlapQueue = 20
)

// ScheduleSpec is what a person asks for: a task that is made at each time that Cron names.
type ScheduleSpec struct {
	Title string `json:"title,omitempty"`
	// Cron has five fields, or six with seconds in front, or is "@daily", "@every 90m" and the like. Times that a change of clocks skips
	// or repeats fire once; expressions with a * in seconds, minutes or hours go by elapsed time.
	Cron     string   `json:"cron"`
	Timezone string   `json:"timezone,omitempty"` // IANA name; empty: UTC
	Task     TaskSpec `json:"task"`               // without deadline, not_before and depends_on
	Overlap  Overlap  `json:"overlap,omitempty"`  // empty: skip
	// CatchUp is how late a fire may be, because the scheduler was away or the queue refused its task; what is
	// later is missed. Zero: 10m; at most 168h.
	CatchUp Duration `json:"catch_up,omitempty"`
	Jitter  Duration `json:"jitter,omitempty"` // each fire comes up to this much later than planned; at most 1h
	Paused  bool     `json:"paused,omitempty"`
	// PauseAfter pauses the schedule when so many of its tasks in a row have failed; zero: 10, negative: never.
	PauseAfter int `json:"pause_after,omitempty"`
}

// Schedule is a ScheduleSpec and what has become of it. The Env of its task is never shown.
type Schedule struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Owner  string `json:"owner"` // a Principal's ID; the tasks are theirs
	ScheduleSpec

	// PausedReason says why a schedule paused itself; for a person.
	PausedReason string `json:"paused_reason,omitempty"`
	// Planned is the time up to which all fires have been made, skipped or missed.
	Planned  time.Time  `json:"planned"`
	LastFire *time.Time `json:"last_fire,omitempty"` // the planned time of the last fire that made a task
	LastTask string     `json:"last_task,omitempty"`
	// LastProblem says why a later fire made none; for a person.
	LastProblem string `json:"last_problem,omitempty"`
	Fires       int64  `json:"fires"`   // tasks made as planned
	Skipped     int64  `json:"skipped"` // fires that met an unfinished task
	Missed      int64  `json:"missed"`  // fires that were later than CatchUp, or refused
	// Failures is how many fires in a row were refused; failed tasks are counted from the tasks themselves.
	Failures int `json:"failures,omitempty"`
	// Since is when the schedule was made, changed or resumed; failures before do not count.
	Since time.Time `json:"since"`

	Next      []time.Time `json:"next,omitempty"` // the next five planned times; none while paused
	CreatedAt time.Time   `json:"created_at"`
	Rev       uint64      `json:"rev"`
}

// Revision implements Revisioned.
func (s Schedule) Revision() uint64 { return s.Rev }
