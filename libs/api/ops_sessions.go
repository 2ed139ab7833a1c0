package api

import (
	"encoding/json"
	"time"
)

// Operations of the sessions service.
var (
	CreateSession = Op[CreateSessionRequest, Session]{
		Service: "sessions", Verb: "create", Permission: SessionCreate,
		Route: "POST /api/v1/sessions", Status: 201, Summary: "Create a session",
	}
	ListSessions = Op[ListSessionsRequest, Page[Session]]{
		Service: "sessions", Verb: "list", Permission: SessionRead,
		Route: "GET /api/v1/sessions", Summary: "List sessions, newest first",
	}
	GetSession = Op[SessionRef, Session]{
		Service: "sessions", Verb: "get", Permission: SessionRead,
		Route: "GET /api/v1/sessions/{id}", Summary: "Show a session",
	}
	SessionHistory = Op[HistoryRequest, Page[Change[Session]]]{
		Service: "sessions", Verb: "history", Permission: SessionRead,
		Route: "GET /api/v1/sessions/{id}/history", Summary: "List every change of a session, oldest first",
	}
	UpdateSession = Op[UpdateSessionRequest, Session]{
		Service: "sessions", Verb: "update", Permission: SessionWrite,
		Route: "PATCH /api/v1/sessions/{id}", Summary: "Change a session's title, labels or limits",
	}
	DeleteSession = Op[SessionRef, Session]{
		Service: "sessions", Verb: "delete", Permission: SessionDelete,
		Route: "DELETE /api/v1/sessions/{id}", Status: 202, Summary: "Stop a session for good",
		Repeatable: true,
	}
	PauseSession = Op[SessionRef, Session]{
		Service: "sessions", Verb: "pause", Permission: SessionWrite,
		Route: "POST /api/v1/sessions/{id}/pause", Status: 202, Summary: "Put a session aside, keeping its workspace and conversation",
		Repeatable: true,
	}
	ResumeSession = Op[SessionRef, Session]{
		Service: "sessions", Verb: "resume", Permission: SessionWrite,
		Route: "POST /api/v1/sessions/{id}/resume", Status: 202, Summary: "Bring a paused session back",
		Repeatable: true,
	}
	InterruptSession = Op[SessionRef, Accepted]{
		Service: "sessions", Verb: "interrupt", Permission: SessionWrite,
		Route: "POST /api/v1/sessions/{id}/interrupt", Status: 202, Summary: "Interrupt the agent's current turn",
	}
	SendMessage = Op[SendMessageRequest, Accepted]{
		Service: "sessions", Verb: "send", Permission: SessionWrite,
		Route: "POST /api/v1/sessions/{id}/messages", Status: 202, Summary: "Send a message to the agent",
	}
	ListMessages = Op[ListMessagesRequest, Page[Message]]{
		Service: "sessions", Verb: "messages", Permission: SessionRead,
		Route: "GET /api/v1/sessions/{id}/messages", Summary: "List the conversation, oldest first",
	}
	AnswerApproval = Op[AnswerApprovalRequest, Accepted]{
		Service: "sessions", Verb: "approve", Permission: SessionWrite,
		Route: "POST /api/v1/sessions/{id}/approvals/{approval_id}", Status: 202, Summary: "Answer an agent's question",
		Repeatable: true,
	}

	CreateProfile = Op[Profile, Profile]{
		Service: "sessions", Verb: "profile-create", Permission: ProfileWrite,
		Route: "POST /api/v1/profiles", Status: 201, Summary: "Create a profile",
	}
	ListProfiles = Op[List, Page[Profile]]{
		Service: "sessions", Verb: "profile-list", Permission: ProfileRead,
		Route: "GET /api/v1/profiles", Summary: "List the tenant's profiles",
	}
	GetProfile = Op[NameRef, Profile]{
		Service: "sessions", Verb: "profile-get", Permission: ProfileRead,
		Route: "GET /api/v1/profiles/{name}", Summary: "Show a profile",
	}
	UpdateProfile = Op[UpdateProfileRequest, Profile]{
		Service: "sessions", Verb: "profile-update", Permission: ProfileWrite,
		Route: "PUT /api/v1/profiles/{name}", Summary: "Replace a profile",
	}
	DeleteProfile = Op[NameRef, None]{
		Service: "sessions", Verb: "profile-delete", Permission: ProfileWrite,
		Route: "DELETE /api/v1/profiles/{name}", Status: 204, Summary: "Delete a profile; its sessions stay",
	}
)

