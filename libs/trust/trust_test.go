package trust

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

const patience = 20 * time.Second

var (
	_ token.KeySource   = (*Store)(nil)
	_ token.Revocations = (*Store)(nil)
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// follow runs a store and returns a function that waits for a condition on it.
func follow(t *testing.T, s *Store) (until func(what string, ok func() bool)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(what string, ok func() bool) {
		t.Helper()
		deadline := time.After(patience)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("not in time: %s", what)
			}
		}
	}
}

func key(t *testing.T, signFrom, retireAt time.Time) (token.SigningKey, PublicKey) {
	t.Helper()
	k, err := token.NewSigningKey(signFrom, signFrom, retireAt)
	if err != nil {
		t.Fatal(err)
	}
	return k, PublicKey{JWK: k.JWK(), SignFrom: k.SignFrom, RetireAt: k.RetireAt}
}

func TestStore(t *testing.T) {
	srv, ring := bustest.New(t)
	owner := bustest.Connect(t, srv, ring, "auth")
	s := New(bustest.Connect(t, srv, ring, "tcagent"), discard())
	var mu sync.Mutex
	told := map[string]int{}
	s.OnRevoke(func(kind, id string) {
		mu.Lock()
		told[kind+" "+id]++
		mu.Unlock()
	})
	until := follow(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	// Nothing is there yet, not even the streams.
	if s.Check(ctx) == nil || len(s.VerifyingKeys()) != 0 {
		t.Fatal("trusts something before there is anything")
	}
	jwks, err := bus.OpenLedger[KeySet](ctx, owner, bus.LedgerConfig{Noun: JWKSNoun})
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := bus.OpenLedger[Revocation](ctx, owner, bus.LedgerConfig{Noun: RevokedNoun, MaxAge: RevokedMaxAge})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a, pubA := key(t, now, now.Add(time.Hour))
	b, pubB := key(t, now, now.Add(2*time.Hour))
	m := bus.Meta{Actor: "test", Verb: "publish"}
	set := func(keys ...PublicKey) {
		t.Helper()
		if _, err := jwks.Create(ctx, KeySetKey, m, KeySet{Keys: keys}); err == nil {
			return
		}
		if _, err := jwks.Update(ctx, KeySetKey, m, func(KeySet) (KeySet, error) { return KeySet{Keys: keys}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	set(pubA)
	select {
	case <-s.Ready():
	case <-ctx.Done():
		t.Fatal("never ready")
	}
	if got := s.VerifyingKeys(); len(got) != 1 || !got[a.ID].Equal(a.Private.Public().(ed25519.PublicKey)) {
		t.Fatalf("got %v", got)
	}
	set(pubA, pubB)
	until("both keys", func() bool { return len(s.VerifyingKeys()) == 2 })

	t.Run("retires a key in time, without being told", func(t *testing.T) {
		late := New(bustest.Connect(t, srv, ring, "scheduler"), discard())
		at := now
		late.Now = func() time.Time { return at }
		u := follow(t, late)
		u("both keys", func() bool { return len(late.VerifyingKeys()) == 2 })
		// The clock is read by this goroutine alone from here on: nothing is revoked meanwhile.
		at = now.Add(time.Hour)
		if got := late.VerifyingKeys(); len(got) != 1 || got[b.ID] == nil {
			t.Errorf("got %v", got)
		}
	})

	p := api.Principal{ID: "u1", Tenant: "acme", Key: "k1"}
	other := api.Principal{ID: "u2", Tenant: "beta", Key: "k2"}
	for _, c := range []struct {
		name     string
		r        Revocation
		old, new bool // is a token of before, and of after, revoked?
	}{
		{"a key", Revocation{Kind: KindKey, ID: "k1", Active: true, Before: now}, true, true},
		{"a disabled user", Revocation{Kind: KindUser, ID: "u1", Active: true, Before: now}, true, true},
		{"a changed user", Revocation{Kind: KindUser, ID: "u1", Before: now}, true, false},
		{"a disabled tenant", Revocation{Kind: KindTenant, ID: "acme", Active: true, Before: now}, true, true},
		{"an enabled tenant", Revocation{Kind: KindTenant, ID: "acme", Before: now}, true, false},
		{"a user called like the key", Revocation{Kind: KindUser, ID: "k1", Active: true, Before: now}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			fresh := New(bustest.Connect(t, srv, ring, "sessions"), discard())
			fresh.learn(c.r, now.Add(time.Hour))
			if got := fresh.Revoked(p, now.Add(-time.Second)); got != c.old {
				t.Errorf("an old token: %v", got)
			}
			if !fresh.Revoked(p, now) && c.old {
				t.Error("a token of that very moment is not revoked")
			}
			if got := fresh.Revoked(p, now.Add(time.Second)); got != c.new {
				t.Errorf("a new token: %v", got)
			}
			if fresh.Revoked(other, now.Add(-time.Second)) {
				t.Error("another's token is revoked")
			}
		})
	}

	t.Run("follows", func(t *testing.T) {
		e, err := revoked.Create(ctx, RevocationKey("acme", KindUser, "u1"), m, Revocation{Kind: KindUser, ID: "u1", Active: true, Before: now})
		if err != nil {
			t.Fatal(err)
		}
		until("the revocation", func() bool { return s.Revoked(p, now.Add(time.Second)) })
		s.Apply(e) // what is known already is told once
		if _, err := revoked.Update(ctx, e.Key, m, func(r Revocation) (Revocation, error) {
			r.Active = false
			return r, nil
		}); err != nil {
			t.Fatal(err)
		}
		until("the end of the revocation", func() bool { return !s.Revoked(p, now.Add(time.Second)) })
		mu.Lock()
		defer mu.Unlock()
		if told["user u1"] != 2 || len(told) != 1 {
			t.Errorf("told %v", told)
		}
	})
	t.Run("forgets what outlived every token", func(t *testing.T) {
		s := New(bustest.Connect(t, srv, ring, "sessions"), discard())
		at := now
		s.Now = func() time.Time { return at }
		s.learn(Revocation{Kind: KindKey, ID: "old", Active: true}, now.Add(RevokedMaxAge))
		at = now.Add(RevokedMaxAge + time.Second)
		s.learn(Revocation{Kind: KindKey, ID: "new", Active: true}, at.Add(RevokedMaxAge))
		if _, ok := s.Revocation(KindKey, "old"); ok || len(s.revocations) != 1 {
			t.Errorf("holds %v", s.revocations)
		}
	})
	t.Run("believes no broken set", func(t *testing.T) {
		broken := pubA
		broken.JWK.X = "AA"
		set(broken, pubB)
		until("nothing verifies", func() bool { return len(s.VerifyingKeys()) == 0 })
		set(pubB)
		until("the mended set", func() bool { return len(s.VerifyingKeys()) == 1 })
	})
}

// A service that is refused nothing by auth may still tell it; here auth is a server that only listens.
func TestDenials(t *testing.T) {
	srv, ring := bustest.New(t)
	now := time.Now()
	k, _ := key(t, now.Add(-time.Minute), now.Add(time.Hour))
	verifier := token.NewVerifier(fixed{k.ID: k.Private.Public().(ed25519.PublicKey)}, nil, nil)
	raw, err := token.Mint(k, api.Principal{ID: "u1", Tenant: "acme", Roles: []api.Role{api.RoleViewer}}, now, time.Minute)
	if err != nil {
		t.Fatal(err)
	}

	got := make(chan api.RecordDenialRequest, 8)
	by := make(chan api.Principal, 8)
	auth := rpc.NewServer(bustest.Connect(t, srv, ring, "auth"), rpc.ServerConfig{Service: "auth", Auth: verifier, Logger: discard()})
	rpc.Handle(auth, api.RecordDenial, func(ctx context.Context, req api.RecordDenialRequest) (api.None, error) {
		p, _ := api.PrincipalFrom(ctx)
		by <- p
		got <- req
		return api.None{}, nil
	})
	sessionsConn := bustest.Connect(t, srv, ring, "sessions")
	denials := NewDenials(rpc.NewClient(sessionsConn, rpc.ClientConfig{Name: "sessions"}), discard())
	sessions := rpc.NewServer(sessionsConn, rpc.ServerConfig{Service: "sessions", Auth: verifier, Logger: discard(), Denied: denials.Denied})
	rpc.Handle(sessions, api.CreateSession, func(context.Context, api.CreateSessionRequest) (api.Session, error) {
		return api.Session{}, nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for _, run := range []func(context.Context) error{auth.Run, sessions.Run, denials.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	deadline, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for _, s := range []*rpc.Server{auth, sessions} {
		if err := s.Ready(deadline); err != nil {
			t.Fatal(err)
		}
	}
	gateway := rpc.NewClient(bustest.Connect(t, srv, ring, "gateway"), rpc.ClientConfig{Name: "gateway"})
	if _, err := rpc.Call(deadline, gateway, api.CreateSession, api.CreateSessionRequest{}); api.CodeOf(err) != api.CodeUnauthenticated {
		t.Fatalf("without a token: %v", err)
	}
	if _, err := rpc.Call(token.WithRaw(deadline, raw), gateway, api.CreateSession, api.CreateSessionRequest{}); api.CodeOf(err) != api.CodeDenied {
		t.Fatalf("a viewer: %v", err)
	}
	select {
	case req := <-got:
		if p := <-by; p.ID != "u1" || p.Tenant != "acme" || req.Action != "sessions.create" || req.Detail == "" {
			t.Errorf("auth hears %+v of %+v", req, p)
		}
	case <-deadline.Done():
		t.Fatal("auth hears nothing")
	}
	if len(got) != 0 {
		t.Errorf("auth hears more: %+v", <-got)
	}
	denials.Acted(context.Background(), api.PutSecret.Info(), "TOKEN") // of nobody
	denials.Acted(token.WithRaw(deadline, raw), api.PutSecret.Info(), "TOKEN")
	select {
	case req := <-got:
		if p := <-by; p.ID != "u1" || req.Action != "sessions.secret-put" || req.Object != "TOKEN" || !req.Done {
			t.Errorf("auth hears %+v of %+v", req, p)
		}
	case <-deadline.Done():
		t.Fatal("auth hears nothing of an act")
	}
}

type fixed map[string]ed25519.PublicKey

func (f fixed) VerifyingKeys() map[string]ed25519.PublicKey { return f }
