package api

import (
	"encoding/json"
	"time"
)

// State is where a session is in its life. services/sessions holds the table of
// which may follow which.
type State string

// The states of a session.
const (
	StatePending    State = "pending"    // accepted, nothing started yet
	StateStarting   State = "starting"   // the runtime is making it
	StateRunning    State = "running"    // the agent takes messages
	StatePausing    State = "pausing"    // being put aside
	StatePaused     State = "paused"     // processes gone, workspace and conversation kept
	StateResuming   State = "resuming"   // being brought back
	StateStopping   State = "stopping"   // 30 s for a graceful end
	StateTerminated State = "terminated" // ended as asked; final
	StateFailed     State = "failed"     // ended otherwise, Reason says why; final
)

// Final reports whether nothing follows s.
func (s State) Final() bool { return s == StateTerminated || s == StateFailed }

// Activity is what a running session's agent does.
type Activity string

// The activities of a running session.
const (
	ActivityIdle     Activity = "idle"
	ActivityWorking  Activity = "working"
	ActivityApproval Activity = "waiting_for_approval"
)

// IdleAction is what becomes of an idle session.
type IdleAction string

// The actions on an idle session.
const (
	IdlePause IdleAction = "pause" // put aside: a message brings it back
	IdleStop  IdleAction = "stop"  // ended for good
)

