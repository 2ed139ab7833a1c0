package token

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
)

// base64URL is JOSE's: unpadded, and strict so that each key has one spelling.
var base64URL = base64.RawURLEncoding.Strict()

// maxJWKS bounds a key set; a yard has two or three keys at a time.
const maxJWKS = 64

// JWK returns the public half (RFC 8037).
func (k SigningKey) JWK() api.JWK {
	public, _ := k.Private.Public().(ed25519.PublicKey)
	return api.JWK{
		KeyType: "OKP", Curve: "Ed25519", X: base64URL.EncodeToString(public),
		ID: k.ID, Use: "sig", Algorithm: "EdDSA",
	}
}

// thumbprint returns the RFC 7638 thumbprint of an Ed25519 key (RFC 8037 §2: crv, kty, x).
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64URL.EncodeToString(public) + `"}`))
	return base64URL.EncodeToString(sum[:])
}

// ParseJWKS returns the Ed25519 signature keys of a set by key id; entries of another type, use or algorithm are passed over. A
// broken Ed25519 entry, one without kid, two keys under one kid, or more than 64 entries make it fail: a set is
// taken whole or not at all.
func ParseJWKS(set api.JWKSResponse) (map[string]ed25519.PublicKey, error) {
	if len(set.Keys) > maxJWKS {
		return nil, fmt.Errorf("parse key set: %d keys, want at most %d", len(set.Keys), maxJWKS)
	}
	keys := make(map[string]ed25519.PublicKey, len(set.Keys))
	for i, k := range set.Keys {
		if k.KeyType != "OKP" || k.Curve != "Ed25519" ||
			(k.Use != "" && k.Use != "sig") || (k.Algorithm != "" && k.Algorithm != "EdDSA") {
			continue
		}
		if k.ID == "" {
			return nil, fmt.Errorf("parse key set: key %d has no kid", i)
		}
		x, err := base64URL.DecodeString(k.X)
		if err != nil {
			return nil, fmt.Errorf("parse key set: x of key %q: %w", k.ID, err)
		}
		if len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("parse key set: x of key %q has %d bytes, want %d", k.ID, len(x), ed25519.PublicKeySize)
		}
		if other, ok := keys[k.ID]; ok && !bytes.Equal(other, x) {
			return nil, fmt.Errorf("parse key set: two keys have kid %q", k.ID)
		}
		keys[k.ID] = x
	}
	return keys, nil
}

// KeySet is the signing keys of a yard, in no order. Its methods are the rule of rotation: a key is published from its
// creation, signs from SignFrom until a newer one does, and verifies until RetireAt.
type KeySet []SigningKey

// Signer returns the key that signs at now: of those that sign already and are not retired, the one that began last.
func (s KeySet) Signer(now time.Time) (SigningKey, bool) {
	var best SigningKey
	for _, k := range s {
		if k.SignFrom.After(now) || !k.RetireAt.After(now) {
			continue
		}
		if best.ID == "" || k.SignFrom.After(best.SignFrom) {
			best = k
		}
	}
	return best, best.ID != ""
}

// Verifying returns the public keys that verify at now, by key id.
func (s KeySet) Verifying(now time.Time) map[string]ed25519.PublicKey {
	keys := make(map[string]ed25519.PublicKey, len(s))
	for _, k := range s {
		if public, ok := k.Private.Public().(ed25519.PublicKey); ok && k.RetireAt.After(now) {
			keys[k.ID] = public
		}
	}
	return keys
}

// JWKS returns the key set to publish at now: the keys that verify, those that do not sign yet included.
func (s KeySet) JWKS(now time.Time) api.JWKSResponse {
	set := api.JWKSResponse{Keys: []api.JWK{}}
	for _, k := range s {
		if k.RetireAt.After(now) {
			set.Keys = append(set.Keys, k.JWK())
		}
	}
	return set
}