// Operations that a session's own runner asks of the sessions service, on the
// session's own subject (RunnerPrefix).
var (
	RunnerReport = Op[RunnerReportRequest, RunnerReportResponse]{
		Service: "sessions", Verb: "report", Permission: SessionScoped,
		Summary: "Say what the session does and what it used",
	}
	RunnerInbox = Op[RunnerInboxRequest, RunnerInboxResponse]{
		Service: "sessions", Verb: "inbox", Permission: SessionScoped,
		Summary: "Read the user's side of the session's log after a sequence",
	}
	RunnerResume = Op[None, RunnerResumeResponse]{
		Service: "sessions", Verb: "position", Permission: SessionScoped,
		Summary: "Say where the runner before this one left off",
	}
	// RunnerBind is asked once by a pod that has no session's credential yet: the session of its subject is the pod's own id.
	RunnerBind = Op[RunnerBindRequest, RunnerBindResponse]{
		Service: "sessions", Verb: "bind", Permission: SessionScoped,
		Summary: "Ask which session's runner this pod is, and for its launch",
	}
)

// SessionRef names one session. IfMatch, when not zero, makes a write fail with
// conflict unless the session is at that revision (HTTP: If-Match, 412).
type SessionRef struct {
	ID      string `json:"id" in:"path"`
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
}

// NameRef names one profile of the caller's tenant.
type NameRef struct {
	Name    string `json:"name" in:"path"`
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
}

