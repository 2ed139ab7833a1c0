package api

import (
	"encoding/json"
	"time"
)

// EventType names what happened. Clients ignore the types they do not know.
type EventType string

// The events of a session, with the fields that each one uses.
const (
	EventUserMessage       EventType = "user_message"        // MessageID Content Attachments Actor Renew
	EventAgentMessage      EventType = "agent_message"       // MessageID Content ReplyTo Final
	EventAgentMessageChunk EventType = "agent_message_chunk" // MessageID Delta ReplyTo
	EventAgentThoughtChunk EventType = "agent_thought_chunk" // MessageID Delta ReplyTo
	EventToolCall          EventType = "tool_call"           // ToolCallID Title Kind Status Content Raw
	EventApprovalRequest   EventType = "approval_request"    // ApprovalID Title Options ToolCallID
	EventApprovalAnswer    EventType = "approval_answer"     // ApprovalID Option Actor
	EventInterrupt         EventType = "interrupt"           // Actor
	EventPlan              EventType = "plan"                // Raw
	EventStatus            EventType = "status"              // State Activity Reason ReplyTo
	EventUsage             EventType = "usage"               // Usage: what this turn added
	EventTerminal          EventType = "terminal"            // Data
	EventError             EventType = "error"               // Code Detail ReplyTo
	EventGap               EventType = "gap"                 // From To: of the sequences between, not all are kept; To before From: the log was taken back to To. Seq: where to go on
)

// Event is one entry of a session's Log. It is flat: Type says which fields are set.
type Event struct {
	Seq     uint64    `json:"seq,omitempty"` // grows along the log; SSE id and resume token, opaque otherwise
	Session string    `json:"session,omitempty"`
	Type    EventType `json:"type"`
	At      time.Time `json:"at"`
	Actor   string    `json:"actor,omitempty"` // the principal behind a user's event
	Renew   *Renew    `json:"renew,omitempty"`

	MessageID   string           `json:"message_id,omitempty"`
	ReplyTo     string           `json:"reply_to,omitempty"` // the user message whose turn this belongs to
	Content     string           `json:"content,omitempty"`
	Delta       string           `json:"delta,omitempty"`
	Attachments []Attachment     `json:"attachments,omitempty"`
	Final       bool             `json:"final,omitempty"` // the turn's last agent_message
	ToolCallID  string           `json:"tool_call_id,omitempty"`
	Title       string           `json:"title,omitempty"`
	Kind        string           `json:"kind,omitempty"`   // of tool: read, edit, execute, search, fetch, think, other
	Status      string           `json:"status,omitempty"` // of tool: pending, in_progress, completed, failed
	ApprovalID  string           `json:"approval_id,omitempty"`
	Options     []ApprovalOption `json:"options,omitempty"`
	Option      string           `json:"option,omitempty"`
	State       State            `json:"state,omitempty"`
	Activity    Activity         `json:"activity,omitempty"`
	Reason      string           `json:"reason,omitempty"`
	Usage       *Usage           `json:"usage,omitempty"`
	Data        []byte           `json:"data,omitempty"` // base64 in JSON
	Code        Code             `json:"code,omitempty"`
	Detail      string           `json:"detail,omitempty"`
	From        uint64           `json:"from,omitempty"`
	To          uint64           `json:"to,omitempty"`
	Raw         json.RawMessage  `json:"raw,omitempty"` // the agent's own words, where ours do not carry them
	// TraceParent is the trace (W3C trace context) of the request that a user's message came with, if it is being recorded.
	TraceParent string `json:"traceparent,omitempty"`
}

// Attachment is a file that a user sends with a message.
type Attachment struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"` // media type
	Data []byte `json:"data"`           // base64 in JSON
}

// ApprovalOption is one answer that an agent offers to its own question.
type ApprovalOption struct {
	Option string `json:"option"`
	Label  string `json:"label"`
	Kind   string `json:"kind,omitempty"` // allow_once, allow_always, reject_once, reject_always
}
