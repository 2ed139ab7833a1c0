package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// failureFloor is how long every failed exchange takes, whatever was wrong. It also covers the time in which a key that another
	// replica has just made arrives here.
	failureFloor = 150 * time.Millisecond
	// exchangeTimeout bounds one exchange; it waits at most about a second for itself.
	exchangeTimeout = 10 * time.Second
)

// errBadKey is all that a caller learns. Why is in the audit ledger.
func errBadKey() error {
	return api.Errorf(api.CodeUnauthenticated, "the API key is not valid; check it, or ask your administrator for a new one")
}

// refusal is why a key was refused, and whose it is, for the audit ledger only.
type refusal struct {
	key    keyRecord // zero when the key is unknown
	reason string
}

func (r *refusal) Error() string { return r.reason }

// exchange answers api.Exchange: an API key for an access token.
func (s *Service) exchange(ctx context.Context, req api.ExchangeRequest) (api.TokenResponse, error) {
	if req.Key == "" {
		return api.TokenResponse{}, api.Invalid("/key", "is required")
	}
	// On the process's clock: it is about what a caller can measure.
	floor, cancel := context.WithTimeout(ctx, failureFloor)
	defer cancel()
	if s.guard.spent(req.RemoteIP, s.now()) {
		cancel() // this remote's failures end at once: they hold nothing up, and each still takes as long as any other
	}
	k, err := s.authenticate(ctx, floor, req.Key)
	if err == nil {
		return s.issue(ctx, req, k)
	}
	var no *refusal
	if !errors.As(err, &no) {
		return api.TokenResponse{}, err // the bus is away: nothing about the key
	}
	if after := s.guard.fail(req.RemoteIP, s.now()); after > 0 {
		return api.TokenResponse{}, &api.Error{
			Code: api.CodeExhausted, RetryAfter: after,
			Detail: "too many failed sign-ins from this address; wait before you try again",
		}
	}
	s.audit.signInFailed(ctx, no, req.RemoteIP)
	<-floor.Done()
	return api.TokenResponse{}, errBadKey()
}

// authentic is a valid key with its user as they were read from the bus after at: whatever is revoked later also revokes what is
// issued for that time.
type authentic struct {
	key  keyRecord
	user userRecord
	at   time.Time
}

// authenticate returns a valid key, or a refusal. It waits for an unknown one until floor ends.
func (s *Service) authenticate(ctx, floor context.Context, text string) (authentic, error) {
	key, ok := parseAPIKey(text)
	if !ok {
		return authentic{}, &refusal{reason: "not an API key"}
	}
	hash := key.hash(s.pepper)
	found, ok := s.findKey(floor, key.lookup())
	if !ok {
		hmac.Equal(hash, make([]byte, sha256.Size))
		return authentic{}, &refusal{reason: "unknown key"}
	}
	if !hmac.Equal(hash, found.State.Hash) {
		return authentic{}, &refusal{found.State, "wrong secret"}
	}
	return s.current(ctx, found.Key, found.State.User)
}

// findKey looks a key up by its prefix. One that another replica has just made is waited for until floor ends.
func (s *Service) findKey(floor context.Context, lookup string) (bus.Entry[keyRecord], bool) {
	for {
		changed := s.keysChanged.wait()
		if found := s.keys.view.List(byLookup, lookup, 0, 1, nil); len(found) > 0 {
			return found[0], true
		}
		select {
		case <-changed:
		case <-floor.Done():
			return bus.Entry[keyRecord]{}, false
		}
	}
}

