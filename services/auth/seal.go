package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"agentyard.dev/libs/api"
)

const secretFileBytes = 32

// secret is the content of the secret file. Every key is derived from it for one purpose (HKDF-SHA-256, RFC 5869), so none can serve
// for another.
type secret [secretFileBytes]byte

func (s *secret) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s[:], nil, "agentyard auth "+purpose, 32)
	if err != nil {
		panic(err) // only for an output longer than 255 hashes
	}
	return key
}

// sealer encrypts with AES-256-GCM under a random nonce. The name that a thing was sealed under must be given to
// open it, so that sealed things cannot be swapped.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, fmt.Errorf("make a cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealer{}, fmt.Errorf("make a cipher: %w", err)
	}
	return sealer{aead}, nil
}

func (s sealer) seal(name string, plain []byte) []byte {
	return s.aead.Seal(nil, nil, plain, []byte(name)) //nolint:gosec // the cipher makes a random nonce
}

func (s sealer) open(name string, sealed []byte) ([]byte, error) {
	return s.aead.Open(nil, nil, sealed, []byte(name))
}

// openSecret reads the secret file, or makes it for a yard that has no signing keys yet. For a yard that has, a new secret would open
// nothing: the file must be brought back.
func (s *Service) openSecret() (*secret, error) {
	path := s.cfg.SecretFile
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, sealed := s.signing.view.Get(ringKey); sealed {
			return nil, fmt.Errorf("-auth.secret-file %s does not exist, but this yard's signing keys are sealed with it: bring it back", path)
		}
		var fresh secret
		_, _ = rand.Read(fresh[:]) // crypto/rand.Read never returns an error
		if err := createFile(path, fresh[:]); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make -auth.secret-file: %w", err)
		}
		data, err = os.ReadFile(path) // ours, or that of a replica beside us
	}
	if err != nil {
		return nil, fmt.Errorf("read -auth.secret-file: %w", err)
	}
	if len(data) != secretFileBytes {
		return nil, fmt.Errorf("-auth.secret-file %s has %d bytes, want %d random ones", path, len(data), secretFileBytes)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		s.log.Warn("the secret file can be read by every user of this machine; chmod it to 0600", "path", path)
	}
	var sec secret
	copy(sec[:], data)
	return &sec, nil
}

// createFile makes path with data and mode 0600, whole or not at all; fs.ErrExist when it is there already.
func createFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil { // unlike rename it never replaces
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errWrongSecret says that the ring was sealed with another secret.
func errWrongSecret(path string) error {
	return api.Errorf(api.CodeInternal, "-auth.secret-file %s is not the one that sealed this yard's signing keys: bring that one back", path)
}
