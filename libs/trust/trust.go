// Package trust keeps in memory what a service needs to believe an access token: the public keys that verify now (ledger JWKS) and what
// was revoked lately (ledger REVOKED). The auth service writes both ledgers; every service follows them, so a revocation
// is in force everywhere within a second and no request costs a round trip.
//
//	keys := trust.New(conn, logger)
//	d.Add("trust", keys.Run)
//	verifier := token.NewVerifier(keys, keys, nil)
package trust

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/token"
)

// Store follows both ledgers. It implements token.KeySource and token.Revocations; all methods may be called at the same time.
// Before Ready it knows no key, so nothing verifies.
type Store struct {
	// Now is the clock by which keys retire; set it before Run, if at all.
	Now func() time.Time

	keySets  *bus.View[KeySet]
	revoked  *bus.View[Revocation]
	logger   *slog.Logger
	ready    chan struct{}
	someKey  chan struct{} // closed by the first key set that has a key
	gotKey   sync.Once
	onRevoke []func(kind, id string)

	published atomic.Pointer[KeySet]
	verifying atomic.Pointer[verifying]

	mu          sync.RWMutex
	revocations map[string]kept // by kind + "-" + id
	nextPrune   time.Time
}

// verifying is the keys that verify until a time, computed once for all the requests before it.
type verifying struct {
	keys  map[string]ed25519.PublicKey
	until time.Time // zero: for ever
}

// kept is a revocation with the time after which every token that it revokes has expired.
type kept struct {
	Revocation
	until time.Time
}

// New returns a store that knows nothing yet.
func New(c *bus.Conn, logger *slog.Logger) *Store {
	s := &Store{
		Now:         time.Now,
		logger:      logger,
		ready:       make(chan struct{}),
		someKey:     make(chan struct{}),
		revocations: map[string]kept{},
	}
	s.published.Store(&KeySet{})
	s.keySets = bus.ReadLedger[KeySet](c, JWKSNoun).View(bus.ViewConfig[KeySet]{OnChange: s.keysChanged})
	s.revoked = bus.ReadLedger[Revocation](c, RevokedNoun).View(bus.ViewConfig[Revocation]{OnChange: s.revocationChanged})
	return s
}

// Run follows the ledgers until ctx ends. It waits for a bus or an auth service that is not there yet.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 2)
	go func() { errs <- s.keySets.Run(ctx) }()
	go func() { errs <- s.revoked.Run(ctx) }()
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		for _, loaded := range []<-chan struct{}{s.keySets.Ready(), s.revoked.Ready(), s.someKey} {
			select {
			case <-loaded:
			case <-ctx.Done():
				return
			}
		}
		close(s.ready)
	}()
	err := <-errs
	cancel()
	<-errs //nolint:errcheck // the first one says why
	<-announced
	if err != nil {
		return fmt.Errorf("follow keys and revocations: %w", err)
	}
	return nil
}

// Ready is closed when the store holds what both ledgers held when Run began, and at least one key.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Check is a readiness check: nil once Ready is closed.
func (s *Store) Check(context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
		return api.Errorf(api.CodeUnavailable, "the auth service has not published its keys yet")
	}
}

// VerifyingKeys returns the keys that verify now, by key id. The map is shared: do not modify it.
func (s *Store) VerifyingKeys() map[string]ed25519.PublicKey {
	now := s.Now()
	if v := s.verifying.Load(); v != nil && (v.until.IsZero() || now.Before(v.until)) {
		return v.keys
	}
	return s.computeVerifying(now)
}

// Published returns the key set as it was last seen: keys that do not sign yet and, for a while, retired ones included.
func (s *Store) Published() KeySet { return *s.published.Load() }

func (s *Store) computeVerifying(now time.Time) map[string]ed25519.PublicKey {
	set := s.published.Load()
	v := &verifying{}
	var jwks api.JWKSResponse
	for _, k := range set.Keys {
		if k.RetireAt.IsZero() {
			jwks.Keys = append(jwks.Keys, k.JWK)
			continue
		}
		if !now.Before(k.RetireAt) {
			continue
		}
		jwks.Keys = append(jwks.Keys, k.JWK)
		if v.until.IsZero() || k.RetireAt.Before(v.until) {
			v.until = k.RetireAt
		}
	}
	keys, err := token.ParseJWKS(jwks)
	if err != nil {
		// Only auth writes this ledger: a set that does not parse is a fault there, and no reason to believe anything.
		s.logger.Error("the published keys cannot be used; no token verifies", "err", err)
		keys = map[string]ed25519.PublicKey{}
	}
	v.keys = keys
	s.verifying.Store(v)
	if s.published.Load() != set {
		s.verifying.CompareAndSwap(v, nil) // a newer set came in between
	}
	return keys
}

func (s *Store) keysChanged(_ *bus.Entry[KeySet], now bus.Entry[KeySet]) {
	if now.Key != KeySetKey || now.Deleted {
		return
	}
	set := now.State
	s.published.Store(&set)
	s.verifying.Store(nil)
	if len(set.Keys) > 0 {
		s.gotKey.Do(func() { close(s.someKey) })
	}
}

// Revoked reports whether a token that was issued to p at issuedAt is revoked: by its key, its user or its tenant.
func (s *Store) Revoked(p api.Principal, issuedAt time.Time) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.revocations) == 0 {
		return false
	}
	return s.revokes(KindUser, p.ID, issuedAt) || s.revokes(KindTenant, p.Tenant, issuedAt) ||
		(p.Key != "" && s.revokes(KindKey, p.Key, issuedAt))
}

// revokes needs s.mu.
func (s *Store) revokes(kind, id string, issuedAt time.Time) bool {
	r, ok := s.revocations[kind+"-"+id]
	return ok && (r.Active || !issuedAt.After(r.Before))
}

// OnRevoke has f called for each revocation that is new to the store, with its kind (KindKey, KindUser, KindTenant) and the id of the key or user or
// the tenant's name, so that caches can drop what they hold. f must not block. Call it before Run.
func (s *Store) OnRevoke(f func(kind, id string)) { s.onRevoke = append(s.onRevoke, f) }

func (s *Store) revocationChanged(_ *bus.Entry[Revocation], now bus.Entry[Revocation]) {
	if now.Deleted {
		return // nothing deletes a revocation: it ages out
	}
	s.learn(now.State, now.At.Add(RevokedMaxAge))
}

// learn puts a revocation in force and forgets, now and then, those that outlived every token.
func (s *Store) learn(r Revocation, until time.Time) {
	s.mu.Lock()
	s.revocations[r.Kind+"-"+r.ID] = kept{Revocation: r, until: until}
	if now := s.Now(); now.After(s.nextPrune) {
		s.nextPrune = now.Add(RevokedMaxAge / 8)
		for name, old := range s.revocations {
			if now.After(old.until) {
				delete(s.revocations, name)
			}
		}
	}
	s.mu.Unlock()
	for _, f := range s.onRevoke {
		f(r.Kind, r.ID)
	}
}

// Apply puts a revocation that this process has just written in force, without waiting for it to come back.
func (s *Store) Apply(e bus.Entry[Revocation]) { s.revoked.Apply(e) }

// Revocation returns what the store knows to be revoked under kind and id.
func (s *Store) Revocation(kind, id string) (Revocation, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.revocations[kind+"-"+id]
	return r.Revocation, ok
}
