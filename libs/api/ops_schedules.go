package api

import "time"

// Operations of the scheduler service on schedules and webhooks.
var (
	CreateSchedule = Op[CreateScheduleRequest, Schedule]{
		Service: "scheduler", Verb: "schedule-create", Permission: TaskCreate,
		Route: "POST /api/v1/schedules", Status: 201, Summary: "Create a schedule",
	}
	ListSchedules = Op[ListSchedulesRequest, Page[Schedule]]{
		Service: "scheduler", Verb: "schedule-list", Permission: TaskRead,
		Route: "GET /api/v1/schedules", Summary: "List schedules, newest first",
	}
	GetSchedule = Op[ScheduleRef, Schedule]{
		Service: "scheduler", Verb: "schedule-get", Permission: TaskRead,
		Route: "GET /api/v1/schedules/{id}", Summary: "Show a schedule and its next five times",
	}
	ScheduleHistory = Op[HistoryRequest, Page[Change[Schedule]]]{
		Service: "scheduler", Verb: "schedule-history", Permission: TaskRead,
		Route: "GET /api/v1/schedules/{id}/history", Summary: "List every change of a schedule, oldest first",
	}
	UpdateSchedule = Op[UpdateScheduleRequest, Schedule]{
		Service: "scheduler", Verb: "schedule-update", Permission: TaskWrite,
		Route: "PATCH /api/v1/schedules/{id}", Summary: "Change a schedule; its next fire is counted from now",
	}
	DeleteSchedule = Op[ScheduleRef, None]{
		Service: "scheduler", Verb: "schedule-delete", Permission: TaskWrite,
		Route: "DELETE /api/v1/schedules/{id}", Status: 204, Summary: "Delete a schedule; its tasks stay",
	}
	PauseSchedule = Op[ScheduleRef, Schedule]{
		Service: "scheduler", Verb: "schedule-pause", Permission: TaskWrite,
		Route: "POST /api/v1/schedules/{id}/pause", Summary: "Make no more tasks of a schedule",
	}
	ResumeSchedule = Op[ScheduleRef, Schedule]{
		Service: "scheduler", Verb: "schedule-resume", Permission: TaskWrite,
		Route: "POST /api/v1/schedules/{id}/resume", Summary: "Make tasks of a schedule again; what fell into the pause is not made up for",
	}
	RunSchedule = Op[RunScheduleRequest, Task]{
		Service: "scheduler", Verb: "schedule-run", Permission: TaskWrite,
		Route: "POST /api/v1/schedules/{id}/run", Status: 201, Summary: "Make a schedule's task now, beside its plan, whatever else runs",
	}
	NextTimes = Op[NextTimesRequest, NextTimesResponse]{
		Service: "scheduler", Verb: "schedule-next", Permission: TaskRead,
		Route: "GET /api/v1/schedules/{id}/next", Summary: "List the next planned times of a schedule",
	}
	PreviewSchedule = Op[PreviewScheduleRequest, NextTimesResponse]{
		Service: "scheduler", Verb: "schedule-preview", Permission: TaskRead,
		Route: "GET /api/v1/schedules/preview", Summary: "List the next times of a cron expression",
	}

	CreateWebhook = Op[CreateWebhookRequest, WebhookWithSecret]{
		Service: "scheduler", Verb: "webhook-create", Permission: TaskWrite,
		Route: "POST /api/v1/webhooks", Status: 201, Summary: "Create a webhook; its secret is shown once",
	}
	ListWebhooks = Op[List, Page[Webhook]]{
		Service: "scheduler", Verb: "webhook-list", Permission: TaskRead,
		Route: "GET /api/v1/webhooks", Summary: "List webhooks, newest first",
	}
	GetWebhook = Op[NameRef, Webhook]{
		Service: "scheduler", Verb: "webhook-get", Permission: TaskRead,
		Route: "GET /api/v1/webhooks/{name}", Summary: "Show a webhook",
	}
	UpdateWebhook = Op[UpdateWebhookRequest, Webhook]{
		Service: "scheduler", Verb: "webhook-update", Permission: TaskWrite,
		Route: "PATCH /api/v1/webhooks/{name}", Summary: "Change a webhook",
	}
	DeleteWebhook = Op[NameRef, None]{
		Service: "scheduler", Verb: "webhook-delete", Permission: TaskWrite,
		Route: "DELETE /api/v1/webhooks/{name}", Status: 204, Summary: "Delete a webhook; what is on its way to it is given up",
	}
	RotateWebhook = Op[RotateWebhookRequest, WebhookWithSecret]{
		Service: "scheduler", Verb: "webhook-rotate", Permission: TaskWrite,
		Route: "POST /api/v1/webhooks/{name}/rotate", Summary: "Give a webhook a new secret, shown once; the old one signs too for a while",
	}
	PingWebhook = Op[NameRef, Delivery]{
		Service: "scheduler", Verb: "webhook-ping", Permission: TaskWrite,
		Route: "POST /api/v1/webhooks/{name}/ping", Status: 202, Summary: "Send a webhook an event of type ping",
	}
	ListDeliveries = Op[ListDeliveriesRequest, Page[Delivery]]{
		Service: "scheduler", Verb: "delivery-list", Permission: TaskRead,
		Route: "GET /api/v1/webhooks/{name}/deliveries", Summary: "List what was or will be sent to a webhook, newest first",
	}
	Redeliver = Op[RedeliverRequest, Delivery]{
		Service: "scheduler", Verb: "delivery-retry", Permission: TaskWrite,
		Route: "POST /api/v1/webhooks/{name}/deliveries/{id}/retry", Status: 202, Summary: "Send a failed delivery again",
	}
)

