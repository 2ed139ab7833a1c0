package auth

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Bounds of API keys.
const (
	maxLiveKeys  = 100  // of a user, not revoked
	maxUserKeys  = 1000 // of a user, revoked ones included until keptKeys
	maxKeyName   = 100  // bytes
	maxKeyLife   = 10 * 365 * 24 * time.Hour
	keptKeys     = 90 * 24 * time.Hour // how long a revoked or expired key is listed
	sweepPerStep = 100
)

// knownScopes is every permission that a scope may name.
var knownScopes = func() map[api.Permission]bool {
	known := map[api.Permission]bool{api.TenantWrite: true}
	for _, r := range []api.Role{api.RoleAdmin, api.RoleMember, api.RoleViewer, api.RoleService} {
		for _, p := range r.Permissions() {
			known[p] = true
		}
	}
	return known
}()

func scopePointer(i int) string { return "/scopes/" + strconv.Itoa(i) }

func checkScopes(scopes []api.Permission) error {
	for i, scope := range scopes {
		if !knownScopes[scope] {
			return api.Invalid(scopePointer(i), "is not a permission such as %s", api.SessionRead)
		}
	}
	return nil
}

func (s *Service) createKey(ctx context.Context, p api.Principal, req api.CreateKeyRequest) (api.CreateKeyResponse, error) {
	var none api.CreateKeyResponse
	if err := checkKeyRequest(req); err != nil {
		return none, err
	}
	owner := req.User
	if owner == "" {
		owner = p.ID
	}
	if !p.CanOn(api.KeyWrite, p.Tenant, owner) {
		return none, notFoundOrDenied(p, owner)
	}
	user, err := s.user(ctx, p.Tenant, owner)
	if err != nil {
		return none, err
	}
	if user.State.Disabled {
		return none, api.Errorf(api.CodeConflict, "user %s is disabled; enable it first", user.State.Name)
	}
	if err := grantable(p, user.State, req.Scopes); err != nil {
		return none, err
	}
	index := p.Tenant + "/" + owner
	if s.keys.view.Len(byLive, index) >= maxLiveKeys || s.keys.view.Len(byUser, index) >= maxUserKeys {
		return none, api.Errorf(api.CodeExhausted, "user %s has %d keys already; revoke some", user.State.Name, s.keys.view.Len(byUser, index))
	}
	now := s.now()
	key := api.Key{Tenant: p.Tenant, User: owner, Name: req.Name, Scopes: dedupe(req.Scopes), CreatedAt: now}
	if req.ExpiresIn != 0 {
		at := now.Add(req.ExpiresIn.D())
		key.ExpiresAt = &at
	}
	secret := newAPIKey()
	e, err := s.putKey(ctx, meta(p, "create"), secret, key)
	if err != nil {
		return none, err
	}
	s.audit.act(ctx, p, api.CreateKey.Info().Name(), e.State.ID, "for user "+user.State.Name)
	return api.CreateKeyResponse{Key: s.shown(e), Secret: string(secret)}, nil
}

func checkKeyRequest(req api.CreateKeyRequest) error {
	name := strings.TrimSpace(req.Name)
	switch {
	case name == "" || len(req.Name) > maxKeyName || strings.ContainsFunc(req.Name, unicode.IsControl):
		return api.Invalid("/name", "must be 1 to %d printable characters that say what the key is for", maxKeyName)
	case req.ExpiresIn != 0 && (req.ExpiresIn.D() < time.Second || req.ExpiresIn.D() > maxKeyLife):
		return api.Invalid("/expires_in", "must be between 1s and %v, or absent for a key that does not expire", maxKeyLife)
	case req.User != "" && !api.ValidID(api.KindUser, req.User):
		return api.Invalid("/user", "is not a user's id")
	}
	return checkScopes(req.Scopes)
}

// grantable refuses a key that could do what its creator cannot. A key without scopes can do what its user can, now and after the
// user was given more roles, so it is not for a creator who is narrowed to scopes.
func grantable(p api.Principal, user userRecord, scopes []api.Permission) error {
	for i, scope := range scopes {
		if !p.Can(scope) {
			return &api.Error{
				Code: api.CodeDenied, Detail: fmt.Sprintf("%s: you do not have the permission %s yourself", scopePointer(i), scope),
			}
		}
	}
	if len(scopes) > 0 {
		return nil
	}
	if len(p.Scopes) > 0 {
		return api.Errorf(api.CodeDenied, "your credential is limited to scopes; name scopes of yours for the new key")
	}
	return mayGrant(p, user.Roles)
}

