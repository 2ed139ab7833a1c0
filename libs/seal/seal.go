// Package seal encrypts small values for the ledger: secrets and credentials, which must not be readable in what the bus stores, copies
// or backs up.
//
// Each value has an AES-256-GCM key of its own, derived by HKDF-SHA-256 (RFC 5869) from one of the yard's keys and a random salt,
// so no two values share a key and no nonce can repeat. What the value is and whose is bound to it: a box that is moved
// to another entry does not open there. A box names the key that it was made with, so keys can be replaced one after the other.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"agentyard.dev/libs/api"
)

const (
	keySize  = 32
	saltSize = 32
	purpose  = "agentyard seal v1 "
)

// Box is a sealed value.
type Box struct {
	Key  string `json:"key"`  // the id of the key
	Salt []byte `json:"salt"` //
	Data []byte `json:"data"` // nonce, ciphertext and tag
}

// Keys seal and open. The first one seals; all open.
type Keys struct {
	first string
	byID  map[string][]byte
}

// NewKeys returns keys of 32 random bytes each, the first of which seals.
func NewKeys(keys ...[]byte) (*Keys, error) {
	k := &Keys{byID: map[string][]byte{}}
	for i, key := range keys {
		if len(key) != keySize {
			return nil, fmt.Errorf("key %d has %d bytes, not %d", i+1, len(key), keySize)
		}
		id := keyID(key)
		if i == 0 {
			k.first = id
		}
		k.byID[id] = bytes.Clone(key)
	}
	if k.first == "" {
		return nil, errors.New("there is no key")
	}
	return k, nil
}

// keyID names a key without telling of it.
func keyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("agentyard seal key id "), key...))
	return hex.EncodeToString(sum[:6])
}

// ParseKeys reads a file of keys: one a line, 32 bytes in base64, the one that seals first; empty lines and lines that begin
// with # do not count.
func ParseKeys(text []byte) ([][]byte, error) {
	var keys [][]byte
	for n, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("line %d is not %d bytes in base64", n+1, keySize) // without the line, which may be a key
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key")
	}
	return keys, nil
}

// Seal encrypts plain for the entry that place names; Open needs the same.
func (k *Keys) Seal(place string, plain []byte) (Box, error) {
	b := Box{Key: k.first, Salt: make([]byte, saltSize)}
	_, _ = rand.Read(b.Salt) // crypto/rand.Read never returns an error
	aead, err := k.aead(b)
	if err != nil {
		return Box{}, err
	}
	b.Data = aead.Seal(nil, nil, plain, []byte(place)) //nolint:gosec // it makes a random nonce itself, and takes none
	return b, nil
}

// Open decrypts b. Its error says nothing of the content.
func (k *Keys) Open(place string, b Box) ([]byte, error) {
	if _, ok := k.byID[b.Key]; !ok {
		return nil, api.Errorf(api.CodeInternal, "it is sealed with the key %q, which this service was not given", b.Key)
	}
	aead, err := k.aead(b)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, b.Data, []byte(place))
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "it does not open: it was altered, or belongs elsewhere")
	}
	return plain, nil
}

// Stale reports whether b should be sealed anew, with the first key.
func (k *Keys) Stale(b Box) bool { return b.Key != k.first }

func (k *Keys) aead(b Box) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, k.byID[b.Key], b.Salt, purpose+b.Key, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return aead, nil
}
