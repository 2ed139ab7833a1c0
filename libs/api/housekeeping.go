package api

import "time"

// Operations on what is removed by itself when its time is over. Services sweep by themselves; these say what is due, or have it done at once.
var (
	SweepTasks = Op[SweepRequest, SweepReport]{
		Service: "scheduler", Verb: "sweep", Permission: TenantWrite,
		Route: "POST /api/v1/housekeeping/tasks", Summary: "Remove tasks, files of tasks and sessions of tasks whose time is over, or say what would be",
	}
	SweepSessions = Op[SweepRequest, SweepReport]{
		Service: "sessions", Verb: "sweep", Permission: TenantWrite,
		Route: "POST /api/v1/housekeeping/sessions", Summary: "Stop, pause and remove sessions whose time is over, or say which would be",
	}
)

// SweepRequest asks for a sweep now. With DryRun nothing is changed.
type SweepRequest struct {
	DryRun bool `json:"dry_run,omitempty"`
}

// MaxSweepItems is how many items a report lists.
const MaxSweepItems = 500

// SweepReport says what was found due: how much of each kind, and the first MaxSweepItems of it. Without DryRun it has been dealt with,
// or will be in a moment.
type SweepReport struct {
	DryRun bool              `json:"dry_run"`
	Counts map[SweepKind]int `json:"counts"`
	Items  []SweepItem       `json:"items"`
	// Problems say what could not be looked at; for a person.
	Problems []string `json:"problems,omitempty"`
}

// Add counts an item, and lists it while there is room.
func (r *SweepReport) Add(item SweepItem) {
	if r.Counts == nil {
		r.Counts = map[SweepKind]int{}
	}
	r.Counts[item.Kind]++
	if len(r.Items) < MaxSweepItems {
		r.Items = append(r.Items, item)
	}
}

// SweepKind says what becomes of an item.
type SweepKind string

// The kinds.
const (
	SweepTask          SweepKind = "task"              // it is removed with its history and its files
	SweepArtifacts     SweepKind = "artifacts"         // its files are removed
	SweepTaskSession   SweepKind = "task_session"      // a session that no task needs any more is stopped
	SweepSessionTTL    SweepKind = "session_ttl"       // it is stopped
	SweepSessionIdle   SweepKind = "session_idle"      // it is paused, or stopped as its profile says
	SweepSessionStart  SweepKind = "session_start"     // it did not run in time and has failed
	SweepSessionEnded  SweepKind = "session_retention" // its history, log and workspace are removed
	SweepSessionOrphan SweepKind = "session_orphan"    // runtime and ledger are brought together
)

// SweepItem is one thing that is due.
type SweepItem struct {
	Kind   SweepKind `json:"kind"`
	Tenant string    `json:"tenant"`
	ID     string    `json:"id"`     // of the task or the session
	Reason string    `json:"reason"` // for a person
	Since  time.Time `json:"since"`  // since when it is due
}
