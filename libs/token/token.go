// Package token mints and verifies agentyard's access tokens: EdDSA-signed JWTs in the profile of RFC 9068
// (typ "at+jwt", iss, aud, sub, exp, iat, jti), which carry an api.Principal.
//
// It is the only home of golang-jwt.
package token

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"agentyard.dev/libs/api"
)

// Issuer and Audience of every access token of a yard.
const (
	Issuer   = "agentyard"
	Audience = "agentyard"
)

// mediaType is the header typ of an access token (RFC 9068 §2.1). It keeps a JWT that
// was signed for another purpose from passing as one.
const mediaType = "at+jwt"

// claims is a token's payload: the registered claims, of which sub is the principal's ID, and the rest of the principal.
type claims struct {
	jwt.RegisteredClaims
	Tenant string           `json:"tenant"`
	Name   string           `json:"name,omitempty"`
	Roles  []api.Role       `json:"roles,omitempty"`
	Key    string           `json:"key,omitempty"`
	Scopes []api.Permission `json:"scopes,omitempty"`
}

// SigningKey is one Ed25519 key with its id (RFC 7638 thumbprint) and the time from which it signs; a key verifies from its creation
// until all tokens that it could have signed have expired.
type SigningKey struct {
	ID        string             `json:"id"`
	Private   ed25519.PrivateKey `json:"private"`
	CreatedAt time.Time          `json:"created_at"`
	SignFrom  time.Time          `json:"sign_from"`
	RetireAt  time.Time          `json:"retire_at"` // verifies until then
}

// NewSigningKey returns a fresh key. signFrom should lie far enough after createdAt for every verifier to have
// fetched the public half before the first token appears.
func NewSigningKey(createdAt, signFrom, retireAt time.Time) (SigningKey, error) {
	if signFrom.Before(createdAt) || !retireAt.After(signFrom) {
		return SigningKey{}, errors.New("make a signing key: want created ≤ sign from < retire")
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SigningKey{}, fmt.Errorf("make a signing key: %w", err)
	}
	return SigningKey{
		ID: thumbprint(public), Private: private,
		CreatedAt: createdAt, SignFrom: signFrom, RetireAt: retireAt,
	}, nil
}

// Mint signs an access token for p that lives for ttl from now. It refuses a token that would outlive its key or come
// before the key signs, because some verifier would not take it.
func Mint(k SigningKey, p api.Principal, now time.Time, ttl time.Duration) (string, error) {
	switch {
	case len(k.Private) != ed25519.PrivateKeySize || k.ID == "":
		return "", errors.New("mint a token: the signing key is incomplete")
	case p.ID == "" || p.Tenant == "":
		return "", errors.New("mint a token: the principal has no id or no tenant")
	case ttl < time.Second:
		return "", fmt.Errorf("mint a token: a life of %v is shorter than a second", ttl)
	case now.Before(k.SignFrom):
		return "", fmt.Errorf("mint a token: key %s does not sign before %v", k.ID, k.SignFrom)
	case now.Add(ttl).After(k.RetireAt):
		return "", fmt.Errorf("mint a token: it would outlive key %s, which retires at %v", k.ID, k.RetireAt)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    Issuer,
			Audience:  jwt.ClaimStrings{Audience},
			Subject:   p.ID,
			ID:        rand.Text(),
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Tenant: p.Tenant, Name: p.Name, Roles: p.Roles, Key: p.Key, Scopes: p.Scopes,
	})
	t.Header["typ"] = mediaType
	t.Header["kid"] = k.ID
	raw, err := t.SignedString(k.Private)
	if err != nil {
		return "", fmt.Errorf("mint a token: %w", err)
	}
	return raw, nil
}

type rawKey struct{}

// WithRaw returns a context that carries the caller's raw access token onward.
func WithRaw(ctx context.Context, raw string) context.Context {
	return context.WithValue(ctx, rawKey{}, raw)
}

// Raw returns the raw access token that ctx carries, or "".
func Raw(ctx context.Context) string { s, _ := ctx.Value(rawKey{}).(string); return s }
