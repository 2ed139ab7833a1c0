package auth

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/trust"
)

// What ends tokens is decided in the entity itself: a key has RevokedAt, a user and a tenant have an Epoch, set in the write that disabled,
// deleted or changed them. REVOKED, which every service follows, is derived from that: by the operation before it
// answers, and again by the leader in case the operation was cut short. So one write decides, and a crash delays it by seconds.

// ensureRevoked makes REVOKED say that the tokens of kind and id are revoked: all of them while active, else those issued until now, which
// is after the decision at epoch was written. Tokens of a decision older than RevokedMaxAge have expired.
func (s *Service) ensureRevoked(ctx context.Context, tenant, kind, id string, active bool, epoch time.Time) error {
	now := s.now()
	if epoch.IsZero() || now.Sub(epoch) > trust.RevokedMaxAge {
		return nil
	}
	if r, ok := s.trust.Revocation(kind, id); ok && r.Active == active && !r.Before.Before(epoch) {
		return nil
	}
	before := now
	if before.Before(epoch) {
		before = epoch // decided by a replica whose clock is ahead
	}
	e, err := put(ctx, s.revoked, trust.RevocationKey(tenant, kind, id), bus.Meta{Actor: "service:auth", Verb: "revoke"},
		func(old trust.Revocation) (trust.Revocation, error) {
			if before.Before(old.Before) {
				before = old.Before
			}
			return trust.Revocation{Kind: kind, ID: id, Active: active, Before: before}, nil
		})
	if err != nil {
		return err
	}
	s.trust.Apply(e)
	return nil
}

func (s *Service) ensureKeyRevoked(ctx context.Context, k keyRecord) error {
	if k.RevokedAt == nil {
		return nil
	}
	return s.ensureRevoked(ctx, k.Tenant, trust.KindKey, k.ID, true, *k.RevokedAt)
}

// ensureUserRevoked also revokes the keys of a deleted user.
func (s *Service) ensureUserRevoked(ctx context.Context, u userRecord) error {
	if err := s.ensureRevoked(ctx, u.Tenant, trust.KindUser, u.ID, u.Disabled || u.Deleted, u.Epoch); err != nil {
		return err
	}
	if !u.Deleted {
		return nil
	}
	for _, e := range s.keys.view.List(byLive, u.Tenant+"/"+u.ID, 0, maxUserKeys, nil) {
		if _, err := s.endKey(ctx, e.Key, 0, bus.Meta{Actor: "service:auth", Verb: "revoke", Reason: "user deleted"}); err != nil && !isCode(err, api.CodeNotFound) {
			return err
		}
	}
	return nil
}

func (s *Service) ensureTenantRevoked(ctx context.Context, t tenantRecord) error {
	return s.ensureRevoked(ctx, t.Name, trust.KindTenant, t.Name, t.Disabled, t.Epoch)
}

// repairBatch bounds what one repair of one noun looks at; tokens are revoked far less often.
const repairBatch = 10_000

// repair completes operations that were cut short between their decision and its publication.
func (s *Service) repair(ctx context.Context) error {
	since := s.now().Add(-trust.RevokedMaxAge)
	for _, e := range s.tenants.view.List(byRevoked, "", 0, repairBatch, func(e bus.Entry[tenantRecord]) bool { return e.State.Epoch.After(since) }) {
		if err := s.ensureTenantRevoked(ctx, e.State); err != nil {
			return err
		}
	}
	for _, e := range s.users.view.List(byRevoked, "", 0, repairBatch, func(e bus.Entry[userRecord]) bool { return e.State.Epoch.After(since) }) {
		if err := s.ensureUserRevoked(ctx, e.State); err != nil {
			return err
		}
	}
	for _, e := range s.keys.view.List(byRevoked, "", 0, repairBatch, func(e bus.Entry[keyRecord]) bool { return e.State.RevokedAt.After(since) }) {
		if err := s.ensureKeyRevoked(ctx, e.State); err != nil {
			return err
		}
	}
	return nil
}
