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
	"log/slog"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Store follows both ledgers. It implements token.KeySource and token.Revocations; all methods may be called at the same time.
// Before Ready it knows no key, so nothing verifies.
type Store struct{}

// New returns a store that knows nothing yet.
func New(c *bus.Conn, logger *slog.Logger) *Store { panic("todo") }

// Run follows the ledgers until ctx ends. It waits for a bus or an auth service that is not there yet.
func (s *Store) Run(ctx context.Context) error { panic("todo") }

// Ready is closed when the store holds what both ledgers held when Run began, and at least one key.
func (s *Store) Ready() <-chan struct{} { panic("todo") }

// VerifyingKeys returns the keys that verify now, by key id. The map is shared: do not modify it.
func (s *Store) VerifyingKeys() map[string]ed25519.PublicKey { panic("todo") }

// Revoked reports whether a token that was issued to p at issuedAt is revoked: by its key, its user or its tenant.
func (s *Store) Revoked(p api.Principal, issuedAt time.Time) bool { panic("todo") }

// OnRevoke has f called for each revocation that is new to the store, with its kind (KindKey, KindUser, KindTenant) and the id of the key or user or
// the tenant's name, so that caches can drop what they hold. f must not block. Call it before Run.
func (s *Store) OnRevoke(f func(kind, id string)) { panic("todo") }
