package token

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"agentyard.dev/libs/api"
)

const (
	// leeway is how far two machines' clocks may be apart.
	leeway = 5 * time.Second
	// maxRaw bounds a token before anything looks into it; a real one has about 500 bytes.
	maxRaw = 8 << 10
	// The cache is split so that concurrent requests rarely meet at one lock: 16 × 2,048 verdicts of
	// about 400 bytes are 13 MB at most.
	cacheShards   = 16
	cachePerShard = 2048
)

// KeySource returns the public keys that verify now, by key id. It is asked on each verification, cached or not, so
// it must be cheap; the map is not modified by anyone after it was returned.
type KeySource interface {
	VerifyingKeys() map[string]ed25519.PublicKey
}

// Revocations tells whether a principal's token is revoked: by its key, its user or its tenant. issuedAt has whole
// seconds: a token that was issued in the second of a revocation may be older or newer than it.
type Revocations interface {
	Revoked(p api.Principal, issuedAt time.Time) bool
}

// Verifier verifies access tokens and caches the verdict by the token's SHA-256 until it expires; the cache is bounded
// and revocation is asked on each call, cached or not. A key that has left the KeySource verifies nothing any more,
// cached or not. Its methods may be called at the same time.
type Verifier struct {
	keys    KeySource
	revoked Revocations
	now     func() time.Time
	parser  *jwt.Parser
	cache   [cacheShards]*lru.Cache[[sha256.Size]byte, *verdict]
}

// verdict is a token that was found good: everything that can still change is asked again.
type verdict struct {
	principal api.Principal
	issuedAt  time.Time
	expiresAt time.Time
	keyID     string
	key       ed25519.PublicKey
}

// NewVerifier returns a verifier. revoked may be nil. now is the clock (nil: time.Now).
func NewVerifier(keys KeySource, revoked Revocations, now func() time.Time) *Verifier {
	if now == nil {
		now = time.Now
	}
	v := &Verifier{keys: keys, revoked: revoked, now: now}
	v.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(Issuer),
		jwt.WithAudience(Audience),
		jwt.WithIssuedAt(),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(now),
		jwt.WithStrictDecoding(),
	)
	for i := range v.cache {
		// New fails only for a size that is not positive.
		v.cache[i], _ = lru.New[[sha256.Size]byte, *verdict](cachePerShard)
	}
	return v
}

// Verify returns the principal of a raw token, or an unauthenticated error; unavailable while no key is known at
// all, as in a service that has just started. It accepts EdDSA only and requires
// kid, typ, iss, aud, sub, tenant, exp and iat; leeway 5 s. The principal's slices are shared with other callers: do not
// modify them.
func (v *Verifier) Verify(_ context.Context, raw string) (api.Principal, error) {
	if raw == "" {
		return api.Principal{}, unauthenticated("no access token was presented; send Authorization: Bearer <token>", nil)
	}
	if len(raw) > maxRaw {
		return api.Principal{}, unauthenticated(invalidToken, errors.New("longer than 8 KiB"))
	}
	sum := sha256.Sum256([]byte(raw))
	shard := v.cache[sum[0]%cacheShards]
	good, ok := shard.Get(sum)
	if !ok {
		var err error
		if good, err = v.check(raw); err != nil {
			if len(v.keys.VerifyingKeys()) == 0 {
				return api.Principal{}, &api.Error{
					Code: api.CodeUnavailable, RetryAfter: time.Second, Cause: err,
					Detail: "this service does not know the keys of access tokens yet; try again in a moment",
				}
			}
			return api.Principal{}, err
		}
		shard.Add(sum, good)
	} else if err := v.recheck(good); err != nil {
		shard.Remove(sum)
		return api.Principal{}, err
	}
	if v.revoked != nil && v.revoked.Revoked(good.principal, good.issuedAt) {
		return api.Principal{}, unauthenticated("the access token was revoked; present a valid API key again", nil)
	}
	return good.principal, nil
}

// recheck asks what may have changed since a verdict was cached.
func (v *Verifier) recheck(good *verdict) error {
	if !v.now().Before(good.expiresAt.Add(leeway)) {
		return unauthenticated(expiredToken, nil)
	}
	if key, ok := v.keys.VerifyingKeys()[good.keyID]; !ok || !key.Equal(good.key) {
		return unauthenticated(expiredToken, errors.New("its key is retired"))
	}
	return nil
}

// check verifies a token in full.
func (v *Verifier) check(raw string) (*verdict, error) {
	var c claims
	var good verdict
	_, err := v.parser.ParseWithClaims(raw, &c, func(t *jwt.Token) (any, error) {
		// RFC 9068 §4: both spellings, and no other type.
		if typ, _ := t.Header["typ"].(string); typ != mediaType && typ != "application/"+mediaType {
			return nil, errors.New("typ is not " + mediaType)
		}
		// RFC 7515 §4.1.11: an extension that is critical and not understood invalidates the token.
		if _, ok := t.Header["crit"]; ok {
			return nil, errors.New("crit names an unknown extension")
		}
		good.keyID, _ = t.Header["kid"].(string)
		if good.keyID == "" {
			return nil, errors.New("kid is missing")
		}
		key, ok := v.keys.VerifyingKeys()[good.keyID]
		if !ok {
			return nil, errors.New("kid is unknown")
		}
		good.key = key
		return key, nil
	})
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, unauthenticated(expiredToken, err)
	case err != nil:
		return nil, unauthenticated(invalidToken, err)
	case c.Subject == "" || c.Tenant == "" || c.IssuedAt == nil:
		return nil, unauthenticated(invalidToken, errors.New("sub, tenant or iat is missing"))
	}
	good.issuedAt, good.expiresAt = c.IssuedAt.Time, c.ExpiresAt.Time
	good.principal = api.Principal{
		ID: c.Subject, Tenant: c.Tenant, Name: c.Name, Key: c.Key,
		// Clipped, so that a caller's append does not write into another's slice.
		Roles: slices.Clip(c.Roles), Scopes: slices.Clip(c.Scopes),
	}
	return &good, nil
}

// What a person reads; why exactly stays in the process.
const (
	invalidToken = "the access token is not valid here; exchange your API key for a new one"
	expiredToken = "the access token has expired; exchange your API key for a new one"
)

func unauthenticated(detail string, cause error) error {
	return &api.Error{Code: api.CodeUnauthenticated, Detail: detail, Cause: cause}
}
