// Package trusttest does for a test what auth does before any service can be ready.
package trusttest

import (
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
	from := time.Now().Add(-time.Hour)
	key, err := token.NewSigningKey(from, from, from.Add(4*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	sets, err := bus.OpenLedger[trust.KeySet](t.Context(), auth, bus.LedgerConfig{Noun: trust.JWKSNoun})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sets.Create(t.Context(), trust.KeySetKey, bus.Meta{Actor: "service:auth", Verb: "create"}, trust.KeySet{
		Keys: []trust.PublicKey{{JWK: key.JWK(), SignFrom: key.SignFrom, RetireAt: key.RetireAt}},
	})
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := bus.OpenLedger[trust.Revocation](t.Context(), auth, bus.LedgerConfig{Noun: trust.RevokedNoun, MaxAge: trust.RevokedMaxAge})
	if err != nil {
		t.Fatal(err)
	}
	return key, revoked
}
