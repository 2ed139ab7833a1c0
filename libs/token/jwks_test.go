package token

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

// The example of RFC 8037, appendix A.
const (
	rfcX          = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	rfcThumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
)

func TestThumbprint(t *testing.T) {
	x, err := base64URL.DecodeString(rfcX)
	if err != nil {
		t.Fatal(err)
	}
	if got := thumbprint(x); got != rfcThumbprint {
		t.Errorf("got %s, want %s", got, rfcThumbprint)
	}
}

func TestParseJWKS(t *testing.T) {
	good := api.JWK{KeyType: "OKP", Curve: "Ed25519", X: rfcX, ID: "one", Use: "sig", Algorithm: "EdDSA"}
	edit := func(f func(*api.JWK)) api.JWK { k := good; f(&k); return k }
	for name, c := range map[string]struct {
		keys []api.JWK
		want int // keys; -1: an error
	}{
		"nothing":              {nil, 0},
		"one":                  {[]api.JWK{good}, 1},
		"use and alg unsaid":   {[]api.JWK{edit(func(k *api.JWK) { k.Use, k.Algorithm = "", "" })}, 1},
		"the same twice":       {[]api.JWK{good, good}, 1},
		"passes over RSA":      {[]api.JWK{{KeyType: "RSA", ID: "r"}, good}, 1},
		"passes over X25519":   {[]api.JWK{edit(func(k *api.JWK) { k.Curve = "X25519" }), good}, 1},
		"passes over use enc":  {[]api.JWK{edit(func(k *api.JWK) { k.Use = "enc" })}, 0},
		"passes over alg ES":   {[]api.JWK{edit(func(k *api.JWK) { k.Algorithm = "ES256" })}, 0},
		"no kid":               {[]api.JWK{edit(func(k *api.JWK) { k.ID = "" })}, -1},
		"x cut":                {[]api.JWK{edit(func(k *api.JWK) { k.X = k.X[:40] })}, -1},
		"x padded":             {[]api.JWK{edit(func(k *api.JWK) { k.X += "=" })}, -1},
		"x not base64url":      {[]api.JWK{edit(func(k *api.JWK) { k.X = "!" + k.X[1:] })}, -1},
		"one kid for two keys": {[]api.JWK{good, edit(func(k *api.JWK) { k.X = "A" + k.X[1:] })}, -1},
		"too many":             {make([]api.JWK, maxJWKS+1), -1},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := ParseJWKS(api.JWKSResponse{Keys: c.keys})
			if (err != nil) != (c.want < 0) || (err == nil && len(keys) != c.want) {
				t.Errorf("got %d keys and %v, want %d", len(keys), err, c.want)
			}
		})
	}
}

func TestRotation(t *testing.T) {
	const ttl, lead, sign = 15 * time.Minute, time.Hour, 24 * time.Hour
	key := func(created time.Time) SigningKey {
		t.Helper()
		// It verifies until the last token that it can have signed has expired.
		k, err := NewSigningKey(created, created.Add(lead), created.Add(lead+sign+lead+ttl))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key(t0.Add(-lead))
	second := key(t0.Add(sign - lead)) // made one lead before it takes over
	set := KeySet{second, first}       // in no order
	c := &clock{now: t0}
	published := &laggard{set: set, clock: c, lag: lead / 2}
	v := NewVerifier(published, nil, c.Now)

	var tokens []struct {
		raw string
		exp time.Time
	}
	signers := map[string]bool{}
	for at := t0; at.Before(t0.Add(sign + 2*lead)); at = at.Add(5 * time.Minute) {
		c.Set(at)
		signer, ok := set.Signer(at)
		if !ok {
			t.Fatalf("nobody signs at %v", at)
		}
		signers[signer.ID] = true
		raw := mint(t, signer, at, ttl)
		tokens = append(tokens, struct {
			raw string
			exp time.Time
		}{raw, at.Add(ttl)})
		// Each unexpired token verifies at a verifier that learns of keys half a lead late.
		for _, old := range tokens {
			if !at.Before(old.exp) {
				continue
			}
			if _, err := v.Verify(t.Context(), old.raw); err != nil {
				t.Fatalf("at %v, a token that expires at %v: %v", at, old.exp, err)
			}
		}
	}
	if len(signers) != 2 {
		t.Fatalf("%d keys have signed, want both", len(signers))
	}

	t.Run("publishes a key before it signs", func(t *testing.T) {
		at := second.SignFrom.Add(-time.Second)
		if len(set.JWKS(at).Keys) != 2 {
			t.Error("the next key is not published")
		}
		if k, _ := set.Signer(at); k.ID != first.ID {
			t.Error("the next key signs early")
		}
		if k, _ := set.Signer(second.SignFrom); k.ID != second.ID {
			t.Error("the next key does not take over")
		}
	})
	t.Run("verifies old tokens until the old key retires", func(t *testing.T) {
		raw := mint(t, first, first.RetireAt.Add(-ttl), ttl)
		last := first.RetireAt.Add(-time.Second)
		c.Set(last)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatalf("before: %v", err)
		}
		c.Set(first.RetireAt.Add(published.lag))
		mustRefuse(t, v, raw)
		if len(set.JWKS(first.RetireAt).Keys) != 1 {
			t.Error("a retired key is published")
		}
		if _, ok := (KeySet{first}).Signer(first.RetireAt); ok {
			t.Error("a retired key signs")
		}
	})
}

// laggard is a verifier's view of a key set, fetched lag ago.
type laggard struct {
	set   KeySet
	clock *clock
	lag   time.Duration
}

func (l *laggard) VerifyingKeys() map[string]ed25519.PublicKey {
	at := l.clock.Now().Add(-l.lag)
	var made KeySet
	for _, k := range l.set {
		if !k.CreatedAt.After(at) {
			made = append(made, k)
		}
	}
	return made.Verifying(at)
}

func TestNewSigningKey(t *testing.T) {
	k := newKey(t)
	if k.ID != thumbprint(k.Private.Public().(ed25519.PublicKey)) {
		t.Error("the id is not the thumbprint")
	}
	data, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	var again SigningKey
	if err := json.Unmarshal(data, &again); err != nil || !again.Private.Equal(k.Private) || again.ID != k.ID {
		t.Errorf("the key does not survive its JSON form: %v", err)
	}
	for name, at := range map[string][3]time.Time{
		"signing before creation": {t0, t0.Add(-1), t0.Add(1)},
		"retiring before signing": {t0, t0.Add(2), t0.Add(1)},
	} {
		if _, err := NewSigningKey(at[0], at[1], at[2]); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q,"kid":"one"}]}`, rfcX)))
	f.Add([]byte(`{"keys":[{"kty":"RSA"},{}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var set api.JWKSResponse
		if json.Unmarshal(data, &set) != nil {
			return
		}
		keys, err := ParseJWKS(set)
		if err != nil {
			return
		}
		for id, key := range keys {
			if id == "" || len(key) != ed25519.PublicKeySize {
				t.Errorf("kid %q has a key of %d bytes", id, len(key))
			}
			found := false
			for _, k := range set.Keys {
				found = found || (k.ID == id && k.X == base64URL.EncodeToString(key))
			}
			if !found {
				t.Errorf("kid %q is not the set's", id)
			}
		}
	})
}
