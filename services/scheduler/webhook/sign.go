package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of a delivery.
const (
	// SignatureHeader is "t=<Unix seconds>,v1=<hex>[,v1=<hex>]": each v1 is the HMAC-SHA-256, under one of the webhook's secrets (its text is the key),
	// of the time as it stands in t, a dot and the body.
	SignatureHeader = "Agentyard-Signature"
	EventHeader     = "Agentyard-Event"    // the notice's type
	DeliveryHeader  = "Agentyard-Delivery" // the delivery's id, the same at each attempt
)

const (
	secretPrefix = "whsec_"
	shownPrefix  = len(secretPrefix) + 4
	// maxSignatures bounds what Verify looks at.
	maxSignatures = 8
)

// NewSecret returns a fresh signing secret of 256 bits.
func NewSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error
	return secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

func mac(secret, at string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	_, _ = h.Write([]byte(at + ".")) // a hash's Write never fails
	_, _ = h.Write(body)
	return h.Sum(nil)
}

// Sign returns the value of SignatureHeader for a body sent at a time, with a signature for each secret.
func Sign(body []byte, at time.Time, secrets ...string) string {
	t := strconv.FormatInt(at.Unix(), 10)
	value := "t=" + t
	for _, secret := range secrets {
		value += ",v1=" + hex.EncodeToString(mac(secret, t, body))
	}
	return value
}

// What Verify refuses.
var (
	ErrSignature = errors.New("the signature is missing or wrong")
	ErrTooOld    = errors.New("the signature's time is too far from now")
)

// Verify is for receivers: it returns nil when one of the signatures in header is of body under one of secrets, and was made at most tolerance from
// now, so that an old delivery cannot be played again. It compares in constant time.
func Verify(header http.Header, body []byte, secrets []string, now time.Time, tolerance time.Duration) error {
	var at string
	var signatures [][]byte
	for part := range strings.SplitSeq(header.Get(SignatureHeader), ",") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "t":
			at = value
		case "v1":
			if sum, err := hex.DecodeString(value); err == nil && len(signatures) < maxSignatures {
				signatures = append(signatures, sum)
			}
		}
	}
	sent, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return ErrSignature
	}
	good := false
	for _, secret := range secrets {
		want := mac(secret, at, body)
		for _, got := range signatures {
			good = hmac.Equal(got, want) || good
		}
	}
	if !good {
		return ErrSignature
	}
	if d := now.Sub(time.Unix(sent, 0)); d > tolerance || d < -tolerance {
		return ErrTooOld
	}
	return nil
}