// notFoundOrDenied tells a caller who may not manage others' keys so, without telling whether the other exists.
func notFoundOrDenied(p api.Principal, owner string) error {
	if owner == p.ID {
		return api.Errorf(api.CodeDenied, "this needs the permission %s", api.KeyWrite)
	}
	return api.Errorf(api.CodeDenied, "this needs the permission %s", api.KeyWrite.Any())
}

func dedupe[T comparable](list []T) []T {
	var out []T
	for _, x := range list {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// keyID returns the id of the key that lookup names: making the same key twice meets itself.
func keyID(lookup string) string { return api.DeriveID(api.KindKey, lookup) }

// putKey writes a new key, given what is to be seen of it.
func (s *Service) putKey(ctx context.Context, m bus.Meta, secret apiKey, key api.Key) (bus.Entry[keyRecord], error) {
	key.ID, key.Prefix = keyID(secret.lookup()), secret.shown()
	rec := keyRecord{Key: key, Lookup: secret.lookup(), Hash: secret.hash(s.pepper)}
	return s.keys.Create(ctx, bus.Key{Tenant: key.Tenant, ID: key.ID}, m, rec)
}

// shown returns what a key's entry shows.
func (s *Service) shown(e bus.Entry[keyRecord]) api.Key {
	k := e.State.Key
	k.Rev, k.LastUsedAt = e.Rev, s.usage.lastUsedAt(e.Key)
	return k
}

func (s *Service) listKeys(_ context.Context, p api.Principal, req api.ListKeysRequest) (api.Page[api.Key], error) {
	index, value := byTenant, p.Tenant
	switch {
	case req.User != "" && !p.CanOn(api.KeyRead, p.Tenant, req.User):
		return api.Page[api.Key]{}, api.Errorf(api.CodeDenied, "this needs the permission %s", api.KeyRead.Any())
	case req.User != "":
		index, value = byUser, p.Tenant+"/"+req.User
	case !p.Can(api.KeyRead.Any()):
		index, value = byUser, p.Tenant+"/"+p.ID
	}
	return page(s.keys.view, index, value, req.List, nil, s.shown)
}

// revokeKey answers when the revocation is written; every service follows it within milliseconds. Repeating it is success.
func (s *Service) revokeKey(ctx context.Context, p api.Principal, req api.IDRef) (api.Key, error) {
	if !api.ValidID(api.KindKey, req.ID) {
		return api.Key{}, notFound("key", req.ID)
	}
	id := bus.Key{Tenant: p.Tenant, ID: req.ID}
	e, err := s.keys.find(ctx, id)
	if isCode(err, api.CodeNotFound) || (err == nil && !p.CanOn(api.KeyWrite, e.State.Tenant, e.State.User)) {
		return api.Key{}, notFound("key", req.ID)
	}
	if err != nil {
		return api.Key{}, err
	}
	if e, err = s.endKey(ctx, id, req.IfMatch, meta(p, "revoke")); err != nil {
		return api.Key{}, err
	}
	s.audit.act(ctx, p, api.RevokeKey.Info().Name(), req.ID, "")
	return s.shown(e), nil
}

// endKey revokes a key, once.
func (s *Service) endKey(ctx context.Context, id bus.Key, rev uint64, m bus.Meta) (bus.Entry[keyRecord], error) {
	now := s.now()
	e, err := s.keys.UpdateAt(ctx, id, rev, m, func(k keyRecord) (keyRecord, error) {
		if k.RevokedAt != nil {
			return k, bus.ErrUnchanged
		}
		k.RevokedAt = &now
		return k, nil
	})
	if err != nil {
		return e, err
	}
	return e, s.ensureKeyRevoked(ctx, e.State)
}

// sweepKeys erases keys that were of no use for a long time.
func (s *Service) sweepKeys(ctx context.Context) error {
	until := s.now().Add(-keptKeys)
	var old []bus.Key
	s.keys.view.All(func(e bus.Entry[keyRecord]) bool {
		k := e.State
		if (k.RevokedAt != nil && k.RevokedAt.Before(until)) || (k.ExpiresAt != nil && k.ExpiresAt.Before(until)) {
			old = append(old, e.Key)
		}
		return len(old) < sweepPerStep
	})
	for _, key := range old {
		if err := s.keys.Purge(ctx, key); err != nil {
			return err
		}
		if err := s.lastUsed.Purge(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
