package api

// Operations of the auth service.
var (
	// Exchange turns a long-lived credential into an access token. The gateway asks it
	// for each new credential it meets; clients may too (POST /api/v1/tokens).
	Exchange = Op[ExchangeRequest, TokenResponse]{
		Service: "auth", Verb: "exchange", Permission: Public,
		Route: "POST /api/v1/tokens", Summary: "Exchange an API key for a short-lived access token",
		Repeatable: true,
	}
	JWKS = Op[None, JWKSResponse]{
		Service: "auth", Verb: "jwks", Permission: Public,
		Route: "GET /.well-known/jwks.json", Summary: "The public keys that verify access tokens (RFC 7517)",
	}
	GetMe = Op[None, User]{
		Service: "auth", Verb: "me", Permission: Authenticated,
		Route: "GET /api/v1/users/me", Summary: "Show the caller",
	}
	CreateUser = Op[CreateUserRequest, User]{
		Service: "auth", Verb: "user-create", Permission: UserWrite,
		Route: "POST /api/v1/users", Status: 201, Summary: "Create a user in the caller's tenant",
	}
	ListUsers = Op[ListUsersRequest, Page[User]]{
		Service: "auth", Verb: "user-list", Permission: UserRead,
		Route: "GET /api/v1/users", Summary: "List users",
	}
	GetUser = Op[IDRef, User]{
		Service: "auth", Verb: "user-get", Permission: UserRead,
		Route: "GET /api/v1/users/{id}", Summary: "Show a user",
	}
	UpdateUser = Op[UpdateUserRequest, User]{
		Service: "auth", Verb: "user-update", Permission: UserWrite,
		Route: "PATCH /api/v1/users/{id}", Summary: "Change a user's roles or limits, or disable it",
	}
	DeleteUser = Op[IDRef, None]{
		Service: "auth", Verb: "user-delete", Permission: UserWrite,
		Route: "DELETE /api/v1/users/{id}", Status: 204, Summary: "Delete a user and revoke its keys",
	}
	CreateTenant = Op[CreateTenantRequest, CreateTenantResponse]{
		Service: "auth", Verb: "tenant-create", Permission: TenantWrite,
		Route: "POST /api/v1/tenants", Status: 201, Summary: "Create a tenant and its first admin key",
	}
	ListTenants = Op[List, Page[Tenant]]{
		Service: "auth", Verb: "tenant-list", Permission: TenantRead,
		Route: "GET /api/v1/tenants", Summary: "List the tenants that the caller may see",
	}
	GetTenant = Op[NameRef, Tenant]{
		Service: "auth", Verb: "tenant-get", Permission: TenantRead,
		Route: "GET /api/v1/tenants/{name}", Summary: "Show a tenant",
	}
	UpdateTenant = Op[UpdateTenantRequest, Tenant]{
		Service: "auth", Verb: "tenant-update", Permission: TenantWrite,
		Route: "PATCH /api/v1/tenants/{name}", Summary: "Change a tenant's title or limits, or disable it",
	}
	CreateKey = Op[CreateKeyRequest, CreateKeyResponse]{
		Service: "auth", Verb: "key-create", Permission: KeyWrite,
		Route: "POST /api/v1/keys", Status: 201, Summary: "Create an API key; its secret is shown once",
	}
	ListKeys = Op[ListKeysRequest, Page[Key]]{
		Service: "auth", Verb: "key-list", Permission: KeyRead,
		Route: "GET /api/v1/keys", Summary: "List API keys",
	}
	RevokeKey = Op[IDRef, Key]{
		Service: "auth", Verb: "key-revoke", Permission: KeyWrite,
		Route: "DELETE /api/v1/keys/{id}", Summary: "Revoke an API key everywhere within a second",
	}
	ListAudit = Op[ListAuditRequest, Page[AuditRecord]]{
		Service: "auth", Verb: "audit-list", Permission: AuditRead,
		Route: "GET /api/v1/audit", Summary: "List audit records, newest first",
	}
	// ActAs mints a token for the scheduler to do what a principal asked for earlier (services/auth, actas.go).
	ActAs = Op[ActAsRequest, TokenResponse]{
		Service: "auth", Verb: "act-as", Permission: ServiceScoped,
		Summary: "Mint a short token for a principal whose work is due",
	}
	// RecordDenial tells auth that another service has refused the caller something
	// (libs/trust, Denials). The caller's own token is the record's actor.
	RecordDenial = Op[RecordDenialRequest, None]{
		Service: "auth", Verb: "record-denial", Permission: Authenticated,
		Summary: "Record that the caller was refused an operation",
	}
	// RecordAct tells auth what a service has done by itself, such as a sweep (libs/trust, Acts).
	RecordAct = Op[RecordActRequest, None]{
		Service: "auth", Verb: "record-act", Permission: ServiceScoped,
		Summary: "Record what a service did by itself",
	}
)

