package sessions

import (
	"context"
	"fmt"
	"os"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/seal"
)

const (
	maxSecret     = 64 << 10 // bytes of one value
	maxSecrets    = 1000     // of one user, and of one tenant
	maxSecretName = 64
	// sealPurpose is what the key is derived for with which a yard seals that was given none.
	sealPurpose = "seal"
)

// secretRecord is an entry of the SECRETS ledger, which keeps the newest only: who stored it and when, and the value, sealed.
type secretRecord struct {
	api.Secret
	Owner string   `json:"owner,omitempty"` // a Principal's ID, of scope user
	Value seal.Box `json:"value"`
}

// indexHolder lists the entries of SECRETS and CREDENTIALS by whose they are.
const indexHolder = "holder"

// secretKey names an entry: the tenant's have no owner. No name holds a '.', '/' or space, and no user's id an '_'.
func secretKey(tenant, owner, name string) bus.Key {
	if owner == "" {
		owner = string(api.ScopeTenant)
	}
	return bus.Key{Tenant: tenant, ID: owner + "_" + name}
}

// secretPlace is what a value is bound to.
func secretPlace(key bus.Key) string { return "secret/" + key.Tenant + "/" + key.ID }

func validSecretName(name string) bool {
	if name == "" || len(name) > maxSecretName {
		return false
	}
	for _, c := range []byte(name) {
		if !alphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// sealKeys returns the keys of the configured file, or one that belongs to this yard's session issuer.
func (s *Service) sealKeys() (*seal.Keys, error) {
	own, err := s.deps.Issuer.DeriveKey(sealPurpose)
	if err != nil {
		return nil, fmt.Errorf("derive the key for secrets: %w", err)
	}
	keys := [][]byte{own}
	if path := s.cfg.SecretKeysFile; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("-sessions.secret-keys-file: %w", err)
		}
		given, err := seal.ParseKeys(text)
		if err != nil {
			return nil, fmt.Errorf("-sessions.secret-keys-file: %s: %w", path, err)
		}
		keys = append(given, own) // what was sealed before there was a file still opens
	}
	return seal.NewKeys(keys...)
}

// holder returns whose secrets a request means, and whether the caller may.
func holder(p api.Principal, scope api.Scope, perm api.Permission) (owner string, err error) {
	switch scope {
	case "", api.ScopeUser:
		return p.ID, nil
	case api.ScopeTenant:
		if !p.Can(perm.Any()) {
			return "", api.Errorf(api.CodeDenied, "the tenant's secrets are its admins'")
		}
		return "", nil
	}
	return "", api.Invalid("/scope", "must be %q or %q", api.ScopeUser, api.ScopeTenant)
}

func scopeOf(owner string) api.Scope {
	if owner == "" {
		return api.ScopeTenant
	}
	return api.ScopeUser
}

// putSecret stores a value in place of an older one. Sessions that run keep what they were given.
func (s *Service) putSecret(ctx context.Context, req api.PutSecretRequest) (api.Secret, error) {
	p, _ := api.PrincipalFrom(ctx)
	var bad problems
	if !validSecretName(req.Name) {
		bad.Add("/name", "must be 1 to %d letters, digits, '-' and '_'", maxSecretName)
	}
	if req.Value == "" || len(req.Value) > maxSecret {
		bad.Add("/value", "must be 1 to %d bytes", maxSecret)
	}
	if err := bad.Err(); err != nil {
		return api.Secret{}, err
	}
	owner, err := holder(p, req.Scope, api.SecretWrite)
	if err != nil {
		return api.Secret{}, err
	}
	key, now := secretKey(p.Tenant, owner, req.Name), s.now().UTC()
	box, err := s.keys.Seal(secretPlace(key), []byte(req.Value))
	if err != nil {
		return api.Secret{}, fmt.Errorf("seal: %w", err)
	}
	fresh := secretRecord{Owner: owner, Value: box, Secret: api.Secret{
		Name: req.Name, Scope: scopeOf(owner), CreatedAt: now, UpdatedAt: now, UpdatedBy: p.ID,
	}}
	meta := bus.Meta{Actor: p.ID, Verb: "put"}
	e, err := s.secrets.UpdateAt(ctx, key, req.IfMatch, meta, func(old secretRecord) (secretRecord, error) {
		next := fresh
		next.CreatedAt = old.CreatedAt
		return next, nil
	})
	if api.CodeOf(err) == api.CodeNotFound && req.IfMatch == 0 {
		if s.secretView.Len(indexHolder, holderValue(p.Tenant, owner)) >= maxSecrets {
			return api.Secret{}, api.Errorf(api.CodeExhausted, "there are %d secrets, and that is the limit; delete one first", maxSecrets)
		}
		e, err = s.secrets.Create(ctx, key, meta, fresh)
	}
	if err != nil {
		return api.Secret{}, err
	}
	s.audited(ctx, api.PutSecret.Info(), key)
	return publicSecret(e), nil
}

func holderValue(tenant, owner string) string { return tenant + "/" + owner }

func publicSecret(e bus.Entry[secretRecord]) api.Secret {
	out := e.State.Secret
	out.Rev = e.Rev
	return out
}

