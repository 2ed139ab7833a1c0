package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// An API key reads ay_<prefix>_<secret><checksum>, in lower-case base32: the prefix (50 bits) looks the key up, the secret (200 bits)
// proves it, and the checksum (CRC-32) tells a mistyped or cut key from a wrong one without a look-up, also to secret scanners.
const (
	keyScheme     = "ay_"
	prefixChars   = 10
	secretBytes   = 25
	secretChars   = 40
	checksumChars = 7
	apiKeyChars   = len(keyScheme) + prefixChars + 1 + secretChars + checksumChars
)

const keyAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

var keyEncoding = base32.NewEncoding(keyAlphabet).WithPadding(base32.NoPadding)

// apiKey is a well-formed key; only newAPIKey and parseAPIKey make one.
type apiKey string

// newAPIKey returns a fresh random key.
func newAPIKey() apiKey {
	var b [7 + secretBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error
	body := keyScheme + keyEncoding.EncodeToString(b[:7])[:prefixChars] + "_" + keyEncoding.EncodeToString(b[7:])
	return apiKey(body + checksum(body))
}

// parseAPIKey reports whether text is a well-formed API key. It says nothing about whether the key is known.
func parseAPIKey(text string) (apiKey, bool) {
	if len(text) != apiKeyChars || !strings.HasPrefix(text, keyScheme) || text[len(keyScheme)+prefixChars] != '_' {
		return "", false
	}
	for i, c := range []byte(text[len(keyScheme):]) {
		if i != prefixChars && strings.IndexByte(keyAlphabet, c) < 0 {
			return "", false
		}
	}
	body, sum := text[:apiKeyChars-checksumChars], text[apiKeyChars-checksumChars:]
	return apiKey(text), sum == checksum(body)
}

func checksum(body string) string {
	return keyEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
}

// lookup returns the part that names the key.
func (k apiKey) lookup() string { return string(k[len(keyScheme) : len(keyScheme)+prefixChars]) }

// shown returns the part by which a person recognises the key.
func (k apiKey) shown() string { return string(k[:len(keyScheme)+prefixChars]) }

// hash returns what is stored of the key. The pepper keeps whoever reads the ledger alone from testing guesses.
func (k apiKey) hash(pepper []byte) []byte {
	m := hmac.New(sha256.New, pepper)
	m.Write([]byte(k))
	return m.Sum(nil)
}
