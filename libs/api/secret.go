package api

import "time"

// Scope says who has something: one user or the whole tenant.
type Scope string

// The scopes.
const (
	ScopeUser   Scope = "user"
	ScopeTenant Scope = "tenant"
)

// Secret is a value that nobody reads again: profiles name it, and sessions are given it. The value itself is in no answer.
type Secret struct {
	Name      string    `json:"name"` // letters, digits, '-' and '_'
	Scope     Scope     `json:"scope"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	UpdatedBy string    `json:"updated_by"` // a Principal's ID
	Rev       uint64    `json:"rev"`
}

// Revision implements Revisioned.
func (s Secret) Revision() uint64 { return s.Rev }

// SecretRef gives a profile's sessions a secret: as a variable of the agent's environment, as a file in its home, or both.
type SecretRef struct {
	Name     string `json:"name"`
	Scope    Scope  `json:"scope,omitempty"` // empty: the session owner's, else the tenant's
	Env      string `json:"env,omitempty"`
	File     string `json:"file,omitempty"`     // below the home, slash-separated; mode 0600
	Optional bool   `json:"optional,omitempty"` // a session without it starts all the same
	// Hosts are where a secret may be presented that is for the session's repository (Env is GIT_TOKEN): "git.example.org" for https,
	// "git.example.org:8443" for another port, "http://…" for a host without TLS. No other host gets it. Empty: a secret of the session's owner goes where the
	// owner's session is cloned from, the tenant's to github.com only.
	Hosts []string `json:"hosts,omitempty"`
}

// MCPServer is a server of the Model Context Protocol that agents of a profile use. In values of Env and Headers
// "${secret:NAME}" stands for a secret of the session's owner or tenant.
type MCPServer struct {
	Name    string            `json:"name"`
	Type    string            `json:"type,omitempty"`    // "stdio", "http" or "sse"; empty: stdio
	Command string            `json:"command,omitempty"` // of stdio
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	URL     string            `json:"url,omitempty"` // of http and sse
	Headers map[string]string `json:"headers,omitempty"`
}

// CredentialSync keeps files in which an agent refreshes its own sign-in: what it writes goes back to the session owner's stored
// credentials and is there again in the owner's next session that asks for the same file.
type CredentialSync struct {
	Files []string `json:"files,omitempty"` // below the home, slash-separated; empty: those of the agent's kind
}

// Credential is one stored file of credentials, without its content.
type Credential struct {
	File      string     `json:"file"`
	Version   uint64     `json:"version"`           // grows with each refresh that was kept
	Stamp     *time.Time `json:"stamp,omitempty"`   // what the file itself says of its age: when it was refreshed, or expires
	Session   string     `json:"session,omitempty"` // whose agent refreshed it last; empty: its owner stored it
	UpdatedAt time.Time  `json:"updated_at"`
}

// Operations on secrets and stored credentials.
var (
	PutSecret = Op[PutSecretRequest, Secret]{
		Service: "sessions", Verb: "secret-put", Permission: SecretWrite,
		Route: "PUT /api/v1/secrets/{name}", Summary: "Store a secret, which cannot be read again",
	}
	ListSecrets = Op[ListSecretsRequest, Page[Secret]]{
		Service: "sessions", Verb: "secret-list", Permission: SecretRead,
		Route: "GET /api/v1/secrets", Summary: "List the names of secrets, newest first",
	}
	DeleteSecret = Op[SecretRequest, None]{
		Service: "sessions", Verb: "secret-delete", Permission: SecretWrite,
		Route: "DELETE /api/v1/secrets/{name}", Status: 204, Summary: "Delete a secret; running sessions keep it",
	}

	PutCredential = Op[PutCredentialRequest, Credential]{
		Service: "sessions", Verb: "credential-put", Permission: SecretWrite,
		Route: "PUT /api/v1/credentials", Summary: "Store a file of credentials for your own sessions",
	}
	ListCredentials = Op[List, Page[Credential]]{
		Service: "sessions", Verb: "credential-list", Permission: SecretRead,
		Route: "GET /api/v1/credentials", Summary: "List your stored files of credentials",
	}
	DeleteCredential = Op[CredentialRequest, None]{
		Service: "sessions", Verb: "credential-delete", Permission: SecretWrite,
		Route: "DELETE /api/v1/credentials", Status: 204, Summary: "Forget a stored file of credentials",
	}
	// RunnerCredential brings a file that the session's agent has refreshed.
	RunnerCredential = Op[RunnerCredentialRequest, RunnerCredentialResponse]{
		Service: "sessions", Verb: "credential", Permission: SessionScoped,
		Summary: "Keep a file of credentials that the agent refreshed",
	}
)

// PutSecretRequest stores a value of at most 64 KiB.
type PutSecretRequest struct {
	Name    string `json:"name" in:"path"`
	Scope   Scope  `json:"scope,omitempty" in:"query"` // empty: user
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
	Value   string `json:"value"`
}

// ListSecretsRequest lists one scope's secrets.
type ListSecretsRequest struct {
	Scope Scope `json:"scope,omitempty" in:"query"` // empty: user
	List
}

// SecretRequest names one secret.
type SecretRequest struct {
	Name    string `json:"name" in:"path"`
	Scope   Scope  `json:"scope,omitempty" in:"query"` // empty: user
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
}

// PutCredentialRequest stores a file of at most 256 KiB.
type PutCredentialRequest struct {
	File string `json:"file"`
	Data []byte `json:"data"` // base64 in JSON
}

// CredentialRequest names one stored file.
type CredentialRequest struct {
	File string `json:"file" in:"query"`
}

// RunnerCredentialRequest is a file as it now is. Base is the version that it was made from; 0: none.
type RunnerCredentialRequest struct {
	File string `json:"file"`
	Base uint64 `json:"base,omitempty"`
	Data []byte `json:"data"`
}

// RunnerCredentialResponse says which version is kept. Data is its content where that is not what was sent, for another
// session's refresh was newer.
type RunnerCredentialResponse struct {
	Version uint64 `json:"version"`
	Data    []byte `json:"data,omitempty"`
}
