package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

func TestExchange(t *testing.T) {
	y := newYard(t)
	admin := y.admin()
	member := admin.user(t, "mia")
	off, on := true, false

	t.Run("gives a token that every service verifies", func(t *testing.T) {
		resp, err := y.exchange(admin.key)
		wantCode(t, err, "")
		if resp.TokenType != "Bearer" || resp.ExpiresIn != int(DefaultTokenTTL/time.Second) {
			t.Errorf("got %+v", resp)
		}
		p, err := y.verify.Verify(t.Context(), resp.AccessToken)
		wantCode(t, err, "")
		if p.ID != admin.ID || p.Tenant != api.HomeTenant || p.Name != "admin" || p.Key != admin.Key ||
			!slices.Equal(p.Roles, []api.Role{api.RoleAdmin}) || len(p.Scopes) != 0 {
			t.Errorf("got %+v", p)
		}
		y.clock.advance(DefaultTokenTTL + 10*time.Second)
		_, err = y.verify.Verify(t.Context(), resp.AccessToken)
		wantCode(t, err, api.CodeUnauthenticated)
	})

	admin, member = y.as(admin.key), y.as(member.key)
	scoped := must(t, admin, api.CreateKey, api.CreateKeyRequest{Name: "scoped", Scopes: []api.Permission{api.UserRead, api.KeyRead}}).Secret
	t.Run("narrows", func(t *testing.T) {
		c := y.as(scoped, api.UserRead)
		must(t, c, api.ListUsers, api.ListUsersRequest{})
		_, err := ask(c, api.ListKeys, api.ListKeysRequest{})
		wantCode(t, err, api.CodeDenied)
		_, err = ask(y.as(scoped), api.CreateUser, api.CreateUserRequest{Name: "x"})
		wantCode(t, err, api.CodeDenied)
		for _, scope := range []api.Permission{api.UserWrite, "no:such", api.Public} {
			_, err := y.exchange(scoped, scope)
			wantCode(t, err, api.CodeInvalid)
		}
	})

	t.Run("without a key is no sign-in", func(t *testing.T) {
		_, err := y.exchange("")
		wantCode(t, err, api.CodeInvalid)
	})

	// Each is refused in the same words, after the same time.
	revoked := must(t, member, api.CreateKey, api.CreateKeyRequest{Name: "revoked"})
	must(t, member, api.RevokeKey, api.IDRef{ID: revoked.ID})
	expired := must(t, member, api.CreateKey, api.CreateKeyRequest{Name: "expired", ExpiresIn: api.Duration(time.Minute)})
	disabled := admin.user(t, "dora")
	must(t, admin, api.UpdateUser, api.UpdateUserRequest{ID: disabled.ID, Disabled: &off})
	deleted := admin.user(t, "dean")
	must(t, admin, api.DeleteUser, api.IDRef{ID: deleted.ID})
	acme := admin.tenant(t, "acme")
	must(t, admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Disabled: &off})
	y.clock.advance(2 * time.Minute)

	flipped := []byte(admin.key) // its secret changed, its checksum right
	flipped[20] = keyAlphabet[(strings.IndexByte(keyAlphabet, flipped[20])+1)%32]
	body := string(flipped[:apiKeyChars-checksumChars])

	for name, key := range map[string]string{
		"a revoked key":            revoked.Secret,
		"an expired key":           expired.Secret,
		"a disabled user's key":    disabled.key,
		"a deleted user's key":     deleted.key,
		"a disabled tenant's key":  acme.key,
		"an unknown key":           string(newAPIKey()),
		"a wrong secret":           body + checksum(body),
		"a mistyped key":           string(flipped),
		"a cut key":                admin.key[:30],
		"a token instead of a key": admin.raw,
		"a huge key":               strings.Repeat("a", 100_000),
		"a subject":                "ay_>",
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			start := time.Now()
			_, err := y.exchange(key)
			took := time.Since(start)
			wantCode(t, err, api.CodeUnauthenticated)
			if api.Redact(err).Detail != api.Redact(errBadKey()).Detail {
				t.Errorf("says %q", err)
			}
			if took < failureFloor {
				t.Errorf("took %v, less than any other", took)
			}
		})
	}

	t.Run("takes an enabled user's key again, and not the old token", func(t *testing.T) {
		must(t, y.as(admin.key), api.UpdateUser, api.UpdateUserRequest{ID: disabled.ID, Disabled: &on})
		must(t, y.as(disabled.key), api.GetMe, api.None{})
	})
	t.Run("gives a token no longer life than its key", func(t *testing.T) {
		k := must(t, y.as(member.key), api.CreateKey, api.CreateKeyRequest{Name: "short", ExpiresIn: api.Duration(10 * time.Second)})
		resp, err := y.exchange(k.Secret)
		wantCode(t, err, "")
		if resp.ExpiresIn > 10 {
			t.Errorf("lives for %d s", resp.ExpiresIn)
		}
	})
	t.Run("answers guesses at once, and the right key still", func(t *testing.T) {
		var refused *api.Error
		for range guardBurst * 3 {
			if _, err := y.exchange("ay_wrong"); isCode(err, api.CodeExhausted) {
				refused = api.Redact(err)
				break
			}
		}
		if refused == nil || refused.RetryAfter <= 0 {
			t.Fatalf("guesses go on: %+v", refused)
		}
		for name, key := range map[string]string{"unknown": string(newAPIKey()), "wrong secret": body + checksum(body)} {
			start := time.Now()
			_, err := y.exchange(key)
			wantCode(t, err, api.CodeExhausted)
			if took := time.Since(start); took > failureFloor {
				t.Errorf("%s: took %v", name, took)
			}
		}
		if _, err := y.exchange(admin.key); err != nil {
			t.Errorf("the right key: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := rpc.Call(ctx, y.client, api.Exchange, api.ExchangeRequest{Key: "ay_wrong", RemoteIP: "198.51.100.7"})
		wantCode(t, err, api.CodeUnauthenticated) // another address is not affected
	})
}

func TestSecretsAreNotLogged(t *testing.T) {
	y := newYard(t)
	r := y.start(Config{SecretFile: y.config().SecretFile})
	said := r.said.String()
	at := strings.Index(said, keyScheme)
	if at < 0 || strings.Count(said, keyScheme) != 1 {
		t.Fatalf("the bootstrap key is not said once: %q", said)
	}
	key := said[at : at+apiKeyChars]
	admin := y.as(key)
	made := must(t, admin, api.CreateKey, api.CreateKeyRequest{Name: "ci"})
	acme := must(t, admin, api.CreateTenant, api.CreateTenantRequest{Name: "acme"})
	_, err := y.exchange(made.Secret + "a")
	wantCode(t, err, api.CodeUnauthenticated)
	r.stop(t)
	log := r.log.String()
	if !strings.Contains(log, "auth.key-create") {
		t.Fatalf("the log has no operations: %s", log)
	}
	for _, secret := range []string{key, made.Secret, acme.AdminKey, admin.raw} {
		if strings.Contains(log, secret[len(secret)-40:]) {
			t.Error("a secret is in the log")
		}
	}
}

func TestGuard(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	t.Run("lets failures pass up to its burst, then one every while", func(t *testing.T) {
		g := newGuard()
		for i := range guardBurst {
			if g.spent("192.0.2.1", t0) || g.fail("192.0.2.1", t0) != 0 {
				t.Fatalf("failure %d is too many", i)
			}
		}
		if !g.spent("192.0.2.1", t0) || g.fail("192.0.2.1", t0) != guardEvery {
			t.Error("goes on")
		}
		if g.spent("192.0.2.2", t0) {
			t.Error("another address is refused")
		}
		if g.spent("192.0.2.1", t0.Add(guardEvery)) || g.fail("192.0.2.1", t0.Add(guardEvery)) != 0 {
			t.Error("forgives nothing")
		}
	})
	t.Run("counts networks", func(t *testing.T) {
		for a, want := range map[string]string{
			"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64",
			"2001:db8::ffff:1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64", "": "", "nonsense": "",
		} {
			if got := network(a); got != want {
				t.Errorf("network(%q) = %q, want %q", a, got, want)
			}
		}
	})
	t.Run("is bounded", func(t *testing.T) {
		g := newGuard()
		for i := range guardAddresses + 100 {
			g.fail(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), t0)
		}
		if len(g.buckets) > guardAddresses {
			t.Errorf("holds %d addresses", len(g.buckets))
		}
		g.fail("192.0.2.1", t0.Add(time.Hour))
		if len(g.buckets) != 1 {
			t.Errorf("%d addresses are kept though all is forgiven", len(g.buckets))
		}
	})
}

