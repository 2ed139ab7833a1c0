package auth

import (
	"context"
	"slices"
	"strings"
	"unicode"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Bounds of tenants.
const (
	maxTitle   = 200 // bytes
	maxTenants = 10_000
)

// adminName is the first user of each tenant.
const adminName = "admin"

func tenantKey(name string) bus.Key { return bus.Key{Tenant: name, ID: name} }

func shownTenant(e bus.Entry[tenantRecord]) api.Tenant {
	t := e.State.Tenant
	t.Rev = e.Rev
	return t
}

// tenant returns a tenant that p may see: its own, or any for those who manage tenants.
func (s *Service) tenant(ctx context.Context, p api.Principal, name string) (bus.Entry[tenantRecord], error) {
	if !api.ValidName(name) || (name != p.Tenant && !p.Can(api.TenantWrite)) {
		return bus.Entry[tenantRecord]{}, notFound("tenant", name)
	}
	e, err := s.tenants.find(ctx, tenantKey(name))
	if isCode(err, api.CodeNotFound) {
		err = notFound("tenant", name)
	}
	return e, err
}

func (s *Service) getTenant(ctx context.Context, p api.Principal, req api.NameRef) (api.Tenant, error) {
	e, err := s.tenant(ctx, p, req.Name)
	return shownTenant(e), err
}

func (s *Service) listTenants(ctx context.Context, p api.Principal, req api.List) (api.Page[api.Tenant], error) {
	if p.Can(api.TenantWrite) {
		return page(s.tenants.view, byAll, "", req, nil, shownTenant)
	}
	if _, err := req.Bound(); err != nil {
		return api.Page[api.Tenant]{}, err
	}
	if _, err := decodeCursor(req.Cursor); err != nil {
		return api.Page[api.Tenant]{}, err
	}
	out := api.Page[api.Tenant]{Items: []api.Tenant{}}
	if req.Cursor != "" {
		return out, nil // there is one page
	}
	own, err := s.tenant(ctx, p, p.Tenant)
	if err != nil {
		return out, err
	}
	out.Items = append(out.Items, shownTenant(own))
	return out, nil
}

func (s *Service) createTenant(ctx context.Context, p api.Principal, req api.CreateTenantRequest) (api.CreateTenantResponse, error) {
	var none api.CreateTenantResponse
	if !api.ValidName(req.Name) {
		return none, api.Invalid("/name", "must be 1 to 40 of a–z, 0–9 and '-', starting and ending with a letter or digit")
	}
	if err := checkTenant(&req.Title, &req.MaxSessions); err != nil {
		return none, err
	}
	if len(p.Scopes) > 0 {
		return none, api.Errorf(api.CodeDenied, "your credential is limited to scopes, but the new admin's key is not; use one without scopes")
	}
	if s.tenants.view.Len(byAll, "") >= maxTenants {
		return none, api.Errorf(api.CodeExhausted, "there are %d tenants already", maxTenants)
	}
	if _, err := s.tenants.find(ctx, tenantKey(req.Name)); err == nil {
		return none, errTenantExists(req.Name)
	}
	secret := newAPIKey()
	e, err := s.provision(ctx, meta(p, "create"), api.Tenant{Name: req.Name, Title: req.Title, MaxSessions: req.MaxSessions}, secret)
	if err != nil {
		if isCode(err, api.CodeConflict) { // another request was first: its admin's key is the one to keep
			_ = s.keys.Purge(ctx, bus.Key{Tenant: req.Name, ID: keyID(secret.lookup())}) // nobody has seen it
			err = errTenantExists(req.Name)
		}
		return none, err
	}
	s.audit.act(ctx, p, api.CreateTenant.Info().Name(), req.Name, "")
	return api.CreateTenantResponse{Tenant: shownTenant(e), AdminKey: string(secret)}, nil
}

func errTenantExists(name string) error {
	return api.Errorf(api.CodeConflict, "there is a tenant %q already", name)
}

// provision makes a tenant with its admin and the admin's key. The tenant comes last and is what decides: until it exists nobody can
// sign in to it, so a provision that was cut short can be done again.
func (s *Service) provision(ctx context.Context, m bus.Meta, t api.Tenant, secret apiKey) (bus.Entry[tenantRecord], error) {
	none := bus.Entry[tenantRecord]{}
	admin := api.User{
		ID: userID(t.Name, adminName, 0), Tenant: t.Name, Name: adminName, Roles: []api.Role{api.RoleAdmin}, CreatedAt: s.now(),
	}
	if _, err := s.users.Create(ctx, userKey(t.Name, admin.ID), m, userRecord{User: admin}); err != nil && !isCode(err, api.CodeConflict) {
		return none, err
	}
	key := api.Key{Tenant: t.Name, User: admin.ID, Name: "first admin key", CreatedAt: s.now()}
	if _, err := s.putKey(ctx, m, secret, key); err != nil && !isCode(err, api.CodeConflict) {
		return none, err
	}
	t.CreatedAt = s.now()
	return s.tenants.Create(ctx, tenantKey(t.Name), m, tenantRecord{Tenant: t, Admins: []string{admin.ID}})
}

func checkTenant(title *string, sessions *int) error {
	if title != nil && (len(*title) > maxTitle || strings.ContainsFunc(*title, unicode.IsControl)) {
		return api.Invalid("/title", "must be at most %d printable characters", maxTitle)
	}
	if sessions != nil {
		return checkSessions(*sessions)
	}
	return nil
}

func (s *Service) updateTenant(ctx context.Context, p api.Principal, req api.UpdateTenantRequest) (api.Tenant, error) {
	if err := checkTenant(req.Title, req.MaxSessions); err != nil {
		return api.Tenant{}, err
	}
	if req.Name == api.HomeTenant && req.Disabled != nil && *req.Disabled {
		return api.Tenant{}, api.Invalid("/disabled", "the tenant %s manages the others and cannot be disabled", api.HomeTenant)
	}
	if _, err := s.tenant(ctx, p, req.Name); err != nil {
		return api.Tenant{}, err
	}
	now := s.now()
	e, err := s.tenants.UpdateAt(ctx, tenantKey(req.Name), req.IfMatch, meta(p, "update"), func(t tenantRecord) (tenantRecord, error) {
		before := t.Tenant
		if req.Title != nil {
			t.Title = *req.Title
		}
		if req.MaxSessions != nil {
			t.MaxSessions = *req.MaxSessions
		}
		if req.Disabled != nil && *req.Disabled != t.Disabled {
			t.Disabled, t.Epoch = *req.Disabled, now
		}
		if t.Tenant == before {
			return t, bus.ErrUnchanged
		}
		return t, nil
	})
	if err != nil {
		return api.Tenant{}, err
	}
	if err := s.ensureTenantRevoked(ctx, e.State); err != nil {
		return api.Tenant{}, err
	}
	detail := ""
	if e.State.Disabled {
		detail = "disabled"
	}
	s.audit.act(ctx, p, api.UpdateTenant.Info().Name(), req.Name, detail)
	return shownTenant(e), nil
}

// leaveAdmins takes a user out of the tenant's admins, before it stops being one. The last one cannot leave: that two
// admins remove each other at once is decided by this one conditional write.
func (s *Service) leaveAdmins(ctx context.Context, tenant, user string) error {
	_, err := s.tenants.UpdateAt(ctx, tenantKey(tenant), 0, bus.Meta{Actor: "service:auth", Verb: "admin-leaves"}, func(t tenantRecord) (tenantRecord, error) {
		others := slices.DeleteFunc(slices.Clone(t.Admins), func(id string) bool { return id == user })
		if len(others) == 0 {
			return t, api.Errorf(api.CodeConflict, "this is the last enabled admin of tenant %s; make another user admin first", tenant)
		}
		if len(others) == len(t.Admins) {
			return t, bus.ErrUnchanged
		}
		t.Admins = others
		return t, nil
	})
	return err
}

// joinAdmins puts a user that has become an admin among the tenant's admins.
func (s *Service) joinAdmins(ctx context.Context, tenant, user string) error {
	if e, ok := s.tenants.view.Get(tenantKey(tenant)); ok && slices.Contains(e.State.Admins, user) {
		return nil
	}
	_, err := s.tenants.UpdateAt(ctx, tenantKey(tenant), 0, bus.Meta{Actor: "service:auth", Verb: "admin-joins"}, func(t tenantRecord) (tenantRecord, error) {
		if slices.Contains(t.Admins, user) {
			return t, bus.ErrUnchanged
		}
		t.Admins = append(slices.Clone(t.Admins), user)
		return t, nil
	})
	return err
}