// Session is one isolated agent with its workspace and conversation.
type Session struct {
	ID           string            `json:"id"`
	Tenant       string            `json:"tenant"`
	Owner        string            `json:"owner"` // a Principal's ID
	Title        string            `json:"title"`
	Profile      string            `json:"profile"`
	Agent        Agent             `json:"agent"`
	State        State             `json:"state"`
	Activity     Activity          `json:"activity,omitempty"`
	Background   int               `json:"background,omitempty"` // processes that the agent left running; a session with some is not idle
	Reason       string            `json:"reason,omitempty"`     // why it failed, stopped or waits; for a person
	Runtime      string            `json:"runtime"`              // "process" or "kube"
	Isolation    []string          `json:"isolation,omitempty"`
	Node         string            `json:"node,omitempty"`
	Repository   *Repository       `json:"repository,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	StartedAt    *time.Time        `json:"started_at,omitempty"`
	EndedAt      *time.Time        `json:"ended_at,omitempty"`
	LastActiveAt time.Time         `json:"last_active_at"`
	TTL          Duration          `json:"ttl,omitempty"`          // zero: the profile's
	IdleTimeout  Duration          `json:"idle_timeout,omitempty"` // zero: the profile's
	Usage        Usage             `json:"usage"`
	Rev          uint64            `json:"rev"` // of the ledger entry; 0 inside the ledger itself
}

// Revision implements Revisioned.
func (s Session) Revision() uint64 { return s.Rev }

// Agent says which agent a session runs.
type Agent struct {
	Kind    string   `json:"kind,omitempty"` // "demo", "claude", "codex", …; "acp" and "custom" run Command
	Version string   `json:"version,omitempty"`
	Command []string `json:"command,omitempty"` // replaces the kind's own command
	Args    []string `json:"args,omitempty"`    // appended to it
}

// LacksCommand reports whether there is nothing to run: a's kind is one without a command of its own, and a has none either.
func (a Agent) LacksCommand() bool {
	return (a.Kind == "acp" || a.Kind == "custom") && len(a.Command)+len(a.Args) == 0
}

// Repository is the Git repository that a session's workspace starts from.
type Repository struct {
	URL   string `json:"url"`             // https, ssh or git; never with a password
	Ref   string `json:"ref,omitempty"`   // branch, tag or commit; empty: the default branch
	Depth int    `json:"depth,omitempty"` // zero: 1; negative: all history
}

// Usage is what a session has used since it was created.
type Usage struct {
	InputTokens    int64    `json:"input_tokens"`
	OutputTokens   int64    `json:"output_tokens"`
	CostUSD        *float64 `json:"cost_usd,omitempty"`
	CPUSeconds     *float64 `json:"cpu_seconds,omitempty"`
	NetworkRxBytes *int64   `json:"network_rx_bytes,omitempty"`
	NetworkTxBytes *int64   `json:"network_tx_bytes,omitempty"`
}

// Plus returns the sum of u and v. What neither of them says, it does not say either.
func (u Usage) Plus(v Usage) Usage {
	return Usage{
		InputTokens: u.InputTokens + v.InputTokens, OutputTokens: u.OutputTokens + v.OutputTokens, CostUSD: sum(u.CostUSD, v.CostUSD),
		CPUSeconds: sum(u.CPUSeconds, v.CPUSeconds), NetworkRxBytes: sum(u.NetworkRxBytes, v.NetworkRxBytes), NetworkTxBytes: sum(u.NetworkTxBytes, v.NetworkTxBytes),
	}
}

func sum[T int64 | float64](a, b *T) *T {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	both := *a + *b
	return &both
}

// Message is one entry of a session's conversation.
type Message struct {
	ID      string    `json:"id"`
	Seq     uint64    `json:"seq"`
	Role    string    `json:"role"` // "user" or "agent"
	Content string    `json:"content"`
	At      time.Time `json:"at"`
	ReplyTo string    `json:"reply_to,omitempty"` // of an agent's message: the user message it answers
}

// Profile is what a session of this kind is. The zero value of each field means the
// service's default.
type Profile struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Agent       Agent             `json:"agent"`
	Env         map[string]string `json:"env,omitempty"`
	Resources   Resources         `json:"resources,omitzero"`
	TTL         Duration          `json:"ttl,omitempty"`
	IdleTimeout Duration          `json:"idle_timeout,omitempty"`
	// IdleAction is what becomes of a session that was idle for so long; empty: it is paused.
	IdleAction IdleAction `json:"idle_action,omitempty"`
	// Secrets, MCPServers and Credentials are what its sessions' agents are given, of which nothing is in the session itself.
	Secrets     []SecretRef     `json:"secrets,omitempty"`
	MCPServers  []MCPServer     `json:"mcp_servers,omitempty"`
	Credentials *CredentialSync `json:"credentials,omitempty"` // nil: nothing is kept
	// Isolation lists what a runtime must provide: "user", "mount", "pid", "cgroup".
	// A runtime that cannot refuses the session.
	Isolation []string `json:"isolation,omitempty"`
	// Roles are who may use the profile; empty: everyone who may create sessions.
	Roles []Role `json:"roles,omitempty"`
	// Image is the container image that its agents live in; empty: the yard's own. Pod shapes the pods. Only a
	// runtime of pods takes either.
	Image string `json:"image,omitempty"`
	Pod   Pod    `json:"pod,omitzero"`
	Pool  *Pool  `json:"pool,omitempty"` // nil: every session starts cold
	Rev   uint64 `json:"rev"`
}

// Revision implements Revisioned.
func (p Profile) Revision() uint64 { return p.Rev }

// Resources bounds what a session's processes may use together.
type Resources struct {
	CPUs        float64 `json:"cpus,omitempty"`
	MemoryBytes int64   `json:"memory_bytes,omitempty"`
	Processes   int     `json:"processes,omitempty"`
}

// Pod shapes the pods of a profile's sessions. What makes a pod safe, and the labels by which the yard finds it, cannot be set.
type Pod struct {
	PullSecrets  []string          `json:"pull_secrets,omitempty"`  // names of the secrets by which nodes pull Image
	RuntimeClass string            `json:"runtime_class,omitempty"` // such as "gvisor" or "kata"
	NodeSelector map[string]string `json:"node_selector,omitempty"`
	Tolerations  []Toleration      `json:"tolerations,omitempty"`
	// Devices are extended resources such as {"nvidia.com/gpu": 1}.
	Devices map[string]int64 `json:"devices,omitempty"`
	// Requests are what a node must have left: Profile.Resources are the limits. Processes means nothing here.
	Requests Resources `json:"requests,omitzero"`
	// Volume holds workspace and home, and outlives a pod; nil: they are lost with the pod.
	Volume *Volume `json:"volume,omitempty"`
	// WritableRoot lets the agent write everywhere in its container's file system, for images that want it.
	WritableRoot bool `json:"writable_root,omitempty"`
	// Config are files, by name, that the agent finds in /etc/agentyard. Who may read the cluster's objects reads them too: they are no secrets.
	Config map[string]string `json:"config,omitempty"`
	// Collector puts an OpenTelemetry collector beside the agent, which reads its metrics (Prometheus' format, port 9464) and sends them
	// to where the yard's operator wants them.
	Collector bool `json:"collector,omitempty"`
	// Egress is what the pods may reach beside the bus and the name service. Some networks no profile opens.
	Egress []EgressRule `json:"egress,omitempty"`
	// Service gives each session a name in the cluster, <session>.<namespace>.svc, and lets others reach it.
	Service *PodService `json:"service,omitempty"`
	// Labels and Annotations are put on the pod under the prefix "user.agentyard.dev/".
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Toleration lets pods onto nodes with a matching taint, as Kubernetes defines it.
type Toleration struct {
	Key      string `json:"key,omitempty"`      // empty, with Exists: every taint
	Operator string `json:"operator,omitempty"` // "Exists", or "Equal" as when empty
	Value    string `json:"value,omitempty"`
	Effect   string `json:"effect,omitempty"` // "NoSchedule", "PreferNoSchedule", "NoExecute"; empty: all
}

// EgressRule opens a network to a profile's pods.
type EgressRule struct {
	CIDR   string   `json:"cidr"`             // such as "192.0.2.0/24"
	Except []string `json:"except,omitempty"` // networks in it that stay closed
	Ports  []int    `json:"ports,omitempty"`  // of TCP; empty: everything
}

// PodService opens ports of a session to pods of other namespaces.
type PodService struct {
	Ports      []int    `json:"ports"`
	Namespaces []string `json:"namespaces"` // whose pods may connect
}

// Volume is a session's own storage.
type Volume struct {
	Bytes        int64  `json:"bytes"`
	StorageClass string `json:"storage_class,omitempty"` // empty: the cluster's default
	// Keep leaves the volume in the cluster when the session is deleted; somebody has to remove it.
	Keep bool `json:"keep,omitempty"`
}

// SessionRecord is a session as the SESSIONS ledger keeps it: the public session and
// what only the gateway and the sessions service need. It never leaves them.
type SessionRecord struct {
	Session
	// Incarnation counts the starts of the session's runner; it is the fencing token
	// of its credentials and of its reports.
	Incarnation int `json:"incarnation"`
	// Endpoint is where the runner serves HTTP: "unix:/path" or "http://host:port";
	// EndpointKey is what it demands in the header RunnerKeyHeader.
	Endpoint    string `json:"endpoint,omitempty"`
	EndpointKey string `json:"endpoint_key,omitempty"`
	// Address is the session's own IP address, if its endpoint does not say it.
	Address string            `json:"address,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	// BaseUsage is the usage of the earlier incarnations.
	BaseUsage Usage `json:"base_usage,omitzero"`
	// Restarts counts starts after a runner's death since the session last ran for a while.
	Restarts int `json:"restarts,omitempty"`
	// StateSince is when State last changed.
	StateSince time.Time `json:"state_since,omitzero"`
	// Demand and Resources are the profile's at the time of creation: what a runtime must isolate, and bounds.
	Demand    []string  `json:"demand,omitempty"`
	Resources Resources `json:"resources,omitzero"`
	// Image and Pod are the profile's likewise.
	Image string `json:"image,omitempty"`
	Pod   Pod    `json:"pod,omitzero"`
	// BoundTo is the UID of the pod that was told this incarnation's launch; no other is told, and that one not twice.
	BoundTo string `json:"bound_to,omitempty"`
	// Secrets, MCPServers and CredentialFiles are the profile's likewise: references, never values.
	Secrets         []SecretRef `json:"secrets,omitempty"`
	MCPServers      []MCPServer `json:"mcp_servers,omitempty"`
	CredentialFiles []string    `json:"credential_files,omitempty"`
	// Furnished tells the profile and the secrets that the session was made from, from later ones.
	Furnished string `json:"furnished,omitempty"`
	// IdleAction is the profile's at the time of creation. IdlePaused says that the clock put the session aside, and no person.
	IdleAction IdleAction `json:"idle_action,omitempty"`
	IdlePaused bool       `json:"idle_paused,omitempty"`
	// Report is the version of the newest runner's report that is in here.
	Report uint64 `json:"report,omitempty"`
	// RequestHash tells a repeated create request from another one under the same idempotency key.
	RequestHash string `json:"request_hash,omitempty"`
	// Rest holds the fields that this release does not know. They are written back, so that an older replica beside a
	// newer one loses nothing of what that one wrote.
	Rest map[string]json.RawMessage `json:"-"`
}

// RunnerKeyHeader carries SessionRecord.EndpointKey on each request to a runner.
const RunnerKeyHeader = "X-Agentyard-Runner-Key"