func FuzzParseAPIKey(f *testing.F) {
	f.Add(string(newAPIKey()))
	f.Add("ay_aaaaaaaaaa_")
	f.Add("ay_" + strings.Repeat("_", 60))
	f.Fuzz(func(t *testing.T, text string) {
		key, ok := parseAPIKey(text)
		if !ok {
			return
		}
		if string(key) != text || len(text) != apiKeyChars || !strings.HasPrefix(text, key.shown()+"_") ||
			len(key.lookup()) != prefixChars || !api.ValidID(api.KindKey, keyID(key.lookup())) {
			t.Errorf("accepts %q", text)
		}
		for i := range text { // any one wrong character is told
			wrong := []byte(text)
			wrong[i] ^= 1
			if _, ok := parseAPIKey(string(wrong)); ok {
				t.Errorf("accepts %q with character %d changed", text, i)
			}
		}
	})
}

func TestAPIKey(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		k := newAPIKey()
		again, ok := parseAPIKey(string(k))
		if !ok || again != k || seen[k.lookup()] {
			t.Fatalf("%q", k)
		}
		seen[k.lookup()] = true
	}
}

func FuzzDecodeCursor(f *testing.F) {
	f.Add(encodeCursor(1))
	f.Add(encodeCursor(1<<64 - 1))
	f.Add("")
	f.Add("AQAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, cursor string) {
		created, err := decodeCursor(cursor)
		switch {
		case err != nil && !isCode(err, api.CodeInvalid):
			t.Errorf("%q: %v", cursor, err)
		case err == nil && cursor != "" && encodeCursor(created) != cursor:
			t.Errorf("%q is another spelling of %d", cursor, created)
		case err == nil && (created == 0) != (cursor == ""):
			t.Errorf("%q is %d", cursor, created)
		}
	})
}
