package bus

import (
	"crypto/hkdf"
	"crypto/sha256"
)

// DeriveKey returns 32 bytes that belong to the issuer and a purpose, for a service that needs a key of its own and was given no other.
// They tell nothing about the issuer's own key or those of other purposes.
func (i *SessionIssuer) DeriveKey(purpose string) ([]byte, error) {
	seed, err := i.key.Seed()
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, seed, nil, "agentyard derived key "+purpose, 32)
}
