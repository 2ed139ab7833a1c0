// Package trusttest does for a test what auth does before any service can be ready.
package trusttest

import (
	"context"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

// Publish publishes a key with which tokens may be signed since an hour ago and for three more, and opens the ledger of what is revoked. The
// connection is auth's.
func Publish(t testing.TB, auth *bus.Conn) (token.SigningKey, *bus.Ledger[trust.Revocation]) {
	t.Helper()
	key, revoked, err := Prepare(t.Context(), auth)
	if err != nil {
		t.Fatal(err)
	}
	return key, revoked
}

// Prepare is Publish for a program that is no test.
func Prepare(ctx context.Context, auth *bus.Conn) (key token.SigningKey, revoked *bus.Ledger[trust.Revocation], err error) {
	from := time.Now().Add(-time.Hour)
	if key, err = token.NewSigningKey(from, from, from.Add(4*time.Hour)); err != nil {
		return key, nil, err
	}
	sets, err := bus.OpenLedger[trust.KeySet](ctx, auth, bus.LedgerConfig{Noun: trust.JWKSNoun})
	if err != nil {
		return key, nil, err
	}
	_, err = sets.Create(ctx, trust.KeySetKey, bus.Meta{Actor: "service:auth", Verb: "create"}, trust.KeySet{
		Keys: []trust.PublicKey{{JWK: key.JWK(), SignFrom: key.SignFrom, RetireAt: key.RetireAt}},
	})
	if err != nil {
		return key, nil, err
	}
	revoked, err = bus.OpenLedger[trust.Revocation](ctx, auth, bus.LedgerConfig{Noun: trust.RevokedNoun, MaxAge: trust.RevokedMaxAge})
	return key, revoked, err
}
