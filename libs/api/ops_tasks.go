package api

// Operations of the scheduler service on tasks and queues.
var (
	CreateTask = Op[CreateTaskRequest, Task]{
		Service: "scheduler", Verb: "create", Permission: TaskCreate,
		Route: "POST /api/v1/tasks", Status: 201, Summary: "Create a task",
	}
	CreateTasks = Op[CreateTasksRequest, CreateTasksResponse]{
		Service: "scheduler", Verb: "create-batch", Permission: TaskCreate,
		Route: "POST /api/v1/tasks/batch", Status: 201, Summary: "Create tasks that may depend on each other",
	}
	ListTasks = Op[ListTasksRequest, Page[Task]]{
		Service: "scheduler", Verb: "list", Permission: TaskRead,
		Route: "GET /api/v1/tasks", Summary: "List tasks, newest first",
	}
	GetTask = Op[TaskRef, Task]{
		Service: "scheduler", Verb: "get", Permission: TaskRead,
		Route: "GET /api/v1/tasks/{id}", Summary: "Show a task: where it stands, and why it waits",
	}
	WaitTask = Op[WaitTaskRequest, Task]{
		Service: "scheduler", Verb: "wait", Permission: TaskRead,
		Route: "GET /api/v1/tasks/{id}/wait", Summary: "Show a task as soon as it has ended or a time has passed",
		Waits: true,
	}
	TaskHistory = Op[HistoryRequest, Page[Change[Task]]]{
		Service: "scheduler", Verb: "history", Permission: TaskRead,
		Route: "GET /api/v1/tasks/{id}/history", Summary: "List every change of a task, oldest first",
	}
	CancelTask = Op[CancelTaskRequest, Task]{
		Service: "scheduler", Verb: "cancel", Permission: TaskWrite,
		Route: "POST /api/v1/tasks/{id}/cancel", Status: 202, Summary: "Cancel a task: interrupt its agent, then stop it",
	}
	RetryTask = Op[TaskRef, Task]{
		Service: "scheduler", Verb: "retry", Permission: TaskWrite,
		Route: "POST /api/v1/tasks/{id}/retry", Status: 202, Summary: "Queue a task that has ended once more",
	}
	ListArtifacts = Op[TaskRef, Page[TaskArtifact]]{
		Service: "scheduler", Verb: "artifacts", Permission: TaskRead,
		Route: "GET /api/v1/tasks/{id}/artifacts", Summary: "List the files that a task left",
	}

	CreateQueue = Op[Queue, Queue]{
		Service: "scheduler", Verb: "queue-create", Permission: TenantWrite,
		Route: "POST /api/v1/queues", Status: 201, Summary: "Create a queue",
	}
	ListQueues = Op[List, Page[Queue]]{
		Service: "scheduler", Verb: "queue-list", Permission: TaskRead,
		Route: "GET /api/v1/queues", Summary: "List queues",
	}
	GetQueue = Op[NameRef, Queue]{
		Service: "scheduler", Verb: "queue-get", Permission: TaskRead,
		Route: "GET /api/v1/queues/{name}", Summary: "Show a queue",
	}
	UpdateQueue = Op[UpdateQueueRequest, Queue]{
		Service: "scheduler", Verb: "queue-update", Permission: TenantWrite,
		Route: "PUT /api/v1/queues/{name}", Summary: "Replace a queue's weights and limits",
	}
	DeleteQueue = Op[NameRef, None]{
		Service: "scheduler", Verb: "queue-delete", Permission: TenantWrite,
		Route: "DELETE /api/v1/queues/{name}", Status: 204, Summary: "Delete a queue in which nothing waits or runs",
	}
	PauseQueue = Op[NameRef, Queue]{
		Service: "scheduler", Verb: "queue-pause", Permission: TenantWrite,
		Route: "POST /api/v1/queues/{name}/pause", Summary: "Start no more tasks of a queue",
	}
	ResumeQueue = Op[NameRef, Queue]{
		Service: "scheduler", Verb: "queue-resume", Permission: TenantWrite,
		Route: "POST /api/v1/queues/{name}/resume", Summary: "Start tasks of a queue again",
	}
	GetQueueStats = Op[NameRef, QueueStats]{
		Service: "scheduler", Verb: "queue-stats", Permission: TaskRead,
		Route: "GET /api/v1/queues/{name}/stats", Summary: "Count a queue's tasks by state and by what they wait for",
	}
	ListDeadLetters = Op[DeadLettersRequest, Page[Task]]{
		Service: "scheduler", Verb: "dead-letters", Permission: TaskRead,
		Route: "GET /api/v1/queues/{name}/dead-letters", Summary: "List the tasks of a queue that failed for good, newest first",
	}
	Redrive = Op[RedriveRequest, RedriveResponse]{
		Service: "scheduler", Verb: "redrive", Permission: TaskWrite,
		Route: "POST /api/v1/queues/{name}/redrive", Summary: "Queue tasks that failed for good once more",
	}
)

// TaskRef names one task. IfMatch as in SessionRef.
type TaskRef struct {
	ID      string `json:"id" in:"path"`
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
}

// CreateTaskRequest asks for a task.
type CreateTaskRequest struct {
	TaskSpec
	IdempotencyKey string `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

// MaxBatch bounds the tasks of one batch.
const MaxBatch = 1000

// CreateTasksRequest asks for 1 to MaxBatch tasks. All are checked before the first is made. A batch
// that was made in part (unavailable) is completed by repeating it with the same idempotency key.
type CreateTasksRequest struct {
	Tasks          []TaskSpec `json:"tasks"`
	IdempotencyKey string     `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

// CreateTasksResponse holds the tasks in the order of the request.
type CreateTasksResponse struct {
	Items []Task `json:"items"`
}

// ListTasksRequest filters by state, queue, owner, schedule, label ("k=v", repeated: all must match) and a
// text in the title, name or id.
type ListTasksRequest struct {
	List
	State    TaskState `json:"state,omitempty" in:"query"`
	Queue    string    `json:"queue,omitempty" in:"query"`
	Owner    string    `json:"owner,omitempty" in:"query"`
	Schedule string    `json:"schedule,omitempty" in:"query"`
	Label    []string  `json:"label,omitempty" in:"query"`
	Query    string    `json:"q,omitempty" in:"query"`
}

// WaitTaskRequest waits at most Timeout (zero: 30s, at most 120s) for the task's end.
type WaitTaskRequest struct {
	ID      string   `json:"id" in:"path"`
	Timeout Duration `json:"timeout,omitempty" in:"query"`
}

// CancelTaskRequest cancels a task for a reason that is kept with it.
type CancelTaskRequest struct {
	ID     string `json:"id" in:"path"`
	Reason string `json:"reason,omitempty"`
}

// UpdateQueueRequest replaces the queue that Name in the path names.
type UpdateQueueRequest struct {
	Name    string `json:"name" in:"path"`
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
	Queue   Queue  `json:"queue" in:"body"` // the whole HTTP body
}

// DeadLettersRequest pages through the dead letters of one queue.
type DeadLettersRequest struct {
	Name string `json:"name" in:"path"`
	List
}

// RedriveRequest queues the dead letters IDs again; empty: the newest Limit (zero: 100, at most 500) that the caller may change.
type RedriveRequest struct {
	Name  string   `json:"name" in:"path"`
	IDs   []string `json:"ids,omitempty"`
	Limit int      `json:"limit,omitempty"`
}

// RedriveResponse says how many were queued.
type RedriveResponse struct {
	Queued int `json:"queued"`
}
