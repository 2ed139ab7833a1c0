package api

import "time"

// TaskState is where a task is in its life. services/scheduler holds the table of which may
// follow which.
type TaskState string

// The states of a task.
const (
	TaskQueued    TaskState = "queued"            // waits for its turn; WaitReason says what for
	TaskBlocked   TaskState = "blocked"           // waits for the tasks that it depends on
	TaskAssigned  TaskState = "assigned"          // given to a session that is being made
	TaskRunning   TaskState = "running"           // its session works on it
	TaskWaiting   TaskState = "waiting_for_input" // its agent asked a question; the deadline keeps running
	TaskSucceeded TaskState = "succeeded"         // final
	TaskFailed    TaskState = "failed"            // final; Reason says why
	TaskCancelled TaskState = "cancelled"         // final; somebody asked for it
	TaskExpired   TaskState = "expired"           // final; its deadline passed
)

// TaskStates lists all states, those of waiting first and the final ones last.
func TaskStates() []TaskState {
	return []TaskState{
		TaskQueued, TaskBlocked, TaskAssigned, TaskRunning, TaskWaiting,
		TaskSucceeded, TaskFailed, TaskCancelled, TaskExpired,
	}
}

// Final reports whether nothing follows s, unless somebody retries the task.
func (s TaskState) Final() bool {
	return s == TaskSucceeded || s == TaskFailed || s == TaskCancelled || s == TaskExpired
}

// Active reports whether a task in s holds a session.
func (s TaskState) Active() bool {
	return s == TaskAssigned || s == TaskRunning || s == TaskWaiting
}

// The bounds and the default of a task's priority: MaxPriority runs first.
const (
	DefaultPriority = 5
	MaxPriority     = 9
)

// DefaultQueue is the queue of a task that names none. It always exists.
const DefaultQueue = "default"