// IDRef names one entity of the caller's tenant.
type IDRef struct {
	ID      string `json:"id" in:"path"`
	IfMatch uint64 `json:"if_match,omitempty" in:"header:If-Match"`
}

// ExchangeRequest carries the credential: an API key.
type ExchangeRequest struct {
	Key string `json:"key"`
	// Scopes narrows the token further than the key.
	Scopes   []Permission `json:"scopes,omitempty"`
	RemoteIP string       `json:"remote_ip,omitempty" in:"edge"` // set by the gateway
}

// JWKSResponse is an RFC 7517 key set of OKP (Ed25519) keys.
type JWKSResponse struct {
	Keys []JWK `json:"keys"`
}

// JWK is one public key (RFC 8037).
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

// CreateUserRequest makes a user of the caller's tenant. Empty roles mean member.
type CreateUserRequest struct {
	Name        string `json:"name"`
	Email       string `json:"email,omitempty"`
	Roles       []Role `json:"roles,omitempty"`
	MaxSessions int    `json:"max_sessions,omitempty"`
}

// ListUsersRequest filters by a text in the name.
type ListUsersRequest struct {
	List
	Query string `json:"q,omitempty" in:"query"`
}

// UpdateUserRequest changes what is not nil.
type UpdateUserRequest struct {
	ID          string  `json:"id" in:"path"`
	IfMatch     uint64  `json:"if_match,omitempty" in:"header:If-Match"`
	Email       *string `json:"email,omitempty"`
	Roles       *[]Role `json:"roles,omitempty"`
	MaxSessions *int    `json:"max_sessions,omitempty"`
	Disabled    *bool   `json:"disabled,omitempty"`
}

// CreateTenantRequest makes a tenant with one admin user ("admin").
type CreateTenantRequest struct {
	Name        string `json:"name"`
	Title       string `json:"title,omitempty"`
	MaxSessions int    `json:"max_sessions,omitempty"`
}

// CreateTenantResponse shows the new tenant's admin key once.
type CreateTenantResponse struct {
	Tenant
	AdminKey string `json:"admin_key"`
}

// UpdateTenantRequest changes what is not nil.
type UpdateTenantRequest struct {
	Name        string  `json:"name" in:"path"`
	IfMatch     uint64  `json:"if_match,omitempty" in:"header:If-Match"`
	Title       *string `json:"title,omitempty"`
	MaxSessions *int    `json:"max_sessions,omitempty"`
	Disabled    *bool   `json:"disabled,omitempty"`
}

// CreateKeyRequest makes a key for User; empty: for the caller.
type CreateKeyRequest struct {
	Name      string       `json:"name"`
	User      string       `json:"user,omitempty"`
	Scopes    []Permission `json:"scopes,omitempty"`
	ExpiresIn Duration     `json:"expires_in,omitempty"` // zero: never
}

// CreateKeyResponse shows the secret once.
type CreateKeyResponse struct {
	Key
	Secret string `json:"secret"`
}

// ListKeysRequest filters by user; empty: the caller, or everyone for key:read:any.
type ListKeysRequest struct {
	List
	User string `json:"user,omitempty" in:"query"`
}

// ListAuditRequest filters by actor and action.
type ListAuditRequest struct {
	List
	Actor  string `json:"actor,omitempty" in:"query"`
	Action string `json:"action,omitempty" in:"query"`
}

// ActAsRequest names an existing principal, what the token may be used for, and what it is needed for (audited).
type ActAsRequest struct {
	Tenant  string       `json:"tenant"`
	User    string       `json:"user"`
	Scopes  []Permission `json:"scopes"`
	Purpose string       `json:"purpose"`
}

// RecordDenialRequest says what was refused: an operation's name and why. With Done it says what was done instead, where that is to be
// in the audit log too.
type RecordDenialRequest struct {
	Action string `json:"action"`
	Object string `json:"object,omitempty"` // what it was done to
	Detail string `json:"detail,omitempty"`
	Done   bool   `json:"done,omitempty"`
}

// RecordActRequest says what was done to what of a tenant. The asking service is the actor, and Action begins with its name and a dot.
type RecordActRequest struct {
	Tenant string `json:"tenant"`
	Action string `json:"action"`
	Object string `json:"object,omitempty"` // empty: several, which Detail names
	Detail string `json:"detail,omitempty"`
}