// audited has an act on secrets recorded, by name.
func (s *Service) audited(ctx context.Context, op api.OpInfo, key bus.Key) {
	p, _ := api.PrincipalFrom(ctx)
	s.log.Info("secret", "op", op.Name(), "tenant", key.Tenant, "actor", p.ID, "object", key.ID)
	if s.deps.Acted != nil {
		s.deps.Acted(ctx, op, key.ID)
	}
}

func (s *Service) listSecrets(ctx context.Context, req api.ListSecretsRequest) (api.Page[api.Secret], error) {
	page := api.Page[api.Secret]{Items: []api.Secret{}}
	p, _ := api.PrincipalFrom(ctx)
	owner, err := holder(p, req.Scope, api.SecretRead)
	if err != nil {
		return page, err
	}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorSecrets, req.Cursor)
	if err != nil {
		return page, err
	}
	entries := s.secretView.List(indexHolder, holderValue(p.Tenant, owner), before, limit+1, nil)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = api.EncodeCursor(cursorSecrets, entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, publicSecret(e))
	}
	return page, nil
}

func (s *Service) deleteSecret(ctx context.Context, req api.SecretRequest) (api.None, error) {
	p, _ := api.PrincipalFrom(ctx)
	owner, err := holder(p, req.Scope, api.SecretWrite)
	if err != nil {
		return api.None{}, err
	}
	missing := api.Errorf(api.CodeNotFound, "there is no secret %q", clip(req.Name, maxSecretName))
	if !validSecretName(req.Name) {
		return api.None{}, missing
	}
	key := secretKey(p.Tenant, owner, req.Name)
	if _, err := s.secrets.Get(ctx, key); err != nil {
		if api.CodeOf(err) == api.CodeNotFound {
			return api.None{}, missing
		}
		return api.None{}, err
	}
	if err := s.secrets.Delete(ctx, key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"}); err != nil {
		return api.None{}, err
	}
	s.audited(ctx, api.DeleteSecret.Info(), key)
	return api.None{}, nil
}

// sealed returns the entry of a secret of owner, or of the tenant, as scope says.
func (s *Service) sealed(ctx context.Context, tenant, owner string, scope api.Scope, name string) (bus.Entry[secretRecord], error) {
	var holders []string
	if scope != api.ScopeTenant {
		holders = append(holders, owner)
	}
	if scope != api.ScopeUser {
		holders = append(holders, "")
	}
	for _, h := range holders {
		key := secretKey(tenant, h, name)
		if e, ok := s.secretView.Get(key); ok {
			return e, nil
		}
		e, err := s.secrets.Get(ctx, key) // perhaps stored just now, with another replica
		if err == nil || api.CodeOf(err) != api.CodeNotFound {
			return e, err
		}
	}
	return bus.Entry[secretRecord]{}, api.Errorf(api.CodeNotFound, "there is no secret %q", clip(name, maxSecretName))
}

// secret returns a secret's value.
func (s *Service) secret(ctx context.Context, tenant, owner string, scope api.Scope, name string) ([]byte, error) {
	e, err := s.sealed(ctx, tenant, owner, scope, name)
	if err != nil {
		return nil, err
	}
	value, err := s.keys.Open(secretPlace(e.Key), e.State.Value)
	if err != nil {
		return nil, fmt.Errorf("open secret %q: %w", name, err)
	}
	return value, nil
}

// reseal seals anew what an older key has sealed, once a term, so that the older key can be taken away.
func (s *Service) reseal(ctx context.Context) {
	meta := bus.Meta{Actor: actor, Verb: "reseal"}
	n := resealAll(ctx, s, s.secretView, func(r secretRecord) bool { return s.keys.Stale(r.Value) }, func(key bus.Key) error {
		_, err := s.secrets.Update(ctx, key, meta, func(r secretRecord) (secretRecord, error) {
			box, err := s.resealBox(secretPlace(key), r.Value)
			r.Value = box
			return r, err
		})
		return err
	})
	n += resealAll(ctx, s, s.credentialView, func(r credentialRecord) bool { return s.keys.Stale(r.Value) }, func(key bus.Key) error {
		_, err := s.credentials.Update(ctx, key, meta, func(r credentialRecord) (credentialRecord, error) {
			box, err := s.resealBox(credentialPlace(key), r.Value)
			r.Value = box
			return r, err
		})
		return err
	})
	if n > 0 {
		s.log.Info("sealed with the newest key", "entries", n)
	}
}

func (s *Service) resealBox(place string, b seal.Box) (seal.Box, error) {
	if !s.keys.Stale(b) {
		return b, bus.ErrUnchanged
	}
	plain, err := s.keys.Open(place, b)
	if err != nil {
		return b, err
	}
	return s.keys.Seal(place, plain)
}

// resealAll calls reseal for each entry of v that is stale, and returns for how many it worked.
func resealAll[T any](ctx context.Context, s *Service, v *bus.View[T], stale func(T) bool, reseal func(bus.Key) error) (n int) {
	var keys []bus.Key
	v.All(func(e bus.Entry[T]) bool {
		if stale(e.State) {
			keys = append(keys, e.Key)
		}
		return true
	})
	for _, key := range keys {
		if ctx.Err() != nil {
			return n
		}
		if err := reseal(key); err != nil {
			s.log.Warn("seal with the newest key", "tenant", key.Tenant, "object", key.ID, "code", api.CodeOf(err), "err", err)
			continue
		}
		n++
	}
	return n
}