// TaskSpec is what a person asks for: either a Prompt for an agent or a Command. It is what a schedule keeps, and the
// body of POST /api/v1/tasks.
type TaskSpec struct {
	// Name names the task among those of one batch, for their DependsOn; elsewhere it is only shown.
	Name  string `json:"name,omitempty"`
	Title string `json:"title,omitempty"`
	Queue string `json:"queue,omitempty"` // empty: DefaultQueue

	Prompt  string `json:"prompt,omitempty"`
	Command string `json:"command,omitempty"` // for sh -c, in the workspace

	Profile    string            `json:"profile,omitempty"`
	Agent      *Agent            `json:"agent,omitempty"`
	Repository *Repository       `json:"repository,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Session    *TaskSession      `json:"session,omitempty"`

	Priority  *int       `json:"priority,omitempty"` // 0–9, 9 first; nil: DefaultPriority
	NotBefore *time.Time `json:"not_before,omitempty"`
	Deadline  *time.Time `json:"deadline,omitempty"` // then it expires, wherever it is
	Timeout   Duration   `json:"timeout,omitempty"`  // of one attempt, from its assignment; zero: the queue's
	Retry     *TaskRetry `json:"retry,omitempty"`

	// DependsOn lists tasks, by id or by the name of one in the same batch, that must have
	// ended before this one starts. OnFailure says what a parent that did not succeed does to it.
	DependsOn []string      `json:"depends_on,omitempty"`
	OnFailure ParentFailure `json:"on_parent_failure,omitempty"`

	// ConcurrencyKey: of the tasks of one queue and tenant with the same key, only so many run
	// at once as the queue says (usually one). RateKey: only so many are started in a time.
	ConcurrencyKey string `json:"concurrency_key,omitempty"`
	RateKey        string `json:"rate_key,omitempty"`

	Labels map[string]string `json:"labels,omitempty"`

	// Artifacts are patterns of workspace files to keep, as of path.Match with "**" for any
	// directories. ResultBranch, if set, receives the changes of the workspace: a new branch
	// of the repository, never forced.
	Artifacts    []string    `json:"artifacts,omitempty"`
	ResultBranch string      `json:"result_branch,omitempty"`
	Commit       *TaskCommit `json:"commit,omitempty"`

	Notify []TaskNotify `json:"notify,omitempty"`
}

// ParentFailure says what becomes of a task when one that it depends on did not succeed.
type ParentFailure string

// What a failed parent does to its children.
const (
	ParentFail   ParentFailure = "fail"   // the child fails too; the default
	ParentCancel ParentFailure = "cancel" // the child is cancelled
	ParentRun    ParentFailure = "run"    // the child runs all the same
)

// TaskSession says in which session a task runs. Empty: as its queue says (SessionReuse), else in one of its own, which is stopped when the task ends.
type TaskSession struct {
	Reuse string `json:"reuse,omitempty"` // the id of a session of the task's owner; its tasks run one by one
	Keep  bool   `json:"keep,omitempty"`  // leave the task's own session running after the task's end
	Own   bool   `json:"own,omitempty"`   // in a session that no other task had or gets, whatever the queue says (SessionReuse)
}

// TaskRetry says how a task whose attempt failed is tried again: after Backoff, doubled each
// time up to MaxBackoff, with jitter.
type TaskRetry struct {
	MaxAttempts int      `json:"max_attempts,omitempty"` // zero: 3; 1: never again
	Backoff     Duration `json:"backoff,omitempty"`      // zero: 5s
	MaxBackoff  Duration `json:"max_backoff,omitempty"`  // zero: 5m
	// OnFailure tries again, too, after a command that ended with another status than 0. A task whose
	// session died is always tried again.
	OnFailure bool `json:"on_failure,omitempty"`
}

// TaskCommit is how the changes of a result branch are committed. In Message, {{id}}, {{title}}, {{attempt}} and {{summary}}
// stand for the task's.
type TaskCommit struct {
	Author  string `json:"author,omitempty"`
	Email   string `json:"email,omitempty"`
	Message string `json:"message,omitempty"`
}

// TaskNotify names a webhook that is told when the task reaches one of the states On; empty: any final one.
type TaskNotify struct {
	Webhook string      `json:"webhook"`
	On      []TaskState `json:"on,omitempty"`
}

// Task is a piece of work: what was asked for, and what has become of it. Its Env is never shown.
type Task struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Owner  string `json:"owner"` // a Principal's ID
	TaskSpec
	// SessionID is the session of the newest attempt. In JSON it stands in the place of the spec's Session,
	// which is SessionRequest here.
	SessionID      string       `json:"session,omitempty"`
	SessionRequest *TaskSession `json:"session_request,omitempty"`
	// SessionShared says that the session did other work before this: the task's part of its log begins with Message.
	SessionShared bool `json:"session_shared,omitempty"`

	State   TaskState `json:"state"`
	Reason  string    `json:"reason,omitempty"`  // why it failed, ended or waits; for a person
	Attempt int       `json:"attempt"`           // attempts begun; 0: none
	Message string    `json:"message,omitempty"` // the id of its prompt in the session's log

	// WaitReason says why a queued task does not run; Position is its place in the queue's
	// present order (1: next). Both are the dispatcher's and only of queued tasks.
	WaitReason WaitReason `json:"wait_reason,omitempty"`
	Position   int        `json:"position,omitempty"`

	CancelRequested bool `json:"cancel_requested,omitempty"`
	// DeadLetter marks a task that failed for good. It stays to be looked at until it is retried, or its retention ends.
	DeadLetter bool `json:"dead_letter,omitempty"`

	Schedule string `json:"schedule,omitempty"` // the schedule that made it

	CreatedAt time.Time  `json:"created_at"`
	QueuedAt  time.Time  `json:"queued_at"`            // when it last began to wait
	RetryAt   *time.Time `json:"retry_at,omitempty"`   // a queued task does not start before
	StartedAt *time.Time `json:"started_at,omitempty"` // its newest attempt
	EndedAt   *time.Time `json:"ended_at,omitempty"`

	Attempts []TaskAttempt `json:"attempts,omitempty"` // oldest first, the newest 20
	Usage    Usage         `json:"usage,omitzero"`     // of all attempts, however they ended
	Result   *TaskResult   `json:"result,omitempty"`
	Rev      uint64        `json:"rev"`
}

// Revision implements Revisioned.
func (t Task) Revision() uint64 { return t.Rev }

// WaitReason says why a task that could start does not.
type WaitReason string

// The reasons, in the order in which they are looked for.
const (
	WaitDependencies WaitReason = "dependencies"    // blocked
	WaitNotBefore    WaitReason = "not_before"      // its time has not come
	WaitRetry        WaitReason = "retry"           // it backs off after a failed attempt
	WaitPaused       WaitReason = "queue_paused"    //
	WaitQueueLimit   WaitReason = "queue_limit"     // the queue runs as many as it may
	WaitTenantLimit  WaitReason = "tenant_limit"    // likewise the tenant in this queue
	WaitUserLimit    WaitReason = "user_limit"      // likewise the user
	WaitKeyLimit     WaitReason = "concurrency_key" // likewise the key
	WaitRateLimit    WaitReason = "rate_limit"      // its rate key is used up for now
	WaitSession      WaitReason = "session_busy"    // the session that it reuses works on another task
	WaitCapacity     WaitReason = "capacity"        // no session can be made now
	WaitTurn         WaitReason = "turn"            // others are before it
)

// TaskAttempt is one try of a task.
type TaskAttempt struct {
	Attempt int    `json:"attempt"`
	Session string `json:"session,omitempty"`
	// Fence is the revision of its assignment. What another assignment reports is refused.
	Fence   uint64 `json:"fence,omitempty"`
	Outcome string `json:"outcome,omitempty"` // succeeded, failed, lost, timeout, preempted, cancelled, expired; empty: goes on
	Reason  string `json:"reason,omitempty"`
	// PreemptedBy is the task that took its place, if that is the same tenant's.
	PreemptedBy string     `json:"preempted_by,omitempty"`
	Usage       Usage      `json:"usage,omitzero"` // what its turn had used when it was over
	StartedAt   time.Time  `json:"started_at"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
}

