package api

import (
	"context"
	"slices"
)

// Permission is what an operation asks of its caller: "<noun>:<verb>".
type Permission string

// The permissions. Those marked (own) reach what the caller owns; to reach what
// another principal of the tenant owns, the caller needs the same with ":any".
const (
	Public        Permission = "public"  // no credential at all
	Authenticated Permission = ""        // any valid credential
	SessionScoped Permission = "runner"  // a session's own runner, proven by its bus subject
	ServiceScoped Permission = "service" // another service, proven by its bus subject

	SessionCreate Permission = "session:create"
	SessionRead   Permission = "session:read"   // own
	SessionWrite  Permission = "session:write"  // own: send, patch, pause, resume, interrupt, approve, files
	SessionDelete Permission = "session:delete" // own
	ProfileRead   Permission = "profile:read"
	ProfileWrite  Permission = "profile:write"
	SecretRead    Permission = "secret:read"  // own: names, never values
	SecretWrite   Permission = "secret:write" // own
	UserRead      Permission = "user:read"
	UserWrite     Permission = "user:write"
	TenantRead    Permission = "tenant:read"
	TenantWrite   Permission = "tenant:write"
	KeyRead       Permission = "key:read"  // own
	KeyWrite      Permission = "key:write" // own
	AuditRead     Permission = "audit:read"
	TaskCreate    Permission = "task:create"
	TaskRead      Permission = "task:read"  // own
	TaskWrite     Permission = "task:write" // own
	TrafficRead   Permission = "traffic:read"
	TrafficWrite  Permission = "traffic:write"
)

// Any returns the permission p on what others of the tenant own.
func (p Permission) Any() Permission { return p + ":any" }

// Role is a named set of permissions, held by a principal in its tenant.
type Role string

// The roles.
const (
	RoleAdmin   Role = "admin"   // everything in the tenant
	RoleMember  Role = "member"  // own sessions, tasks and keys
	RoleViewer  Role = "viewer"  // reads everything in the tenant but the audit log and keys
	RoleService Role = "service" // a machine: own sessions and tasks, no keys
)

var rolePermissions = map[Role][]Permission{
	RoleAdmin: {
		SessionCreate, SessionRead, SessionWrite, SessionDelete,
		SessionRead.Any(), SessionWrite.Any(), SessionDelete.Any(),
		ProfileRead, ProfileWrite, UserRead, UserWrite, TenantRead,
		SecretRead, SecretWrite, SecretRead.Any(), SecretWrite.Any(),
		KeyRead, KeyWrite, KeyRead.Any(), KeyWrite.Any(), AuditRead,
		TaskCreate, TaskRead, TaskWrite, TaskRead.Any(), TaskWrite.Any(), TrafficRead, TrafficWrite,
	},
	RoleMember: {
		SessionCreate, SessionRead, SessionWrite, SessionDelete, ProfileRead, UserRead, TenantRead,
		SecretRead, SecretWrite, KeyRead, KeyWrite, TaskCreate, TaskRead, TaskWrite, TrafficRead,
	},
	RoleViewer: {
		SessionRead, SessionRead.Any(), ProfileRead, UserRead, TenantRead, TaskRead, TaskRead.Any(), TrafficRead,
	},
	RoleService: {
		SessionCreate, SessionRead, SessionWrite, SessionDelete, ProfileRead, TaskCreate, TaskRead, TaskWrite, TrafficRead,
	},
}

// Permissions returns the permissions of role r, sorted; none for an unknown role.
func (r Role) Permissions() []Permission {
	ps := slices.Clone(rolePermissions[r])
	slices.Sort(ps)
	return ps
}

// Known reports whether r is one of the roles.
func (r Role) Known() bool { _, ok := rolePermissions[r]; return ok }

// HomeTenant is the operator's own tenant. Its admins may also manage tenants.
const HomeTenant = "default"

// Principal is who is asking, as a verified access token says.
type Principal struct {
	ID     string `json:"id"`             // u… for a user, or the session's id for a runner
	Tenant string `json:"tenant"`         //
	Name   string `json:"name,omitempty"` // for people: a handle
	Roles  []Role `json:"roles,omitempty"`
	Key    string `json:"key,omitempty"` // the API key that the token was exchanged for, if any
	// Scopes narrows the roles' permissions to a list, if not empty.
	Scopes []Permission `json:"scopes,omitempty"`
}

// Can reports whether the principal holds permission p.
func (p Principal) Can(want Permission) bool {
	if want == Public || want == Authenticated {
		return true
	}
	if len(p.Scopes) > 0 && !slices.Contains(p.Scopes, want) {
		return false
	}
	if want == TenantWrite {
		return p.Tenant == HomeTenant && slices.Contains(p.Roles, RoleAdmin)
	}
	for _, r := range p.Roles {
		if slices.Contains(rolePermissions[r], want) {
			return true
		}
	}
	return false
}

// CanOn reports whether the principal holds p on something that owner of tenant owns.
func (p Principal) CanOn(want Permission, tenant, owner string) bool {
	if p.Tenant != tenant {
		return false
	}
	return p.Can(want.Any()) || (p.ID == owner && p.Can(want))
}

type principalKey struct{}

// WithPrincipal returns a context that carries the verified principal p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns the verified principal of ctx, and whether there is one.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
