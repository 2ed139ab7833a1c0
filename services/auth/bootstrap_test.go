package auth

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// oneAdmin fails unless the yard has one tenant, one user and one key, and key is it.
func oneAdmin(t *testing.T, y *yard, key string) {
	t.Helper()
	c := y.as(key)
	if c.Tenant != api.HomeTenant || c.Name != adminName || !c.Can(api.TenantWrite) {
		t.Errorf("the bootstrap key is %+v", c.Principal)
	}
	if n := len(must(t, c, api.ListTenants, api.List{}).Items); n != 1 {
		t.Errorf("%d tenants", n)
	}
	if n := len(must(t, c, api.ListUsers, api.ListUsersRequest{}).Items); n != 1 {
		t.Errorf("%d users", n)
	}
	if keys := must(t, c, api.ListKeys, api.ListKeysRequest{}).Items; len(keys) != 1 || keys[0].ID != c.Key {
		t.Errorf("keys %+v", keys)
	}
}

func announced(t *testing.T, said string) string {
	t.Helper()
	at := strings.Index(said, keyScheme)
	if at < 0 || len(said) < at+apiKeyChars {
		t.Fatalf("no key in %q", said)
	}
	return said[at : at+apiKeyChars]
}

func TestBootstrap(t *testing.T) {
	t.Run("writes the key to its file, once", func(t *testing.T) {
		y := newYard(t)
		r := y.start(y.config())
		key := y.adminKey()
		oneAdmin(t, y, key)
		info, err := os.Stat(y.config().BootstrapKeyFile)
		wantCode(t, err, "")
		if info.Mode().Perm() != 0o600 || r.said.String() != "" {
			t.Errorf("mode %v, said %q", info.Mode(), r.said)
		}
		r.stop(t)
		r = y.start(y.config())
		oneAdmin(t, y, key)
		r.stop(t)
		// Without its file a yard that has a tenant makes no other key.
		if err := os.Remove(y.config().BootstrapKeyFile); err != nil {
			t.Fatal(err)
		}
		r = y.start(y.config())
		if _, err := os.Stat(y.config().BootstrapKeyFile); err == nil || r.said.String() != "" {
			t.Error("a second bootstrap key was made")
		}
		oneAdmin(t, y, key)
	})
	t.Run("takes the key from its file", func(t *testing.T) {
		y := newYard(t)
		key := string(newAPIKey())
		if err := os.WriteFile(y.config().BootstrapKeyFile, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		y.start(y.config())
		oneAdmin(t, y, key)
	})
	t.Run("does not bring a revoked key back", func(t *testing.T) {
		y := newYard(t)
		r := y.start(y.config())
		c := y.as(y.adminKey())
		next := y.as(must(t, c, api.CreateKey, api.CreateKeyRequest{Name: "next"}).Secret)
		must(t, next, api.RevokeKey, api.IDRef{ID: c.Key})
		r.stop(t)
		y.start(y.config())
		_, err := y.exchange(c.key)
		wantCode(t, err, api.CodeUnauthenticated)
		must(t, y.as(next.key), api.GetMe, api.None{})
	})
	t.Run("refuses a file that holds no key, and keeps it", func(t *testing.T) {
		y := newYard(t)
		path := y.config().BootstrapKeyFile
		if err := os.WriteFile(path, []byte("my notes"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := y.launch(y.config())
		select {
		case err := <-r.done:
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		case <-time.After(patience):
			r.cancel()
			t.Fatal("goes on")
		}
		if data, _ := os.ReadFile(path); string(data) != "my notes" {
			t.Errorf("the file is %q", data)
		}
	})
	t.Run("says the key once without a file", func(t *testing.T) {
		y := newYard(t)
		cfg := y.config()
		cfg.BootstrapKeyFile = ""
		r := y.start(cfg)
		if n := strings.Count(r.said.String(), keyScheme); n != 1 {
			t.Errorf("said %d times", n)
		}
		oneAdmin(t, y, announced(t, r.said.String()))
		r.stop(t)
		if again := y.start(cfg); again.said.String() != "" {
			t.Error("said again")
		}
	})
	t.Run("with two replicas at once", func(t *testing.T) {
		y := newYard(t)
		cfg := y.config()
		cfg.BootstrapKeyFile = ""
		a, b := y.launch(cfg), y.launch(cfg)
		t.Cleanup(func() { a.stop(t); b.stop(t) })
		a.await(t)
		b.await(t)
		until(t, "the sessions service knows the keys", func() bool { return y.trust.Check(t.Context()) == nil })
		said := a.said.String() + b.said.String()
		if n := strings.Count(said, keyScheme); n != 1 {
			t.Fatalf("%d keys were said", n)
		}
		oneAdmin(t, y, announced(t, said))
	})
}

// A bootstrap that was killed after any of its steps is completed by the next start.
func TestBootstrapKilled(t *testing.T) {
	for name, file := range map[string]bool{"with a file": true, "without": false} {
		for steps := range 4 {
			t.Run(name+" after step "+string(rune('0'+steps)), func(t *testing.T) {
				y := newYard(t)
				cfg := y.config()
				if !file {
					cfg.BootstrapKeyFile = ""
				}
				half(t, y, cfg, steps)
				r := y.start(cfg)
				var key string
				if file {
					key = y.adminKey()
				} else {
					key = announced(t, r.said.String())
				}
				oneAdmin(t, y, key)
				if left, _ := filepath.Glob(filepath.Join(y.dir, ".*")); len(left) > 0 {
					t.Errorf("leaves %v", left)
				}
			})
		}
	}
}

// half does the first steps of a bootstrap: the key (in its file), the user, the key's record.
func half(t *testing.T, y *yard, cfg Config, steps int) {
	t.Helper()
	r := y.launch(Config{SecretFile: cfg.SecretFile, BootstrapKeyFile: filepath.Join(t.TempDir(), "none", "x")})
	r.cancel() // it is a handle on the ledgers, not a service
	<-r.done
	s := New(cfg, Deps{Bus: r.deps.Bus, Clock: y.clock.now})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	wantCode(t, s.openLedgers(ctx), "")
	sec, err := s.openSecret()
	wantCode(t, err, "")
	s.pepper = sec.derive("API key pepper v1")
	if steps < 1 {
		return
	}
	secret, err := s.bootstrapKey()
	wantCode(t, err, "")
	if steps < 2 {
		return
	}
	m := bus.Meta{Actor: "service:auth", Verb: "bootstrap"}
	id := userID(api.HomeTenant, adminName, 0)
	_, err = s.users.Create(ctx, userKey(api.HomeTenant, id), m, userRecord{User: api.User{
		ID: id, Tenant: api.HomeTenant, Name: adminName, Roles: []api.Role{api.RoleAdmin}, CreatedAt: s.now(),
	}})
	wantCode(t, err, "")
	if steps < 3 {
		return
	}
	_, err = s.putKey(ctx, m, secret, api.Key{Tenant: api.HomeTenant, User: id, Name: "first admin key", CreatedAt: s.now()})
	wantCode(t, err, "")
}
