// Package launch is what a runtime tells a session's runner: one JSON document on the
// runner's standard input. Nothing of it is in the environment, in the arguments or on
// disk, so the agent cannot read it there. The runner closes its standard input when its
// agent is up, which is news to whoever started it.
package launch

import (
	"os"

	"agentyard.dev/libs/api"
)

// Launch describes one incarnation of one session.
type Launch struct {
	Tenant      string `json:"tenant"`
	Session     string `json:"session"`
	Incarnation int    `json:"incarnation"`

	BusURL      string `json:"bus_url"`
	Credentials []byte `json:"credentials"` // of this session only (bus.SessionIssuer)

	Agent        api.Agent         `json:"agent"`         // kind, command and args as resolved from profile and request
	AgentSession string            `json:"agent_session"` // unused by the runtime; see RunnerResumeResponse
	Env          map[string]string `json:"env,omitempty"` // added to the agent's environment, which is built from nothing
	// Files, MCPServers and CredentialFiles are what the session's profile gives its agent; the secrets in them are nowhere else.
	Files            []File           `json:"files,omitempty"`
	MCPServers       []api.MCPServer  `json:"mcp_servers,omitempty"`
	CredentialFiles  []CredentialFile `json:"credential_files,omitempty"`
	Repository       *api.Repository  `json:"repository,omitempty"`
	RepositoryPolicy RepositoryPolicy `json:"repository_policy"`
	// RepositoryNote says why a sign-in that its profile has is not given for the repository; for the session's owner.
	RepositoryNote string `json:"repository_note,omitempty"`

	// Dir holds workspace/, home/ and tmp/, which the runner makes.
	Dir string `json:"dir"`
	// Listen is the runner's HTTP endpoint, "unix:/path" or "tcp:host:port"; EndpointKey is what it demands.
	Listen      string `json:"listen"`
	EndpointKey string `json:"endpoint_key"`
	// Endpoint is how others reach Listen; empty: as it listens.
	Endpoint string `json:"endpoint,omitempty"`

	Pod Pod `json:"pod,omitzero"`

	Sandbox Sandbox `json:"sandbox"`

	// Spare marks a document that is no launch yet. It says that the runner was started before there was a session for it,
	// and of the Sandbox what its session's will have: Isolation, perhaps Cgroup and Network. The launch follows, or the end of the input.
	Spare bool `json:"spare,omitempty"`
}

// PodPort is where the runner in a pod listens. Who reaches it needs the endpoint's key.
const PodPort = 9000

// RepositoryPolicy bounds cloning.
type RepositoryPolicy struct {
	// AllowPrivate permits loopback, private and link-local addresses and file:// URLs.
	AllowPrivate bool         `json:"allow_private,omitempty"`
	Timeout      api.Duration `json:"timeout,omitempty"`   // zero: 5 m
	MaxBytes     int64        `json:"max_bytes,omitempty"` // zero: 4 GiB
	Submodules   bool         `json:"submodules,omitempty"`
}

// Sandbox says how the agent's processes are isolated from the runner and the machine.
type Sandbox struct {
	// Isolation lists what to apply: "user", "mount", "pid", "cgroup", "uid".
	Isolation []string `json:"isolation,omitempty"`
	// UID and GID are the agent's identity with "uid".
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
	// Hide lists directories and files that the agent must not see: the data directory, the socket directory.
	Hide []string `json:"hide,omitempty"`
	// Show lists directories and files inside hidden ones that the agent may read: its tools.
	Show []string `json:"show,omitempty"`
	// Dir is the session's directory (Launch.Dir): its workspace/, home/ and tmp/ are what the agent may
	// write, tmp/ as its /tmp. Nothing else below Dir is visible.
	Dir string `json:"dir,omitempty"`
	// Cgroup is the session's cgroup: absolute directories, joined with ':' (one per v1 hierarchy).
	Cgroup    string        `json:"cgroup,omitempty"`
	Resources api.Resources `json:"resources,omitzero"`
	// Network is the session's own; zero: it has the machine's.
	Network Network `json:"network,omitzero"`
	// Namespace is the Network when the runner has made it.
	Namespace *os.File `json:"-"`
}

// Network is a network namespace that the machine routes for.
type Network struct {
	Address string `json:"address"` // the session's, IPv4
	Gateway string `json:"gateway"` // the machine's there
	// Address6 and Gateway6 are the same of IPv6; empty: the session has none.
	Address6 string `json:"address6,omitempty"`
	Gateway6 string `json:"gateway6,omitempty"`
	// Hold is how long the session's packets wait for the machine's node agent to have its traffic plan in force, from when the plan can be
	// made; then they pass without. Zero: they do not wait.
	Hold api.Duration `json:"hold,omitempty"`
	// Loopback lists addresses ("127.0.0.1:11434") on the machine's loopback that the session reaches at the same address.
	Loopback []string `json:"loopback,omitempty"`
}
