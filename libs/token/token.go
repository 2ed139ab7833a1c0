// Package token mints and verifies agentyard's access tokens: EdDSA-signed JWTs in the profile of RFC 9068
// (typ "at+jwt", iss, aud, sub, exp, iat, jti), which carry an api.Principal.
//
// It is the only home of golang-jwt.
package token

import (
	"context"
	"crypto/ed25519"
	"time"

	"agentyard.dev/libs/api"
)

// Issuer and Audience of every access token of a yard.
const (
	Issuer   = "agentyard"
	Audience = "agentyard"
)

// SigningKey is one Ed25519 key with its id (RFC 7638 thumbprint) and the time from which it signs; a key verifies from its creation
// until all tokens that it could have signed have expired.
type SigningKey struct {
	ID        string             `json:"id"`
	Private   ed25519.PrivateKey `json:"private"`
	CreatedAt time.Time          `json:"created_at"`
	SignFrom  time.Time          `json:"sign_from"`
	RetireAt  time.Time          `json:"retire_at"` // verifies until then
}

// NewSigningKey returns a fresh key.
func NewSigningKey(createdAt, signFrom, retireAt time.Time) (SigningKey, error) { panic("todo") }

// JWK returns the public half.
func (k SigningKey) JWK() api.JWK { panic("todo") }

// Mint signs an access token for p that lives for ttl from now.
func Mint(k SigningKey, p api.Principal, now time.Time, ttl time.Duration) (string, error) {
	panic("todo")
}

// KeySource returns the public keys that verify now, by key id.
type KeySource interface {
	VerifyingKeys() map[string]ed25519.PublicKey
}

// Revocations tells whether a principal's token is revoked: by its key, its user or its tenant.
type Revocations interface {
	Revoked(p api.Principal, issuedAt time.Time) bool
}

// Verifier verifies access tokens and caches the verdict by the token's SHA-256 until it expires; the cache is bounded
// and revocation is asked on each call, cached or not.
type Verifier struct{}

// NewVerifier returns a verifier. revoked may be nil. now is the clock (nil: time.Now).
func NewVerifier(keys KeySource, revoked Revocations, now func() time.Time) *Verifier { panic("todo") }

// Verify returns the principal of a raw token, or an unauthenticated error. It accepts EdDSA only and requires
// kid, typ, iss, aud, sub, exp and iat; leeway 5 s.
func (v *Verifier) Verify(ctx context.Context, raw string) (api.Principal, error) { panic("todo") }

// ParseJWKS returns the Ed25519 keys of a set; entries of another type are passed over.
func ParseJWKS(set api.JWKSResponse) (map[string]ed25519.PublicKey, error) { panic("todo") }

type rawKey struct{}

// WithRaw returns a context that carries the caller's raw access token onward.
func WithRaw(ctx context.Context, raw string) context.Context {
	return context.WithValue(ctx, rawKey{}, raw)
}

// Raw returns the raw access token that ctx carries, or "".
func Raw(ctx context.Context) string { s, _ := ctx.Value(rawKey{}).(string); return s }