// TaskResult is what a task left. One that did not succeed leaves its files too, where its session could still be asked for them.
type TaskResult struct {
	Status    TaskState      `json:"status"`
	Summary   string         `json:"summary,omitempty"`  // the agent's last words, or the end of the command's output
	ExitCode  int            `json:"exit_code"`          // of a command; of a prompt 0 or 1
	Branch    string         `json:"branch,omitempty"`   // that was pushed
	Commit    string         `json:"commit,omitempty"`   // its head
	Conflict  string         `json:"conflict,omitempty"` // why the branch was not pushed
	Artifacts []TaskArtifact `json:"artifacts"`          //
	Problems  []string       `json:"problems,omitempty"` // what of the result could not be kept, and why
	Usage     Usage          `json:"usage"`              // of all attempts
}

// TaskArtifact is one file that a task left: GET /api/v1/tasks/{id}/artifacts/{path}.
type TaskArtifact struct {
	Path   string `json:"path"` // in the workspace, slash-separated
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
	Blob   string `json:"blob"`   // under which it is kept
}

// Queue is where tasks wait. All tenants share it, each with its weight.
type Queue struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Paused      bool   `json:"paused,omitempty"`
	// Concurrency is how many of its tasks run at once; the next three bound one tenant, one
	// user and one concurrency key in it. Zero: the service's default.
	Concurrency    int             `json:"concurrency,omitempty"`
	PerTenant      int             `json:"per_tenant,omitempty"`
	PerUser        int             `json:"per_user,omitempty"`
	PerKey         int             `json:"per_key,omitempty"`
	TenantWeights  map[string]int  `json:"tenant_weights,omitempty"` // 1–1000; absent: 1
	UserWeights    map[string]int  `json:"user_weights,omitempty"`   // by user id; likewise, within the tenant
	Rates          map[string]Rate `json:"rates,omitempty"`          // by rate key; "*": any other key
	Ageing         Duration        `json:"ageing,omitempty"`         // a waiting task gains one priority in this time; zero: 30m
	DefaultTimeout Duration        `json:"default_timeout,omitempty"`
	// Preempt lets a waiting task take the place of a running one of lower priority when the queue is full: the running one is interrupted and waits again, with its
	// age and all its attempts. What was preempted is spared for ten minutes.
	Preempt bool `json:"preempt,omitempty"`
	// Reuse lets tasks have the sessions of earlier ones; nil: each has its own.
	Reuse *SessionReuse `json:"session_reuse,omitempty"`
	// Retention is how long a task is kept after its end, and ArtifactRetention how long its files are. Zero: the service's.
	Retention         Duration  `json:"retention,omitempty"`
	ArtifactRetention Duration  `json:"artifact_retention,omitempty"`
	CreatedAt         time.Time `json:"created_at,omitzero"`
	Rev               uint64    `json:"rev"`
}