// current reads a key, its user and its tenant from the bus, all at once, and refuses what is not valid now.
func (s *Service) current(ctx context.Context, id bus.Key, user string) (authentic, error) {
	a := authentic{at: s.now()}
	var tenant tenantRecord
	var errs [3]error
	var wg sync.WaitGroup
	wg.Go(func() { a.key, errs[0] = state(ctx, s.keys.Ledger, id) })
	wg.Go(func() { a.user, errs[1] = state(ctx, s.users.Ledger, bus.Key{Tenant: id.Tenant, ID: user}) })
	wg.Go(func() { tenant, errs[2] = state(ctx, s.tenants.Ledger, tenantKey(id.Tenant)) })
	wg.Wait()
	for _, err := range errs {
		if err != nil && !isCode(err, api.CodeNotFound) {
			return authentic{}, err
		}
	}
	why := ""
	switch {
	case errs[0] != nil:
		why = "unknown key"
	case a.key.RevokedAt != nil:
		why = "key revoked"
	case a.key.ExpiresAt != nil && a.key.ExpiresAt.Sub(a.at) < time.Second:
		why = "key expired"
	case errs[1] != nil || a.user.Deleted:
		why = "user deleted"
	case a.user.Disabled:
		why = "user disabled"
	case errs[2] != nil:
		why = "tenant does not exist"
	case tenant.Disabled:
		why = "tenant disabled"
	}
	if why != "" {
		return authentic{}, &refusal{a.key, why}
	}
	return a, nil
}

func state[T any](ctx context.Context, l *bus.Ledger[T], key bus.Key) (T, error) {
	e, err := l.Get(ctx, key)
	return e.State, err
}

// issue mints the token.
func (s *Service) issue(ctx context.Context, req api.ExchangeRequest, a authentic) (api.TokenResponse, error) {
	scopes, err := narrow(a.key.Scopes, req.Scopes)
	if err != nil {
		return api.TokenResponse{}, err
	}
	// A token's time has whole seconds. One of the second in which its user's tokens were revoked could not be told from
	// those, so it waits for the next.
	p := a.principal(scopes)
	for try := 0; s.trust.Revoked(p, a.at.Truncate(time.Second)); try++ {
		if try == 2 {
			return api.TokenResponse{}, &api.Error{Code: api.CodeUnavailable, RetryAfter: time.Second, Detail: "what this key may do is being changed; try again"}
		}
		select {
		case <-time.After(a.at.Truncate(time.Second).Add(time.Second).Sub(a.at)):
		case <-ctx.Done():
			return api.TokenResponse{}, ctx.Err()
		}
		if a, err = s.current(ctx, bus.Key{Tenant: p.Tenant, ID: p.Key}, p.ID); err != nil {
			if no := (*refusal)(nil); errors.As(err, &no) {
				s.audit.signInFailed(ctx, no, req.RemoteIP)
				err = errBadKey()
			}
			return api.TokenResponse{}, err
		}
		p = a.principal(scopes)
	}
	ttl := s.cfg.TokenTTL
	if a.key.ExpiresAt != nil {
		ttl = min(ttl, a.key.ExpiresAt.Sub(a.at))
	}
	raw, life, err := s.signing.mint(p, a.at, ttl)
	if err != nil {
		return api.TokenResponse{}, err
	}
	s.usage.touch(bus.Key{Tenant: p.Tenant, ID: p.Key}, a.at)
	s.audit.signedIn(ctx, p, req.RemoteIP)
	return api.TokenResponse{AccessToken: raw, TokenType: "Bearer", ExpiresIn: int(life / time.Second), Principal: p}, nil
}

func (a authentic) principal(scopes []api.Permission) api.Principal {
	return api.Principal{
		ID: a.user.ID, Tenant: a.user.Tenant, Name: a.user.Name, Roles: a.user.Roles, Key: a.key.ID, Scopes: scopes,
	}
}

// narrow returns the scopes of a token: those asked for, all of which the key must have, or the key's.
func narrow(key, asked []api.Permission) ([]api.Permission, error) {
	if len(asked) == 0 {
		return key, nil
	}
	if err := checkScopes(asked); err != nil {
		return nil, err
	}
	for i, scope := range asked {
		if len(key) > 0 && !slices.Contains(key, scope) {
			return nil, api.Invalid(scopePointer(i), "the key does not have the scope %s", scope)
		}
	}
	return asked, nil
}
