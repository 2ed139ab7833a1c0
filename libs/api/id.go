package api

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Kind is the first letter of an id and tells what the id names.
type Kind byte

// The kinds of id.
const (
	KindSession  Kind = 's'
	KindTask     Kind = 't'
	KindPolicy   Kind = 'p'
	KindMessage  Kind = 'm'
	KindApproval Kind = 'a'
	KindUser     Kind = 'u'
	KindKey      Kind = 'k'
)

const idChars = 16 // 80 bits: 2^40 ids before a collision is likely

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a fresh random id of kind k: its letter and 16 characters of
// lower-case base32, valid as a DNS label and as a NATS subject token.
func NewID(k Kind) string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error
	return string(k) + idEncoding.EncodeToString(b[:])
}

// DeriveID returns the id of kind k that always belongs to parts. A request that
// is repeated with the same idempotency key derives the same id and so meets its
// own first result.
func DeriveID(k Kind, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return string(k) + idEncoding.EncodeToString(sum[:10])
}

// ValidID reports whether id has the form of an id of kind k. A false answer lets
// an edge refuse an id before it becomes part of a subject, a path or a name.
func ValidID(k Kind, id string) bool {
	if len(id) != 1+idChars || id[0] != byte(k) {
		return false
	}
	for _, c := range []byte(id[1:]) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// ValidName reports whether name may name a tenant, a profile, a team or a user
// handle: 1 to 40 of a–z, 0–9 and '-', starting and ending with a letter or digit.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 40 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