// Revision implements Revisioned.
func (q Queue) Revision() uint64 { return q.Rev }

// SessionReuse says how the sessions of a queue's tasks are used again. When a task has succeeded, its session is kept and given to the next task of the same
// owner, profile, agent, repository and environment, if the profile and its secrets are still what the session was made from. One task at a time has a session, and each begins with a
// fresh checkout, an agent without memory and none of the processes of the one before; what the agent keeps in its home stays.
type SessionReuse struct {
	Idle     Duration `json:"idle,omitempty"`      // how long a session waits for its next task; zero: 10m
	MaxTasks int      `json:"max_tasks,omitempty"` // how many tasks one session has; zero: 20
	MaxIdle  int      `json:"max_idle,omitempty"`  // how many sessions of the queue wait; zero: 10
}

// Rate is so many starts in a time, with as many at once after a pause.
type Rate struct {
	Count int      `json:"count"`
	Per   Duration `json:"per"`
}

// QueueStats counts a queue's tasks: the caller's tenant's, and of all tenants for who may manage the yard.
type QueueStats struct {
	Queue       string             `json:"queue"`
	Paused      bool               `json:"paused"`
	States      map[TaskState]int  `json:"states"`
	Waiting     map[WaitReason]int `json:"waiting,omitempty"` // queued tasks by reason
	DeadLetters int                `json:"dead_letters"`
	OldestAt    *time.Time         `json:"oldest_at,omitempty"` // since when the oldest queued task waits
}

// TaskRecord is a task as the TASKS ledger keeps it. It never leaves the scheduler and the gateway.
type TaskRecord struct {
	Task
	// Fence is the revision of the present assignment; 0 in the assignment itself.
	Fence uint64 `json:"fence,omitempty"`
	// RequestHash tells a repeated create request from another one under the same idempotency key.
	RequestHash string `json:"request_hash,omitempty"`
	// Assigned counts assignments, also those that did not become attempts; it names the session of each.
	Assigned int `json:"assigned,omitempty"`
	// Before is how many of the attempts were made before somebody last retried the task, and how many were preempted since; its policy
	// does not count them.
	Before int `json:"before,omitempty"`
	// Busy counts the assignments in a row that met a yard without capacity.
	Busy int `json:"busy,omitempty"`
}

// Reuses reports whether the task has a session that somebody named.
func (s *TaskSession) Reuses() bool { return s != nil && s.Reuse != "" }

// Keeps reports whether the task's own session stays after the task.
func (s *TaskSession) Keeps() bool { return s != nil && s.Keep }
