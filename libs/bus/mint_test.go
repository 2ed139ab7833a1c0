package bus

import (
	"bytes"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"agentyard.dev/libs/api"
)

// TestMint: credentials are what the library of NATS makes of the same token and seed, and say what they are for.
func TestMint(t *testing.T) {
	t.Parallel()
	k, err := OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issuer, id := k.SessionIssuer(), api.NewID(api.KindSession)
	for name, mint := range map[string]func() ([]byte, error){
		"service": func() ([]byte, error) { return k.ServiceCredentials("sessions") },
		"session": func() ([]byte, error) { return issuer.Credentials("default", id) },
		"pod":     func() ([]byte, error) { return issuer.PodCredentials(id, time.Hour) },
	} {
		creds, err := mint()
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.ParseDecoratedJWT(creds)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := jwt.ParseDecoratedUserNKey(creds)
		if err != nil {
			t.Fatal(err)
		}
		seed, err := pair.Seed()
		if err != nil {
			t.Fatal(err)
		}
		want, err := jwt.FormatUserConfig(token, seed) // which verifies the token's signature and the seed's kind
		if err != nil || !bytes.Equal(creds, want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, creds, want)
		}
		claims, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		if public, err := pair.PublicKey(); err != nil || public != claims.Subject || claims.IssuerAccount != k.accountID || (claims.Expires != 0) != (name == "pod") {
			t.Errorf("%s: %+v, the seed's key is %s, %v", name, claims, public, err)
		}
		again, err := mint()
		if err != nil || bytes.Contains(again, seed) {
			t.Errorf("%s: two credentials have one seed, or %v", name, err)
		}
	}
}

func BenchmarkMint(b *testing.B) {
	k, err := OpenKeyring(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	issuer, id := k.SessionIssuer(), api.NewID(api.KindSession)
	for b.Loop() {
		if _, err := issuer.Credentials("default", id); err != nil {
			b.Fatal(err)
		}
	}
}