// ScheduleRef names one schedule. IfMatch as in SessionRef.
type ScheduleRef struct {
	ID      string `json:"id" in:"path"`
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
}

// CreateScheduleRequest asks for a schedule.
type CreateScheduleRequest struct {
	ScheduleSpec
	IdempotencyKey string `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

// ListSchedulesRequest filters by owner and a text in the title, the expression or the id.
type ListSchedulesRequest struct {
	List
	Owner string `json:"owner,omitempty" in:"query"`
	Query string `json:"q,omitempty" in:"query"`
}

// UpdateScheduleRequest changes what is not nil.
type UpdateScheduleRequest struct {
	ID         string    `json:"id" in:"path"`
	IfMatch    uint64    `json:"if_match,omitempty" in:"header:If-Match"`
	Title      *string   `json:"title,omitempty"`
	Cron       *string   `json:"cron,omitempty"`
	Timezone   *string   `json:"timezone,omitempty"`
	Task       *TaskSpec `json:"task,omitempty"` // the whole
	Overlap    *Overlap  `json:"overlap,omitempty"`
	CatchUp    *Duration `json:"catch_up,omitempty"`
	Jitter     *Duration `json:"jitter,omitempty"`
	Paused     *bool     `json:"paused,omitempty"`
	PauseAfter *int      `json:"pause_after,omitempty"`
}

// RunScheduleRequest makes a task now. A repeat with the same idempotency key returns the same task.
type RunScheduleRequest struct {
	ID             string `json:"id" in:"path"`
	IdempotencyKey string `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

// NextTimesRequest asks for Count (zero: 5, at most 100) planned times after After (absent: now).
type NextTimesRequest struct {
	ID    string    `json:"id" in:"path"`
	Count int       `json:"count,omitempty" in:"query"`
	After time.Time `json:"after,omitzero" in:"query"`
}

// PreviewScheduleRequest asks for the times of an expression. "@every" is counted from After.
type PreviewScheduleRequest struct {
	Cron     string    `json:"cron" in:"query"`
	Timezone string    `json:"timezone,omitempty" in:"query"`
	Count    int       `json:"count,omitempty" in:"query"`
	After    time.Time `json:"after,omitzero" in:"query"`
}

// NextTimesResponse holds times, soonest first.
type NextTimesResponse struct {
	Items []time.Time `json:"items"`
}

// CreateWebhookRequest asks for a webhook. Name is unique in the tenant.
type CreateWebhookRequest struct {
	Name   string   `json:"name"`
	URL    string   `json:"url"`
	Events []string `json:"events,omitempty"`
}

// WebhookWithSecret is a webhook with its newest secret, which is shown this once.
type WebhookWithSecret struct {
	Webhook
	Secret string `json:"secret"`
}

// UpdateWebhookRequest changes what is not nil.
type UpdateWebhookRequest struct {
	Name     string    `json:"name" in:"path"`
	IfMatch  uint64    `json:"if_match,omitempty" in:"header:If-Match"`
	URL      *string   `json:"url,omitempty"`
	Events   *[]string `json:"events,omitempty"`
	Disabled *bool     `json:"disabled,omitempty"`
}

// RotateWebhookRequest gives the old secret so much time (absent: 24h, at most 168h; zero: none).
type RotateWebhookRequest struct {
	Name    string    `json:"name" in:"path"`
	Overlap *Duration `json:"overlap,omitempty"`
}

// ListDeliveriesRequest filters a webhook's deliveries by state.
type ListDeliveriesRequest struct {
	Name string `json:"name" in:"path"`
	List
	State DeliveryState `json:"state,omitempty" in:"query"`
}

// RedeliverRequest names a delivery of a webhook.
type RedeliverRequest struct {
	Name string `json:"name" in:"path"`
	ID   string `json:"id" in:"path"`
}
