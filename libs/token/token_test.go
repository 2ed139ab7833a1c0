package token

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"agentyard.dev/libs/api"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var alice = api.Principal{
	ID: "uaaaaaaaaaaaaaaaa", Tenant: "acme", Name: "alice", Key: "kaaaaaaaaaaaaaaaa",
	Roles: []api.Role{api.RoleMember}, Scopes: []api.Permission{api.SessionRead},
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

type staticKeys map[string]ed25519.PublicKey

func (s staticKeys) VerifyingKeys() map[string]ed25519.PublicKey { return s }

type revokedFunc func(api.Principal, time.Time) bool

func (f revokedFunc) Revoked(p api.Principal, at time.Time) bool { return f(p, at) }

func newKey(t testing.TB) SigningKey {
	t.Helper()
	k, err := NewSigningKey(t0.Add(-time.Hour), t0.Add(-time.Hour), t0.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mint(t testing.TB, k SigningKey, at time.Time, ttl time.Duration) string {
	t.Helper()
	raw, err := Mint(k, alice, at, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func mustRefuse(t *testing.T, v *Verifier, raw string) *api.Error {
	t.Helper()
	p, err := v.Verify(t.Context(), raw)
	if err == nil {
		t.Fatalf("the token was accepted as %+v", p)
	}
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeUnauthenticated {
		t.Fatalf("got %v, want an unauthenticated error", err)
	}
	return e
}

func TestVerifyReturnsWhatWasMinted(t *testing.T) {
	k := newKey(t)
	v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
	for _, p := range []api.Principal{alice, {ID: "u1", Tenant: "acme"}} {
		raw, err := Mint(k, p, t0, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range []string{"checked", "cached"} {
			got, err := v.Verify(t.Context(), raw)
			if err != nil {
				t.Fatalf("%s: %v", way, err)
			}
			if !reflect.DeepEqual(got, p) {
				t.Errorf("%s: got %+v, want %+v", way, got, p)
			}
		}
	}
}

// at makes a KeySource of what a key set publishes at a time, by way of its JSON form as other processes get it.
func (s KeySet) at(now time.Time) KeySource {
	data, err := json.Marshal(s.JWKS(now))
	if err != nil {
		panic(err)
	}
	var set api.JWKSResponse
	if err := json.Unmarshal(data, &set); err != nil {
		panic(err)
	}
	keys, err := ParseJWKS(set)
	if err != nil {
		panic(err)
	}
	return staticKeys(keys)
}

// forge is a token of any header and claims, signed by any method.
func forge(t *testing.T, method jwt.SigningMethod, key any, header map[string]any, edit func(jwt.MapClaims)) string {
	t.Helper()
	c := jwt.MapClaims{
		"iss": Issuer, "aud": Audience, "sub": alice.ID, "tenant": alice.Tenant, "jti": "1",
		"iat": t0.Unix(), "exp": t0.Add(time.Minute).Unix(),
	}
	if edit != nil {
		edit(c)
	}
	tok := jwt.NewWithClaims(method, c)
	tok.Header["typ"] = mediaType
	for name, value := range header {
		if value == nil {
			delete(tok.Header, name)
		} else {
			tok.Header[name] = value
		}
	}
	raw, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestVerifyRefuses(t *testing.T) {
	k, other := newKey(t), newKey(t)
	public := k.Private.Public().(ed25519.PublicKey)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	kid := map[string]any{"kid": k.ID}
	with := func(name string, value any) map[string]any { return map[string]any{"kid": k.ID, name: value} }
	set := func(name string, value any) func(jwt.MapClaims) {
		return func(c jwt.MapClaims) {
			if value == nil {
				delete(c, name)
			} else {
				c[name] = value
			}
		}
	}
	ed := jwt.SigningMethodEdDSA
	good := forge(t, ed, k.Private, kid, nil)
	parts := strings.Split(good, ".")
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

	v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
	// Without this the table below could pass because all forgeries are broken in some other way.
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatalf("the forgeries' pattern is itself refused: %v", err)
	}
	if _, err := v.Verify(t.Context(), forge(t, ed, k.Private, with("typ", "application/at+jwt"), nil)); err != nil {
		t.Fatalf("the long form of typ is refused: %v", err)
	}

	for name, raw := range map[string]string{
		"nothing":                           "",
		"no dots":                           "opaque-credential",
		"alg none":                          forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid, nil),
		"alg None, signature kept":          b64(`{"alg":"None","typ":"at+jwt","kid":"`+k.ID+`"}`) + "." + parts[1] + "." + parts[2],
		"alg missing":                       b64(`{"typ":"at+jwt","kid":"`+k.ID+`"}`) + "." + parts[1] + "." + parts[2],
		"HS256 keyed by the public key":     forge(t, jwt.SigningMethodHS256, []byte(public), kid, nil),
		"HS256 keyed by the published x":    forge(t, jwt.SigningMethodHS256, []byte(k.JWK().X), kid, nil),
		"RS256 by a key of the attacker":    forge(t, jwt.SigningMethodRS256, rsaKey, kid, nil),
		"RS256 with an embedded jwk":        forge(t, jwt.SigningMethodRS256, rsaKey, with("jwk", map[string]string{"kty": "RSA"}), nil),
		"EdDSA by another key":              forge(t, ed, other.Private, kid, nil),
		"EdDSA by another key, its own jwk": forge(t, ed, other.Private, with("jwk", other.JWK()), nil),
		"typ JWT":                           forge(t, ed, k.Private, with("typ", "JWT"), nil),
		"typ missing":                       forge(t, ed, k.Private, with("typ", nil), nil),
		"typ in capitals":                   forge(t, ed, k.Private, with("typ", "AT+JWT"), nil),
		"kid missing":                       forge(t, ed, k.Private, nil, nil),
		"kid unknown":                       forge(t, ed, other.Private, map[string]any{"kid": other.ID}, nil),
		"kid not a string":                  forge(t, ed, k.Private, map[string]any{"kid": 1}, nil),
		"crit":                              forge(t, ed, k.Private, with("crit", []string{"b64"}), nil),
		"expired":                           forge(t, ed, k.Private, kid, set("exp", t0.Add(-leeway).Unix())),
		"exp missing":                       forge(t, ed, k.Private, kid, set("exp", nil)),
		"iat in the future":                 forge(t, ed, k.Private, kid, set("iat", t0.Add(leeway+time.Second).Unix())),
		"iat missing":                       forge(t, ed, k.Private, kid, set("iat", nil)),
		"nbf in the future":                 forge(t, ed, k.Private, kid, set("nbf", t0.Add(leeway+time.Second).Unix())),
		"another issuer":                    forge(t, ed, k.Private, kid, set("iss", "elsewhere")),
		"iss missing":                       forge(t, ed, k.Private, kid, set("iss", nil)),
		"another audience":                  forge(t, ed, k.Private, kid, set("aud", "elsewhere")),
		"aud missing":                       forge(t, ed, k.Private, kid, set("aud", nil)),
		"sub missing":                       forge(t, ed, k.Private, kid, set("sub", nil)),
		"tenant missing":                    forge(t, ed, k.Private, kid, set("tenant", nil)),
		"roles not a list":                  forge(t, ed, k.Private, kid, set("roles", "admin")),
		"payload of another token":          parts[0] + "." + strings.Split(forge(t, ed, k.Private, kid, set("sub", "u2")), ".")[1] + "." + parts[2],
		"payload null":                      parts[0] + "." + b64("null") + "." + parts[2],
		"signature cut":                     good[:len(good)-1],
		"signature empty":                   parts[0] + "." + parts[1] + ".",
		"padding added":                     good + "==",
		"white space around":                " " + good,
		"four parts":                        good + "." + parts[2],
		"header not an object":              b64(`[]`) + "." + parts[1] + "." + parts[2],
		"longer than 8 KiB":                 forge(t, ed, k.Private, kid, set("name", strings.Repeat("a", maxRaw))),
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // a refusal must not be cached as a verdict
				e := mustRefuse(t, v, raw)
				if raw != "" && strings.Contains(e.Detail, raw) {
					t.Error("the error's text contains the token")
				}
			}
		})
	}

	t.Run("but allows clocks that are a little apart", func(t *testing.T) {
		for _, edit := range []func(jwt.MapClaims){
			set("iat", t0.Add(leeway-time.Second).Unix()),
			set("exp", t0.Add(-leeway+time.Second).Unix()),
		} {
			if _, err := v.Verify(t.Context(), forge(t, ed, k.Private, kid, edit)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("says that a token is expired", func(t *testing.T) {
		e := mustRefuse(t, v, forge(t, ed, k.Private, kid, set("exp", t0.Add(-time.Hour).Unix())))
		if e.Detail != expiredToken {
			t.Errorf("got %q", e.Detail)
		}
	})
}

func TestCachedVerdict(t *testing.T) {
	t.Run("ends with the token", func(t *testing.T) {
		k, c := newKey(t), &clock{now: t0}
		v := NewVerifier(KeySet{k}.at(t0), nil, c.Now)
		raw := mint(t, k, t0, time.Minute)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		c.Set(t0.Add(time.Minute + leeway - time.Nanosecond))
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatalf("within the leeway: %v", err)
		}
		c.Set(t0.Add(time.Minute + leeway))
		mustRefuse(t, v, raw)
	})
	t.Run("ends with revocation at once", func(t *testing.T) {
		k := newKey(t)
		var revoked bool
		var askedAt time.Time
		v := NewVerifier(KeySet{k}.at(t0), revokedFunc(func(p api.Principal, at time.Time) bool {
			askedAt = at
			return revoked && p.Key == alice.Key
		}), func() time.Time { return t0 })
		raw := mint(t, k, t0, time.Minute)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		if !askedAt.Equal(t0) {
			t.Errorf("asked for a token issued at %v, want %v", askedAt, t0)
		}
		revoked = true
		mustRefuse(t, v, raw)
		revoked = false
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatalf("restored: %v", err)
		}
	})
	t.Run("ends with its key at once", func(t *testing.T) {
		k, other := newKey(t), newKey(t)
		keys := staticKeys{k.ID: k.Private.Public().(ed25519.PublicKey)}
		v := NewVerifier(keys, nil, func() time.Time { return t0 })
		raw := mint(t, k, t0, time.Minute)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		keys[k.ID] = other.Private.Public().(ed25519.PublicKey)
		mustRefuse(t, v, raw)
		keys[other.ID] = keys[k.ID]
		delete(keys, k.ID)
		mustRefuse(t, v, raw)
		delete(keys, other.ID) // a service that knows no key at all cannot tell
		if _, err := v.Verify(t.Context(), raw); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("without any key: %v", err)
		}
	})
	t.Run("is kept for a bounded number of tokens", func(t *testing.T) {
		k := newKey(t)
		v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
		for shard := range v.cache {
			for i := range cachePerShard + 10 {
				v.cache[shard].Add([32]byte{byte(shard), byte(i), byte(i >> 8)}, &verdict{})
			}
		}
		if _, err := v.Verify(t.Context(), mint(t, k, t0, time.Minute)); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, shard := range v.cache {
			n += shard.Len()
		}
		if n > cacheShards*cachePerShard {
			t.Errorf("%d verdicts are kept, want at most %d", n, cacheShards*cachePerShard)
		}
	})
	t.Run("is shared without letting callers write to each other", func(t *testing.T) {
		k := newKey(t)
		v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
		raw := mint(t, k, t0, time.Minute)
		one, _ := v.Verify(t.Context(), raw)
		two, _ := v.Verify(t.Context(), raw)
		_ = append(one.Roles, api.RoleAdmin)
		if got := append(two.Roles, api.RoleViewer); got[1] != api.RoleViewer || len(one.Roles) != 1 {
			t.Error("appends met")
		}
	})
}

func TestVerifyConcurrently(t *testing.T) {
	k := newKey(t)
	v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
	raws := make([]string, 8)
	for i := range raws {
		raws[i] = mint(t, k, t0, time.Duration(i+1)*time.Minute)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				if _, err := v.Verify(context.Background(), raws[(i+g)%len(raws)]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestMintRefuses(t *testing.T) {
	k := newKey(t)
	for name, f := range map[string]func() (string, error){
		"a principal without id":       func() (string, error) { return Mint(k, api.Principal{Tenant: "acme"}, t0, time.Minute) },
		"a principal without tenant":   func() (string, error) { return Mint(k, api.Principal{ID: "u1"}, t0, time.Minute) },
		"no life":                      func() (string, error) { return Mint(k, alice, t0, 0) },
		"an empty key":                 func() (string, error) { return Mint(SigningKey{}, alice, t0, time.Minute) },
		"a key that does not sign yet": func() (string, error) { return Mint(k, alice, k.SignFrom.Add(-time.Second), time.Minute) },
		"a token that outlives its key": func() (string, error) {
			return Mint(k, alice, k.RetireAt.Add(-time.Minute), time.Minute+time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if raw, err := f(); err == nil {
				t.Errorf("got %s", raw)
			}
		})
	}
}

func TestRaw(t *testing.T) {
	if got := Raw(context.Background()); got != "" {
		t.Errorf("got %q from an empty context", got)
	}
	if got := Raw(WithRaw(context.Background(), "x.y.z")); got != "x.y.z" {
		t.Errorf("got %q", got)
	}
}

// The cached path must be at least 20 times cheaper than a signature check; both are printed.
func TestCachedVerifyIsCheap(t *testing.T) {
	if testing.Short() {
		t.Skip("measures; left out by -short")
	}
	full, cached := testing.Benchmark(BenchmarkVerifyFull), testing.Benchmark(BenchmarkVerifyCached)
	ratio := float64(full.NsPerOp()) / float64(cached.NsPerOp())
	t.Logf("full %d ns, cached %d ns: %.0f times cheaper", full.NsPerOp(), cached.NsPerOp(), ratio)
	if ratio < 20 && !raceEnabled {
		t.Errorf("the cached path is only %.1f times cheaper", ratio)
	}
}

func BenchmarkVerifyFull(b *testing.B) {
	k := newKey(b)
	v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
	raw := mint(b, k, t0, time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.check(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCached(b *testing.B) {
	k := newKey(b)
	v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
	raw := mint(b, k, t0, time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEd25519 is the raw limit of the full check.
func BenchmarkEd25519(b *testing.B) {
	k := newKey(b)
	public := k.Private.Public().(ed25519.PublicKey)
	msg := []byte(strings.Repeat("m", 400))
	sig := ed25519.Sign(k.Private, msg)
	for b.Loop() {
		if !ed25519.Verify(public, msg, sig) {
			b.Fatal("not verified")
		}
	}
}

func FuzzVerify(f *testing.F) {
	k := newKey(f)
	v := NewVerifier(KeySet{k}.at(t0), nil, func() time.Time { return t0 })
	good := mint(f, k, t0, time.Minute)
	for _, seed := range []string{good, good[:40], good + ".", "a.b.c", "..", fmt.Sprintf("%s.e30.", strings.Split(good, ".")[0])} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		// A signature binds the exact text: nothing else than what was minted may pass.
		if _, err := v.Verify(context.Background(), raw); (err == nil) != (raw == good) {
			t.Errorf("%q: %v", raw, err)
		}
	})
}
