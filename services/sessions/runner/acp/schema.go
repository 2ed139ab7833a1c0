package acp

import "encoding/json"

// ProtocolVersion is the version of ACP that this package speaks.
const ProtocolVersion = 1

// MessageIDKey is the key in the _meta of session/prompt that holds the user message's id.
const MessageIDKey = "agentyard.dev/message_id"

// Methods of the agent, and of the client.
const (
	MethodInitialize    = "initialize"
	MethodAuthenticate  = "authenticate"
	MethodNewSession    = "session/new"
	MethodLoadSession   = "session/load"
	MethodResumeSession = "session/resume"
	MethodPrompt        = "session/prompt"
	MethodCancel        = "session/cancel"

	MethodUpdate            = "session/update"
	MethodRequestPermission = "session/request_permission"
	MethodReadFile          = "fs/read_text_file"
	MethodWriteFile         = "fs/write_text_file"
)

// Implementation names a program.
type Implementation struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// InitializeRequest opens a connection.
type InitializeRequest struct {
	ProtocolVersion    int                `json:"protocolVersion"`
	ClientCapabilities ClientCapabilities `json:"clientCapabilities"`
	ClientInfo         *Implementation    `json:"clientInfo,omitempty"`
}

// ClientCapabilities is what the agent may ask of the client. The runner offers nothing
// but questions: an agent works in its own sandbox, not through ours.
type ClientCapabilities struct {
	FS       FileCapabilities `json:"fs"`
	Terminal bool             `json:"terminal"`
}

// FileCapabilities is the fs part of ClientCapabilities.
type FileCapabilities struct {
	ReadTextFile  bool `json:"readTextFile"`
	WriteTextFile bool `json:"writeTextFile"`
}

// InitializeResponse is the agent's answer.
type InitializeResponse struct {
	ProtocolVersion   int               `json:"protocolVersion"`
	AgentCapabilities AgentCapabilities `json:"agentCapabilities"`
	AgentInfo         *Implementation   `json:"agentInfo,omitempty"`
	AuthMethods       []AuthMethod      `json:"authMethods"`
}

// AgentCapabilities is what the client may ask of the agent.
type AgentCapabilities struct {
	LoadSession        bool               `json:"loadSession"`
	PromptCapabilities PromptCapabilities `json:"promptCapabilities"`
	MCP                MCPCapabilities    `json:"mcpCapabilities"`
	Session            struct {
		Resume json.RawMessage `json:"resume,omitempty"` // an object when supported
	} `json:"sessionCapabilities"`
}

// PromptCapabilities says which content a prompt may hold beside text.
type PromptCapabilities struct {
	Image           bool `json:"image"`
	EmbeddedContext bool `json:"embeddedContext"`
}

// AuthMethod is one way to sign in.
type AuthMethod struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// SessionRequest opens or loads a conversation.
type SessionRequest struct {
	SessionID  string `json:"sessionId,omitempty"`
	CWD        string `json:"cwd"`
	MCPServers []any  `json:"mcpServers"` // required, may be empty
}

// SessionResponse names a new conversation.
type SessionResponse struct {
	SessionID string `json:"sessionId,omitempty"`
}

// PromptRequest runs one turn.
type PromptRequest struct {
	Meta      map[string]any `json:"_meta,omitempty"`
	SessionID string         `json:"sessionId"`
	Prompt    []Content      `json:"prompt"`
}

// PromptResponse ends it.
type PromptResponse struct {
	StopReason string `json:"stopReason"` // end_turn, max_tokens, max_turn_requests, refusal, cancelled
	Usage      *Usage `json:"usage,omitempty"`
}

// Usage counts tokens of a turn.
type Usage struct {
	InputTokens      int64 `json:"inputTokens"`
	OutputTokens     int64 `json:"outputTokens"`
	TotalTokens      int64 `json:"totalTokens"`
	CachedReadTokens int64 `json:"cachedReadTokens,omitempty"`
}

// Content is one block of text, media or a resource.
type Content struct {
	Type     string    `json:"type"`
	Text     string    `json:"text,omitempty"`
	Data     []byte    `json:"data,omitempty"`
	MimeType string    `json:"mimeType,omitempty"`
	URI      string    `json:"uri,omitempty"`
	Name     string    `json:"name,omitempty"`
	Resource *Resource `json:"resource,omitempty"`
}

// Resource is an embedded file.
type Resource struct {
	URI      string `json:"uri"`
	MimeType string `json:"mimeType,omitempty"`
	Text     string `json:"text,omitempty"`
	Blob     []byte `json:"blob,omitempty"`
}

// UpdateNotification reports progress of a turn.
type UpdateNotification struct {
	SessionID string `json:"sessionId"`
	Update    Update `json:"update"`
}

// Update is the union of all kinds of progress; Kind says which fields are set.
type Update struct {
	Kind string `json:"sessionUpdate"`
	// Content is a Content in the chunk kinds and a list of ToolContent in the tool kinds.
	Content    json.RawMessage `json:"content,omitempty"`
	ToolCallID string          `json:"toolCallId,omitempty"`
	Title      string          `json:"title,omitempty"`
	ToolKind   string          `json:"kind,omitempty"`
	Status     string          `json:"status,omitempty"`
	RawInput   json.RawMessage `json:"rawInput,omitempty"`
	RawOutput  json.RawMessage `json:"rawOutput,omitempty"`
	Locations  json.RawMessage `json:"locations,omitempty"`
	Entries    json.RawMessage `json:"entries,omitempty"` // of a plan
	Cost       *Cost           `json:"cost,omitempty"`    // of usage_update: the session's total
}

// Cost is money.
type Cost struct {
	Amount   float64 `json:"amount"`
	Currency string  `json:"currency"`
}

// The kinds of Update that are used here.
const (
	UpdateMessageChunk = "agent_message_chunk"
	UpdateThoughtChunk = "agent_thought_chunk"
	UpdateUserChunk    = "user_message_chunk"
	UpdateToolCall     = "tool_call"
	UpdateToolUpdate   = "tool_call_update"
	UpdatePlan         = "plan"
	UpdateUsage        = "usage_update"
)

// ToolContent is one piece of what a tool call produced.
type ToolContent struct {
	Type    string   `json:"type"` // content, diff, terminal
	Content *Content `json:"content,omitempty"`
	Path    string   `json:"path,omitempty"` // of a diff
}

// PermissionRequest asks a person.
type PermissionRequest struct {
	SessionID string             `json:"sessionId"`
	ToolCall  Update             `json:"toolCall"`
	Options   []PermissionOption `json:"options"`
}

// PermissionOption is one possible answer.
type PermissionOption struct {
	OptionID string `json:"optionId"`
	Name     string `json:"name"`
	Kind     string `json:"kind"`
}

// PermissionResponse is the person's answer.
type PermissionResponse struct {
	Outcome PermissionOutcome `json:"outcome"`
}

// PermissionOutcome is "selected" with an option, or "cancelled".
type PermissionOutcome struct {
	Outcome  string `json:"outcome"`
	OptionID string `json:"optionId,omitempty"`
}
