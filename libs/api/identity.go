package api

import "time"

// Tenant is an organisation: nothing crosses from one to another.
type Tenant struct {
	Name        string    `json:"name"`
	Title       string    `json:"title,omitempty"`
	MaxSessions int       `json:"max_sessions,omitempty"` // live at once; zero: the service's default
	Disabled    bool      `json:"disabled,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	Rev         uint64    `json:"rev"`
}

// Revision implements Revisioned.
func (t Tenant) Revision() uint64 { return t.Rev }

// User is a person or a machine of one tenant.
type User struct {
	ID          string    `json:"id"`
	Tenant      string    `json:"tenant"`
	Name        string    `json:"name"` // handle, unique in the tenant
	Email       string    `json:"email,omitempty"`
	Roles       []Role    `json:"roles"`
	MaxSessions int       `json:"max_sessions,omitempty"` // live at once; zero: the service's default
	Disabled    bool      `json:"disabled,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	Rev         uint64    `json:"rev"`
}

// Revision implements Revisioned.
func (u User) Revision() uint64 { return u.Rev }

// Key is an API key without its secret.
type Key struct {
	ID         string       `json:"id"`
	Tenant     string       `json:"tenant"`
	User       string       `json:"user"`
	Name       string       `json:"name"`
	Prefix     string       `json:"prefix"` // the first characters of the secret, to recognise it
	Scopes     []Permission `json:"scopes,omitempty"`
	CreatedAt  time.Time    `json:"created_at"`
	ExpiresAt  *time.Time   `json:"expires_at,omitempty"`
	LastUsedAt *time.Time   `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time   `json:"revoked_at,omitempty"`
	Rev        uint64       `json:"rev"`
}

// Revision implements Revisioned.
func (k Key) Revision() uint64 { return k.Rev }

// AuditRecord is one sign-in, denial or administrative act.
type AuditRecord struct {
	Seq       uint64    `json:"seq"`
	At        time.Time `json:"at"`
	Tenant    string    `json:"tenant"`
	Actor     string    `json:"actor"` // a principal's ID, or "" when unknown
	Action    string    `json:"action"`
	Object    string    `json:"object,omitempty"`
	Outcome   string    `json:"outcome"` // "ok" or an error code
	Detail    string    `json:"detail,omitempty"`
	RemoteIP  string    `json:"remote_ip,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
}

// TokenResponse is a short-lived access token (RFC 9068 profile, EdDSA).
type TokenResponse struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"` // "Bearer"
	ExpiresIn   int       `json:"expires_in"` // seconds
	Principal   Principal `json:"principal"`
}