// CreateSessionRequest asks for a session. All fields are optional; an empty profile
// is "default".
type CreateSessionRequest struct {
	Profile     string            `json:"profile,omitempty"`
	Title       string            `json:"title,omitempty"`
	Prompt      string            `json:"prompt,omitempty"` // sent as the first message
	Repository  *Repository       `json:"repository,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	TTL         Duration          `json:"ttl,omitempty"`
	IdleTimeout Duration          `json:"idle_timeout,omitempty"`
	Agent       *Agent            `json:"agent,omitempty"`
	// Wait is "running" to be answered when the session runs or has failed, at the
	// latest after 120 s.
	Wait           string `json:"wait,omitempty" in:"query"`
	IdempotencyKey string `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

// ListSessionsRequest filters by state, owner, label ("k=v", repeated: all must match)
// and a text in the title or id.
type ListSessionsRequest struct {
	List
	State State    `json:"state,omitempty" in:"query"`
	Owner string   `json:"owner,omitempty" in:"query"`
	Label []string `json:"label,omitempty" in:"query"`
	Query string   `json:"q,omitempty" in:"query"`
}

// HistoryRequest pages through the changes of one session.
type HistoryRequest struct {
	ID string `json:"id" in:"path"`
	List
}

// UpdateSessionRequest changes what is not nil.
type UpdateSessionRequest struct {
	ID          string             `json:"id" in:"path"`
	IfMatch     uint64             `json:"if_match,omitempty" in:"header:If-Match"`
	Title       *string            `json:"title,omitempty"`
	Labels      *map[string]string `json:"labels,omitempty"`
	TTL         *Duration          `json:"ttl,omitempty"`
	IdleTimeout *Duration          `json:"idle_timeout,omitempty"`
}

// SendMessageRequest sends Content (at most 1 MiB with attachments) to the agent. An
// accepted message waits while the agent works.
type SendMessageRequest struct {
	ID             string       `json:"id" in:"path"`
	Content        string       `json:"content"`
	Attachments    []Attachment `json:"attachments,omitempty"`
	Renew          *Renew       `json:"renew,omitempty"`
	IdempotencyKey string       `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

// Renew has a session begin anew with a message: everything that its agent started is ended, workspace and temporary files are thrown away and cloned again, and the
// agent that gets the message knows nothing of what was said before. The home stays. It is conflict when the session's profile or its secrets are no longer
// what the session was made from.
type Renew struct {
	Ref string `json:"ref,omitempty"` // of the session's repository: branch, tag or commit; empty: the default branch
}

// Accepted says under which id and sequence a request entered the session's log.
type Accepted struct {
	ID  string `json:"id"`
	Seq uint64 `json:"seq"`
}

// ListMessagesRequest pages through a conversation.
type ListMessagesRequest struct {
	ID string `json:"id" in:"path"`
	List
}

// AnswerApprovalRequest answers the approval request ApprovalID with one of its options.
type AnswerApprovalRequest struct {
	ID         string `json:"id" in:"path"`
	ApprovalID string `json:"approval_id" in:"path"`
	Option     string `json:"option"`
}

// UpdateProfileRequest replaces the profile that Name in the path names.
type UpdateProfileRequest struct {
	Name    string  `json:"name" in:"path"`
	IfMatch uint64  `json:"if_match,omitempty" in:"header:If-Match"`
	Profile Profile `json:"profile" in:"body"` // the whole HTTP body
}

// RunnerReportRequest is sent on every change and as a heartbeat (every 10 s).
type RunnerReportRequest struct {
	Incarnation int      `json:"incarnation"` // which start of the session this runner is
	State       State    `json:"state"`       // starting, running or failed
	Activity    Activity `json:"activity,omitempty"`
	Background  int      `json:"background,omitempty"` // processes that the agent started and left running
	Reason      string   `json:"reason,omitempty"`
	Agent       Agent    `json:"agent,omitzero"` // Version, once known
	Usage       Usage    `json:"usage,omitzero"` // total of this incarnation
	Endpoint    string   `json:"endpoint,omitempty"`
	Address     string   `json:"address,omitempty"` // the session's own IP address, if its endpoint does not say it
	// ActiveAt is the Unix time in milliseconds of the last sign of work.
	ActiveAt int64 `json:"active_at,omitempty"`
	// Turns are those that ended since the last report that was answered, of messages that belong to a trace; at most MaxTurns.
	Turns []RunnerTurn `json:"turns,omitempty"`
	// Version grows with each change of what this incarnation reports; zero: a runner that does not count.
	Version uint64 `json:"version,omitempty"`
}

// MaxTurns bounds RunnerReportRequest.Turns.
const MaxTurns = 32

// RunnerTurn is a turn as a trace has it: a runner sends no spans itself, for its session reaches the bus only.
type RunnerTurn struct {
	TraceParent string    `json:"traceparent"` // of the message (Event.TraceParent)
	MessageID   string    `json:"message_id"`
	Began       time.Time `json:"began"`
	Ended       time.Time `json:"ended"`
}

// RunnerReportResponse tells a superseded runner to stop.
type RunnerReportResponse struct {
	Stop bool `json:"stop,omitempty"`
}

// RunnerInboxRequest asks for the user's events after sequence After, at most Limit
// (zero: 256).
type RunnerInboxRequest struct {
	After uint64 `json:"after"`
	Limit int    `json:"limit,omitempty"`
}

// RunnerInboxResponse holds events in order; More says that others follow.
type RunnerInboxResponse struct {
	Events []Event `json:"events"`
	More   bool    `json:"more,omitempty"`
}

// RunnerResumeResponse is where the session's previous runner left off, read from the log.
type RunnerResumeResponse struct {
	// LastSeq is the sequence of the agent's last log entry; 0: none. It is the expected
	// last sequence of the next runner's first append, which fences the previous runner.
	LastSeq uint64 `json:"last_seq"`
	// LastWriter is that entry's Yard-Writer header: which of an appender's commits it was.
	LastWriter string `json:"last_writer,omitempty"`
	// DoneSeq is the sequence of the last user event whose turn ended.
	DoneSeq uint64 `json:"done_seq"`
	// InterruptSeq is the sequence of the last interrupt that took effect.
	InterruptSeq uint64 `json:"interrupt_seq,omitempty"`
	// AgentSession is the agent's own name for the conversation, to load it again.
	AgentSession string `json:"agent_session,omitempty"`
	// Conversation is the recent conversation, oldest first, for agents that cannot load one.
	Conversation []Message `json:"conversation,omitempty"`
}

// RunnerBindRequest is what a pod knows of itself.
type RunnerBindRequest struct {
	Pod string `json:"pod"` // its name
	UID string `json:"uid"`
	// Key, if it is there, is a key of the pod's alone to which the answer is sealed (launch.Opener). A runner of an earlier release has none.
	Key []byte `json:"key,omitempty"`
}

// RunnerBindResponse is the launch of the pod's session (services/sessions/launch), with a credential of its own: Sealed if the request had a key.
type RunnerBindResponse struct {
	Launch json.RawMessage `json:"launch,omitempty"`
	Sealed []byte          `json:"sealed,omitempty"`
}

// PodTenant stands for a tenant in the subjects of pods that have no session yet.
const PodTenant = "pods"

// RunnerMark is the Raw of a runner's status events: what the next runner must know. The
// newest one in the agent's side of the log answers the fields of RunnerResumeResponse of the
// same names.
type RunnerMark struct {
	DoneSeq      uint64 `json:"done_seq,omitempty"`
	InterruptSeq uint64 `json:"interrupt_seq,omitempty"`
	AgentSession string `json:"agent_session,omitempty"`
}
