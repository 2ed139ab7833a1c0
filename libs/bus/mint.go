package bus

import (
	"crypto/ed25519"
	"crypto/rand"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// signer is a signing key in the form that signs. An nkeys.KeyPair has the seed only and derives the key from it at each use, which
// costs more than a signature; every session is given two credentials.
type signer struct {
	nkeys.KeyPair
	public  string
	private ed25519.PrivateKey
}

func newSigner(key nkeys.KeyPair) (signer, error) {
	seed, err := key.Seed()
	if err != nil {
		return signer{}, err
	}
	kind, raw, err := nkeys.DecodeSeed(seed)
	if err != nil {
		return signer{}, err
	}
	s := signer{KeyPair: key, private: ed25519.NewKeyFromSeed(raw)}
	public, err := nkeys.Encode(kind, s.private.Public().(ed25519.PublicKey))
	s.public = string(public)
	return s, err
}

// PublicKey implements nkeys.KeyPair.
func (s signer) PublicKey() (string, error) { return s.public, nil }

// Sign implements nkeys.KeyPair.
func (s signer) Sign(input []byte) ([]byte, error) { return ed25519.Sign(s.private, input), nil }

// mint makes a fresh user of the role whose signing key is given.
func mint(key nkeys.KeyPair, accountID, name string, tags ...string) ([]byte, error) {
	s, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return s.mint(0, accountID, name, tags...)
}

// mint makes a fresh user of this key's role, whose credential is good for so long; zero: for ever.
func (s signer) mint(life time.Duration, accountID, name string, tags ...string) ([]byte, error) {
	var raw [ed25519.SeedSize]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never returns an error
	id, err := nkeys.Encode(nkeys.PrefixByteUser, ed25519.NewKeyFromSeed(raw[:]).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	token, err := jwt.IssueUserJWT(s, accountID, string(id), name, life, tags...)
	if err != nil {
		return nil, err
	}
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, raw[:])
	if err != nil {
		return nil, err
	}
	decorated, err := jwt.DecorateSeed(seed)
	if err != nil {
		return nil, err
	}
	// As jwt.FormatUserConfig has it, which verifies the signature that was made just now.
	return append([]byte("-----BEGIN NATS USER JWT-----\n"+token+"\n------END NATS USER JWT------\n\n"), decorated...), nil
}
