package trust

import (
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// The two ledgers.
const (
	JWKSNoun    = "jwks"
	RevokedNoun = "revoked"
)

// RevokedMaxAge is how long a revocation is kept. No access token may live longer (auth refuses a longer -auth.token-ttl).
const RevokedMaxAge = 2 * time.Hour

// MaxTokenTTL bounds an access token's life, so that a revocation outlives every token that it revokes.
const MaxTokenTTL = RevokedMaxAge / 2

// What a revocation names.
const (
	KindKey    = "key"
	KindUser   = "user"
	KindTenant = "tenant"
)

// KeySet is the state of the JWKS ledger's only entity (KeySetKey).
type KeySet struct {
	Keys []PublicKey `json:"keys"`
}

// KeySetKey names the entity that holds the key set.
var KeySetKey = bus.Key{Tenant: "yard", ID: "set"}

// PublicKey is one key that verifies access tokens.
type PublicKey struct {
	JWK      api.JWK   `json:"jwk"`
	SignFrom time.Time `json:"sign_from"` // no token is signed with it before
	// RetireAt is when its last token has expired; zero while no successor is known.
	RetireAt time.Time `json:"retire_at,omitzero"`
}

// Revocation is one entity of the REVOKED ledger; see RevocationKey.
type Revocation struct {
	Kind string `json:"kind"`
	ID   string `json:"id"` // of the key or the user; the tenant's name
	// Active revokes every token whenever it was issued: the key is revoked, the user or the tenant is disabled or gone.
	Active bool `json:"active,omitempty"`
	// Before revokes the tokens issued at or before it: the user's roles changed, or it was enabled again.
	Before time.Time `json:"before"`
}

// RevocationKey returns the ledger key of a revocation: one entity per kind and id, in the tenant that it concerns.
func RevocationKey(tenant, kind, id string) bus.Key {
	return bus.Key{Tenant: tenant, ID: kind + "-" + id}
}
