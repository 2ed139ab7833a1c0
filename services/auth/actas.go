package auth

import (
	"context"
	"fmt"
	"slices"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// actAs is who may act for others: it runs what they asked for, later.
	actAs = "service:scheduler"
	// maxActAs bounds the life of such a token. The scheduler asks again.
	maxActAs   = 5 * time.Minute
	maxPurpose = 200
)

// actAs answers api.ActAs: a token for a principal who is not there, limited to scopes. The caller proved by its subject that it is the
// scheduler. The principal must exist now and be allowed to sign in, so whoever is disabled has no work done any more. The audit
// record names the principal, and what for.
func (s *Service) actAs(ctx context.Context, req api.ActAsRequest) (api.TokenResponse, error) {
	asks, _ := api.PrincipalFrom(ctx)
	if asks.ID != actAs {
		return api.TokenResponse{}, api.Errorf(api.CodeDenied, "only the scheduler may act for others")
	}
	if len(req.Scopes) == 0 {
		return api.TokenResponse{}, api.Invalid("/scopes", "is required")
	}
	if err := checkScopes(req.Scopes); err != nil {
		return api.TokenResponse{}, err
	}
	if !api.ValidName(req.Tenant) || !api.ValidID(api.KindUser, req.User) {
		return api.TokenResponse{}, api.Errorf(api.CodeDenied, "there is no such principal")
	}
	if len(req.Purpose) > maxPurpose {
		return api.TokenResponse{}, api.Invalid("/purpose", "must be at most %d bytes", maxPurpose)
	}
	for try := 0; ; try++ {
		at := s.now()
		user, err := s.mayAct(ctx, req)
		if err != nil {
			return api.TokenResponse{}, err
		}
		p := api.Principal{ID: user.ID, Tenant: user.Tenant, Name: user.Name, Roles: user.Roles, Scopes: slices.Clone(req.Scopes)}
		if !s.trust.Revoked(p, at.Truncate(time.Second)) {
			return s.mintActAs(asks, p, at, req.Purpose)
		}
		if try == 2 {
			return api.TokenResponse{}, &api.Error{Code: api.CodeUnavailable, RetryAfter: time.Second, Detail: "what this principal may do is being changed; try again"}
		}
		select { // as in issue
		case <-time.After(at.Truncate(time.Second).Add(time.Second).Sub(at)):
		case <-ctx.Done():
			return api.TokenResponse{}, ctx.Err()
		}
	}
}

// mayAct reads the principal from the bus: denied unless it could sign in now.
func (s *Service) mayAct(ctx context.Context, req api.ActAsRequest) (userRecord, error) {
	user, err := state(ctx, s.users.Ledger, bus.Key{Tenant: req.Tenant, ID: req.User})
	if err != nil && !isCode(err, api.CodeNotFound) {
		return userRecord{}, err
	}
	gone := err != nil
	tenant, err := state(ctx, s.tenants.Ledger, tenantKey(req.Tenant))
	if err != nil && !isCode(err, api.CodeNotFound) {
		return userRecord{}, err
	}
	why := ""
	switch {
	case gone || user.Deleted:
		why = "the user does not exist any more"
	case user.Disabled:
		why = "the user is disabled"
	case err != nil || tenant.Disabled:
		why = "the organisation is disabled"
	}
	if why != "" {
		return userRecord{}, api.Errorf(api.CodeDenied, "%s", why)
	}
	return user, nil
}

func (s *Service) mintActAs(asks, p api.Principal, at time.Time, purpose string) (api.TokenResponse, error) {
	raw, life, err := s.signing.mint(p, at, min(s.cfg.TokenTTL, maxActAs))
	if err != nil {
		return api.TokenResponse{}, fmt.Errorf("act for %s: %w", p.ID, err)
	}
	s.audit.see(sighting{window: signInWindow, quiet: true, rec: api.AuditRecord{
		At: at, Tenant: p.Tenant, Actor: asks.ID, Action: api.ActAs.Info().Name(), Object: p.ID, Outcome: outcomeOK, Detail: purpose,
	}})
	return api.TokenResponse{AccessToken: raw, TokenType: "Bearer", ExpiresIn: int(life / time.Second), Principal: p}, nil
}
