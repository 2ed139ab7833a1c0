package auth

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/trust"
)

// inForce is how soon a revocation must hold in every service.
const inForce = time.Second

func TestRevocation(t *testing.T) {
	y := newYard(t)
	y.start(y.config())
	y.start(Config{SecretFile: y.config().SecretFile}) // either replica answers
	admin := y.as(y.adminKey())
	off, on := true, false
	viewer := []api.Role{api.RoleViewer}

	for name, c := range map[string]struct {
		kind   string
		revoke func(*caller) error
		again  api.Code // what the user's key is answered afterwards
	}{
		"a key": {trust.KindKey, func(c *caller) error {
			_, err := ask(admin, api.RevokeKey, api.IDRef{ID: c.Key})
			return err
		}, api.CodeUnauthenticated},
		"a key by its owner": {trust.KindKey, func(c *caller) error {
			_, err := ask(c, api.RevokeKey, api.IDRef{ID: c.Key})
			return err
		}, api.CodeUnauthenticated},
		"a disabled user": {trust.KindUser, func(c *caller) error {
			_, err := ask(admin, api.UpdateUser, api.UpdateUserRequest{ID: c.ID, Disabled: &off})
			return err
		}, api.CodeUnauthenticated},
		"a deleted user": {trust.KindUser, func(c *caller) error {
			_, err := ask(admin, api.DeleteUser, api.IDRef{ID: c.ID})
			return err
		}, api.CodeUnauthenticated},
		"a user with other roles": {trust.KindUser, func(c *caller) error {
			_, err := ask(admin, api.UpdateUser, api.UpdateUserRequest{ID: c.ID, Roles: &viewer})
			return err
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			user := admin.user(t, api.NewID('n'))
			if _, err := y.verify.Verify(t.Context(), user.raw); err != nil {
				t.Fatal(err)
			}
			id := user.ID
			if c.kind == trust.KindKey {
				id = user.Key
			}
			asked := time.Now()
			if err := c.revoke(user); err != nil {
				t.Fatal(err)
			}
			y.within(t, c.kind, id, asked)
			_, err := y.verify.Verify(t.Context(), user.raw)
			wantCode(t, err, api.CodeUnauthenticated)
			until(t, "the service itself has learned it", func() bool {
				_, err = ask(user, api.GetMe, api.None{})
				return err != nil
			})
			wantCode(t, err, api.CodeUnauthenticated)
			_, err = y.exchange(user.key)
			wantCode(t, err, c.again)
			if _, err := y.verify.Verify(t.Context(), admin.raw); err != nil {
				t.Errorf("another's token: %v", err)
			}
		})
	}

	t.Run("a disabled tenant", func(t *testing.T) {
		acme := admin.tenant(t, "acme")
		asked := time.Now()
		must(t, admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Disabled: &off})
		y.within(t, trust.KindTenant, "acme", asked)
		_, err := y.verify.Verify(t.Context(), acme.raw)
		wantCode(t, err, api.CodeUnauthenticated)
		must(t, admin, api.UpdateTenant, api.UpdateTenantRequest{Name: "acme", Disabled: &on})
	})

	t.Run("new roles need a new token, at once", func(t *testing.T) {
		user := admin.user(t, "rosa")
		roles := []api.Role{api.RoleViewer}
		must(t, admin, api.UpdateUser, api.UpdateUserRequest{ID: user.ID, Roles: &roles})
		again := y.as(user.key)
		p, err := y.verify.Verify(t.Context(), again.raw)
		wantCode(t, err, "")
		if len(p.Roles) != 1 || p.Roles[0] != api.RoleViewer {
			t.Errorf("got %+v", p)
		}
	})
}

// within fails unless the sessions service learns of a revocation soon enough.
func (y *yard) within(t *testing.T, kind, id string, asked time.Time) {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := y.learned.wait()
		y.mu.Lock()
		at, ok := y.revoked[kind+" "+id]
		y.mu.Unlock()
		if ok {
			if took := at.Sub(asked); took > inForce {
				t.Errorf("in force after %v", took)
			}
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the revocation never arrives")
		}
	}
}

// A process that was killed between a decision and its publication: the decision is in the entity, REVOKED knows nothing.
func TestRepair(t *testing.T) {
	y := newYard(t)
	r := y.start(y.config())
	admin := y.as(y.adminKey())
	acme := admin.tenant(t, "acme")
	key, gone, demoted := admin.user(t, "k"), admin.user(t, "g"), admin.user(t, "d")

	m := bus.Meta{Actor: "test", Verb: "cut short"}
	now := y.clock.now()
	ctx := t.Context()
	if _, err := r.keys.Update(ctx, bus.Key{Tenant: key.Tenant, ID: key.Key}, m, func(k keyRecord) (keyRecord, error) {
		k.RevokedAt = &now
		return k, nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*caller{gone, demoted} {
		if _, err := r.users.Update(ctx, userKey(c.Tenant, c.ID), m, func(u userRecord) (userRecord, error) {
			u.Epoch, u.Deleted = now, c == gone
			return u, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.tenants.Update(ctx, tenantKey("acme"), m, func(t tenantRecord) (tenantRecord, error) {
		t.Disabled, t.Epoch = true, now
		return t, nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*caller{acme, key, gone, demoted} {
		if _, err := y.verify.Verify(ctx, c.raw); err != nil {
			t.Fatalf("revoked before the repair: %v", err)
		}
	}

	// The next leader, here the next process, completes them.
	r.stop(t)
	y.start(y.config())
	for _, c := range []*caller{acme, key, gone, demoted} {
		until(t, c.Name+"'s token is refused", func() bool {
			_, err := y.verify.Verify(ctx, c.raw)
			return isCode(err, api.CodeUnauthenticated)
		})
	}
	until(t, "the deleted user's key is revoked", func() bool {
		for _, k := range must(t, admin, api.ListKeys, api.ListKeysRequest{User: gone.ID}).Items {
			if k.RevokedAt == nil {
				return false
			}
		}
		return true
	})
	if _, err := y.verify.Verify(ctx, admin.raw); err != nil {
		t.Errorf("another's token: %v", err)
	}
	if _, err := y.exchange(demoted.key); err != nil {
		t.Errorf("a new token: %v", err)
	}
}
