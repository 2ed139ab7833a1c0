package sessions_test

import (
	"context"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
)

// declarer is a Declarations that hands on the service and what it is told.
type declarer struct {
	service chan *sessions.Service
	changed chan string
}

func (d *declarer) Follow(ctx context.Context, s *sessions.Service) {
	d.service <- s
	<-ctx.Done()
}

func (d *declarer) Changed(_, session string) {
	select {
	case d.changed <- session:
	default:
	}
}

// people writes auth's records.
type people struct {
	t              *testing.T
	users, tenants *bus.Ledger[map[string]any]
}

func newPeople(t *testing.T, y *yard) *people {
	t.Helper()
	conn := bustest.Connect(t, y.srv, y.ring, "auth")
	open := func(noun string) *bus.Ledger[map[string]any] {
		l, err := bus.OpenLedger[map[string]any](t.Context(), conn, bus.LedgerConfig{Noun: noun})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	p := &people{t: t, users: open("users"), tenants: open("tenants")}
	p.set(p.tenants, bus.Key{Tenant: api.HomeTenant, ID: api.HomeTenant}, map[string]any{"name": api.HomeTenant})
	return p
}

func (p *people) set(l *bus.Ledger[map[string]any], key bus.Key, state map[string]any) {
	p.t.Helper()
	meta := bus.Meta{Actor: "test", Verb: "set"}
	_, err := l.Update(p.t.Context(), key, meta, func(map[string]any) (map[string]any, error) { return state, nil })
	if api.CodeOf(err) == api.CodeNotFound {
		_, err = l.Create(p.t.Context(), key, meta, state)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *people) user(name string, fields map[string]any) string {
	p.t.Helper()
	fields["name"] = name
	p.set(p.users, bus.Key{Tenant: api.HomeTenant, ID: userID(name)}, fields)
	return userID(name)
}

func TestDeclarations(t *testing.T) {
	d := &declarer{service: make(chan *sessions.Service, 1), changed: make(chan string, 1000)}
	y := emptyYard(t, nil)
	y.declarations = d
	people := newPeople(t, y)
	y.start()
	t.Cleanup(func() { y.removeAll(); y.stop() })
	var s *sessions.Service
	select {
	case s = <-d.service:
	case <-time.After(patience):
		t.Fatal("declarations were not followed")
	}
	robot := people.user("robot", map[string]any{"roles": []api.Role{api.RoleService}})
	by := func(user, key string) sessions.Declaration {
		return sessions.Declaration{Tenant: api.HomeTenant, User: user, Key: key}
	}
	req := api.CreateSessionRequest{Title: "one", Prompt: "echo hello", Labels: map[string]string{"a": "1"}, Wait: "running", IdempotencyKey: "not this"}

	t.Run("a session is made once, as its user's", func(t *testing.T) {
		d := by(robot, "k1")
		made, err := s.DeclareSession(t.Context(), d, false, req)
		if err != nil || made.ID != d.SessionID() || made.Owner != robot || made.Tenant != api.HomeTenant || made.Title != "one" {
			t.Fatalf("%+v, %v", made, err)
		}
		again, err := s.DeclareSession(t.Context(), d, false, req)
		if err != nil || again.ID != made.ID {
			t.Fatalf("again: %+v, %v", again, err)
		}
		if now := y.reaches(y.as("robot", api.RoleService), made.ID, api.StateRunning); now.Rev == 0 {
			t.Error("it does not run")
		}
	})
	t.Run("what may change follows, and what is left out stays", func(t *testing.T) {
		d := by(robot, "k1")
		changed := req
		changed.Title, changed.TTL, changed.Labels = "two", api.Duration(time.Hour), map[string]string{"b": "2"}
		now, err := s.DeclareSession(t.Context(), d, true, changed)
		if err != nil || now.Title != "two" || now.TTL.D() != time.Hour || now.Labels["a"] != "1" || now.Labels["b"] != "2" {
			t.Fatalf("%+v, %v", now, err)
		}
		changed.Title, changed.Labels = "", nil
		same, err := s.DeclareSession(t.Context(), d, true, changed)
		if err != nil || same.Rev < now.Rev || same.Title != "two" {
			t.Fatalf("%+v, %v", same, err)
		}
	})
	t.Run("a change is told", func(t *testing.T) {
		want := by(robot, "k1").SessionID()
		for {
			select {
			case got := <-d.changed:
				if got == want {
					return
				}
			case <-time.After(patience):
				t.Fatal("not told")
			}
		}
	})
	t.Run("it is withdrawn, also for who is disabled by now, and not made again", func(t *testing.T) {
		d := by(robot, "k1")
		people.user("robot", map[string]any{"roles": []api.Role{api.RoleService}, "disabled": true})
		defer people.user("robot", map[string]any{"roles": []api.Role{api.RoleService}})
		y.eventually("it has ended", func() bool {
			_, ended, err := s.WithdrawSession(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			return ended
		})
		now, err := s.DeclareSession(t.Context(), d, true, req)
		if err != nil || now.State != api.StateTerminated {
			t.Errorf("%+v, %v", now, err)
		}
		if _, err := s.DeclareSession(t.Context(), by(robot, "unmade"), true, req); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("one whose history ended: %v", err)
		}
		if _, ended, err := s.WithdrawSession(t.Context(), by(robot, "unmade")); err != nil || !ended {
			t.Errorf("withdraw what is not there: %v, %v", ended, err)
		}
	})
	t.Run("nobody gains what the API would refuse", func(t *testing.T) {
		people.user("off", map[string]any{"roles": []api.Role{api.RoleAdmin}, "disabled": true})
		people.user("gone", map[string]any{"roles": []api.Role{api.RoleAdmin}, "deleted": true})
		people.user("viewer", map[string]any{"roles": []api.Role{api.RoleViewer}})
		people.user("few", map[string]any{"roles": []api.Role{api.RoleMember}, "max_sessions": 1})
		for name, want := range map[string]string{"off": "may not sign in", "gone": "may not sign in", "nobody": "may not sign in", "viewer": "session:create"} {
			_, err := s.DeclareSession(t.Context(), by(userID(name), "x"), false, req)
			wantCode(t, err, api.CodeDenied, want)
		}
		_, err := s.DeclareSession(t.Context(), sessions.Declaration{Tenant: "other", User: robot, Key: "x"}, false, req)
		wantCode(t, err, api.CodeDenied, "may not sign in")
		_, err = s.DeclareSession(t.Context(), sessions.Declaration{Tenant: api.HomeTenant, User: "robot", Key: "x"}, false, req)
		wantCode(t, err, api.CodeDenied, "no user's id")
		_, err = s.DeclareSession(t.Context(), by(robot, "bad"), false, api.CreateSessionRequest{Profile: "none", Env: map[string]string{"LD_PRELOAD": "x"}})
		wantCode(t, err, api.CodeInvalid, "reserved")
		y.eventually("the quota is known", func() bool {
			_, err := s.DeclareSession(t.Context(), by(userID("few"), "first"), false, api.CreateSessionRequest{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.DeclareSession(t.Context(), by(userID("few"), api.NewID('x')), false, api.CreateSessionRequest{})
			return api.CodeOf(err) == api.CodeExhausted
		})
	})
	t.Run("a tenant that is disabled declares nothing", func(t *testing.T) {
		key := bus.Key{Tenant: api.HomeTenant, ID: api.HomeTenant}
		people.set(people.tenants, key, map[string]any{"disabled": true})
		defer people.set(people.tenants, key, map[string]any{})
		_, err := s.DeclareSession(t.Context(), by(robot, "y"), false, req)
		wantCode(t, err, api.CodeDenied, "may not sign in")
	})
	t.Run("profiles", func(t *testing.T) { declaredProfiles(t, y, s, people, by) })
}

func declaredProfiles(t *testing.T, y *yard, s *sessions.Service, people *people, by func(user, key string) sessions.Declaration) {
	boss := people.user("boss", map[string]any{"roles": []api.Role{api.RoleAdmin}})
	member := people.user("member", map[string]any{"roles": []api.Role{api.RoleMember}})
	p := api.Profile{Name: "declared", Agent: api.Agent{Kind: "demo"}, Env: map[string]string{"A": "1"}}
	_, err := s.DeclareProfile(t.Context(), by(member, "p"), false, p)
	wantCode(t, err, api.CodeDenied, "profile:write")
	_, err = s.DeclareProfile(t.Context(), by(boss, "p"), false, api.Profile{Name: "declared", Agent: api.Agent{Kind: "nothing"}})
	wantCode(t, err, api.CodeInvalid, "no kind of agent")

	made, err := s.DeclareProfile(t.Context(), by(boss, "p"), false, p)
	if err != nil || made.Rev == 0 {
		t.Fatalf("%+v, %v", made, err)
	}
	if again, err := s.DeclareProfile(t.Context(), by(boss, "p"), true, p); err != nil || again.Rev != made.Rev {
		t.Errorf("an equal profile was written again: %+v, %v", again, err)
	}
	other := p
	other.Description = "something else"
	_, err = s.DeclareProfile(t.Context(), by(boss, "q"), false, other)
	wantCode(t, err, api.CodeConflict, "already")
	if now, err := s.DeclareProfile(t.Context(), by(boss, "p"), true, other); err != nil || now.Description != other.Description || now.Rev == made.Rev {
		t.Errorf("changed: %+v, %v", now, err)
	}
	// Another's declaration of the same name, or one of somebody without the right, removes nothing.
	for _, d := range []sessions.Declaration{by(boss, "q"), by(member, "p")} {
		if err := s.WithdrawProfile(t.Context(), d, d.User == member, p); err != nil {
			t.Error(err)
		}
	}
	admin := y.as("boss", api.RoleAdmin)
	if _, err := rpc.Call(admin, y.client, api.GetProfile, api.NameRef{Name: p.Name}); err != nil {
		t.Errorf("it is gone: %v", err)
	}
	if err := s.WithdrawProfile(t.Context(), by(boss, "p"), true, p); err != nil {
		t.Error(err)
	}
	_, err = rpc.Call(admin, y.client, api.GetProfile, api.NameRef{Name: p.Name})
	wantCode(t, err, api.CodeNotFound, "")
	if err := s.WithdrawProfile(t.Context(), by(boss, "p"), true, p); err != nil {
		t.Errorf("withdrawn twice: %v", err)
	}
	// The built-in one is replaced, and comes back.
	p.Name = "default"
	if _, err := s.DeclareProfile(t.Context(), by(boss, "d"), false, p); err != nil {
		t.Error(err)
	}
	if err := s.WithdrawProfile(t.Context(), by(boss, "d"), true, p); err != nil {
		t.Error(err)
	}
}
