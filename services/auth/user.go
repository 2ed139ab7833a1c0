package auth

import (
	"context"
	"net/mail"
	"slices"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Bounds of users.
const (
	maxEmail       = 254 // RFC 5321 §4.5.3.1.3
	maxSessions    = 100_000
	maxTenantUsers = 100_000
	maxGenerations = 1000 // of users with one name: each deleted one keeps its id
)

func userKey(tenant, id string) bus.Key { return bus.Key{Tenant: tenant, ID: id} }

// userID returns the id of the n-th user of one name. It is derived so that the ledger itself keeps names unique: two requests for one
// name meet at one key.
func userID(tenant, name string, n int) string {
	if n == 0 {
		return api.DeriveID(api.KindUser, tenant, name)
	}
	return api.DeriveID(api.KindUser, tenant, name, strconv.Itoa(n))
}

func shownUser(e bus.Entry[userRecord]) api.User {
	u := e.State.User
	u.Rev = e.Rev
	return u
}

// user returns a user of tenant that is not deleted, or not_found.
func (s *Service) user(ctx context.Context, tenant, id string) (bus.Entry[userRecord], error) {
	if !api.ValidID(api.KindUser, id) {
		return bus.Entry[userRecord]{}, notFound("user", id)
	}
	e, err := s.users.find(ctx, userKey(tenant, id))
	if isCode(err, api.CodeNotFound) || (err == nil && e.State.Deleted) {
		return bus.Entry[userRecord]{}, notFound("user", id)
	}
	return e, err
}

func (s *Service) me(ctx context.Context, p api.Principal, _ api.None) (api.User, error) {
	e, err := s.user(ctx, p.Tenant, p.ID)
	return shownUser(e), err
}

func (s *Service) getUser(ctx context.Context, p api.Principal, req api.IDRef) (api.User, error) {
	e, err := s.user(ctx, p.Tenant, req.ID)
	return shownUser(e), err
}

func (s *Service) listUsers(_ context.Context, p api.Principal, req api.ListUsersRequest) (api.Page[api.User], error) {
	var keep func(bus.Entry[userRecord]) bool
	if q := strings.ToLower(req.Query); q != "" {
		keep = func(e bus.Entry[userRecord]) bool { return strings.Contains(e.State.Name, q) }
	}
	return page(s.users.view, byTenant, p.Tenant, req.List, keep, shownUser)
}

func (s *Service) createUser(ctx context.Context, p api.Principal, req api.CreateUserRequest) (api.User, error) {
	if len(req.Roles) == 0 {
		req.Roles = []api.Role{api.RoleMember}
	}
	if !api.ValidName(req.Name) {
		return api.User{}, api.Invalid("/name", "must be 1 to 40 of a–z, 0–9 and '-', starting and ending with a letter or digit")
	}
	if err := checkUser(&req.Email, &req.Roles, &req.MaxSessions); err != nil {
		return api.User{}, err
	}
	if err := mayGrant(p, req.Roles); err != nil {
		return api.User{}, err
	}
	if s.users.view.Len(byTenant, p.Tenant) >= maxTenantUsers {
		return api.User{}, api.Errorf(api.CodeExhausted, "the tenant has %d users already", maxTenantUsers)
	}
	e, err := s.putUser(ctx, meta(p, "create"), api.User{
		Tenant: p.Tenant, Name: req.Name, Email: req.Email, Roles: dedupe(req.Roles), MaxSessions: req.MaxSessions,
	})
	if err != nil {
		return api.User{}, err
	}
	if e.State.activeAdmin() {
		if err := s.joinAdmins(ctx, p.Tenant, e.State.ID); err != nil {
			return api.User{}, err
		}
	}
	s.audit.act(ctx, p, api.CreateUser.Info().Name(), e.State.ID, e.State.Name+" as "+joined(e.State.Roles))
	return shownUser(e), nil
}

// putUser writes a new user under the first id of its name that no deleted user has; conflict when a living one has it.
func (s *Service) putUser(ctx context.Context, m bus.Meta, u api.User) (bus.Entry[userRecord], error) {
	u.CreatedAt = s.now()
	for n := range maxGenerations {
		u.ID = userID(u.Tenant, u.Name, n)
		key := userKey(u.Tenant, u.ID)
		if e, ok := s.users.view.Get(key); ok && e.State.Deleted {
			continue
		}
		e, err := s.users.Create(ctx, key, m, userRecord{User: u})
		if !isCode(err, api.CodeConflict) {
			return e, err
		}
		e, err = s.users.Get(ctx, key)
		if err != nil {
			return e, err
		}
		if !e.State.Deleted {
			return e, api.Errorf(api.CodeConflict, "there is a user %q already", u.Name)
		}
	}
	return bus.Entry[userRecord]{}, api.Errorf(api.CodeExhausted, "the name %q was used and deleted too often; choose another", u.Name)
}

func checkUser(email *string, roles *[]api.Role, sessions *int) error {
	if email != nil && *email != "" {
		addr, err := mail.ParseAddress(*email)
		if err != nil || addr.Address != *email || len(*email) > maxEmail {
			return api.Invalid("/email", "is not an address such as ada@example.org")
		}
	}
	if roles != nil {
		if len(*roles) == 0 {
			return api.Invalid("/roles", "must name at least one role; disable the user to take all away")
		}
		for i, r := range *roles {
			if !r.Known() {
				return api.Invalid("/roles/"+strconv.Itoa(i), "is not one of admin, member, viewer, service")
			}
		}
	}
	if sessions != nil {
		return checkSessions(*sessions)
	}
	return nil
}

func checkSessions(n int) error {
	if n < 0 || n > maxSessions {
		return api.Invalid("/max_sessions", "must be between 0 (the default) and %d", maxSessions)
	}
	return nil
}

// mayGrant refuses roles that hold a permission which p does not have: nobody makes another more powerful than oneself.
func mayGrant(p api.Principal, roles []api.Role) error {
	for _, r := range roles {
		want := r.Permissions()
		if r == api.RoleAdmin && p.Tenant == api.HomeTenant {
			want = append(want, api.TenantWrite)
		}
		for _, perm := range want {
			if !p.Can(perm) {
				return api.Errorf(api.CodeDenied, "the role %s has the permission %s, which you do not have yourself", r, perm)
			}
		}
	}
	return nil
}

// apply returns u as req changes it, when p may.
func applyUser(p api.Principal, u userRecord, req api.UpdateUserRequest) (userRecord, error) {
	if req.Roles != nil {
		roles := dedupe(*req.Roles)
		added := slices.DeleteFunc(slices.Clone(roles), func(r api.Role) bool { return slices.Contains(u.Roles, r) })
		if err := mayGrant(p, added); err != nil {
			return u, err
		}
		u.Roles = roles
	}
	if req.Email != nil {
		u.Email = *req.Email
	}
	if req.MaxSessions != nil {
		u.MaxSessions = *req.MaxSessions
	}
	if req.Disabled != nil {
		if u.Disabled && !*req.Disabled {
			if err := mayGrant(p, u.Roles); err != nil { // enabling gives its roles back
				return u, err
			}
		}
		u.Disabled = *req.Disabled
	}
	return u, nil
}

func (s *Service) updateUser(ctx context.Context, p api.Principal, req api.UpdateUserRequest) (api.User, error) {
	if err := checkUser(req.Email, req.Roles, req.MaxSessions); err != nil {
		return api.User{}, err
	}
	e, err := s.user(ctx, p.Tenant, req.ID)
	if err != nil {
		return api.User{}, err
	}
	next, err := applyUser(p, e.State, req)
	if err != nil {
		return api.User{}, err
	}
	e, err = s.changeUser(ctx, e, req.IfMatch, next.activeAdmin(), meta(p, "update"), func(u userRecord) (userRecord, error) {
		return applyUser(p, u, req)
	})
	if err != nil {
		return api.User{}, err
	}
	s.audit.act(ctx, p, api.UpdateUser.Info().Name(), req.ID, describe(e.State))
	return shownUser(e), nil
}

// deleteUser ends a user, its keys and its tokens. Its record stays, so that nobody inherits its id.
func (s *Service) deleteUser(ctx context.Context, p api.Principal, req api.IDRef) (api.None, error) {
	e, err := s.user(ctx, p.Tenant, req.ID)
	if err != nil {
		return api.None{}, err
	}
	_, err = s.changeUser(ctx, e, req.IfMatch, false, meta(p, "delete"), func(u userRecord) (userRecord, error) {
		u.Deleted = true
		return u, nil
	})
	if err != nil {
		return api.None{}, err
	}
	s.audit.act(ctx, p, api.DeleteUser.Info().Name(), req.ID, e.State.Name)
	return api.None{}, nil
}

// changeUser writes what f makes of a user, and ends the tokens that say otherwise. stays tells whether the user is an enabled admin
// after f; the tenant's last one must be.
func (s *Service) changeUser(ctx context.Context, e bus.Entry[userRecord], rev uint64, stays bool, m bus.Meta, f func(userRecord) (userRecord, error)) (bus.Entry[userRecord], error) {
	if rev != 0 && rev != e.Rev {
		return e, api.Errorf(api.CodeConflict, "the user was changed meanwhile (revision %d, not %d); read it again", e.Rev, rev)
	}
	tenant, id, was := e.Key.Tenant, e.Key.ID, e.State.activeAdmin()
	if was && !stays {
		if err := s.leaveAdmins(ctx, tenant, id); err != nil {
			return e, err
		}
	}
	now := s.now()
	e, err := s.users.UpdateAt(ctx, e.Key, rev, m, func(u userRecord) (userRecord, error) {
		if u.Deleted {
			return u, notFound("user", id)
		}
		next, err := f(u)
		if err != nil {
			return u, err
		}
		if next.activeAdmin() != stays {
			return u, api.Errorf(api.CodeConflict, "the user was changed meanwhile; read it again")
		}
		if next.Disabled != u.Disabled || next.Deleted || !slices.Equal(next.Roles, u.Roles) {
			next.Epoch = now
		} else if next.User.Email == u.User.Email && next.MaxSessions == u.MaxSessions {
			return u, bus.ErrUnchanged
		}
		return next, nil
	})
	if err != nil {
		if was && !stays {
			// It is an admin still, unless another request has seen to that.
			if cur, cerr := s.user(ctx, tenant, id); cerr == nil && cur.State.activeAdmin() {
				_ = s.joinAdmins(ctx, tenant, id) // if this fails too, its next update mends it
			}
		}
		return e, err
	}
	if stays {
		if err := s.joinAdmins(ctx, tenant, id); err != nil {
			return e, err
		}
	}
	return e, s.ensureUserRevoked(ctx, e.State)
}

func describe(u userRecord) string {
	d := u.Name + " is " + joined(u.Roles)
	if u.Disabled {
		d += ", disabled"
	}
	return d
}

func joined(roles []api.Role) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}
