package auth

import (
	"context"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// Whatever replica answers, a client finds what another has just made.
func TestReplicas(t *testing.T) {
	y := newYard(t)
	first := y.start(y.config())
	y.start(Config{SecretFile: y.config().SecretFile})
	admin := y.as(y.adminKey())

	t.Run("know each other's writes at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				u, err := ask(admin, api.CreateUser, api.CreateUserRequest{Name: api.NewID('n')})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := ask(admin, api.GetUser, api.IDRef{ID: u.ID}); err != nil {
					t.Errorf("get what was made: %v", err)
				}
				k, err := ask(admin, api.CreateKey, api.CreateKeyRequest{Name: "k", User: u.ID})
				if err != nil {
					t.Errorf("a key for it: %v", err)
					return
				}
				if _, err := y.exchange(k.Secret); err != nil {
					t.Errorf("its exchange: %v", err)
				}
				if _, err := ask(admin, api.RevokeKey, api.IDRef{ID: k.ID}); err != nil {
					t.Errorf("its revocation: %v", err)
				}
				if _, err := y.exchange(k.Secret); !isCode(err, api.CodeUnauthenticated) && !isCode(err, api.CodeExhausted) {
					t.Errorf("its exchange after that: %v", err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("give one name once", func(t *testing.T) {
		made := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := ask(admin, api.CreateUser, api.CreateUserRequest{Name: "twin"})
				_, terr := ask(admin, api.CreateTenant, api.CreateTenantRequest{Name: "twin"})
				mu.Lock()
				defer mu.Unlock()
				for _, err := range []error{err, terr} {
					switch {
					case err == nil:
						made++
					case !isCode(err, api.CodeConflict):
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if made != 2 {
			t.Errorf("%d made, want one user and one tenant", made)
		}
	})
	t.Run("go on when one stops", func(t *testing.T) {
		stop := make(chan struct{})
		done := make(chan struct{})
		calls := 0
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := ask(admin, api.GetMe, api.None{}); err != nil {
					t.Errorf("call %d: %v", calls, err)
					return
				}
				calls++
			}
		}()
		until(t, "calls are answered", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := rpc.Call(ctx, y.client, api.JWKS, api.None{})
			return err == nil
		})
		first.stop(t)
		for range 20 {
			must(t, admin, api.GetMe, api.None{})
		}
		close(stop)
		<-done
		if calls == 0 {
			t.Error("nothing was called meanwhile")
		}
	})
}

// The state outlives the bus.
func TestBusAway(t *testing.T) {
	y := newYard(t)
	y.start(y.config())
	admin := y.as(y.adminKey())
	user := admin.user(t, "mia")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	y.srv.Close()
	if _, err := rpc.Call(ctx, y.client, api.Exchange, api.ExchangeRequest{Key: user.key}); !isCode(err, api.CodeUnavailable) {
		t.Errorf("without a bus: %v", err)
	}
	if _, err := y.verify.Verify(t.Context(), user.raw); err != nil {
		t.Errorf("a token does not verify without the bus: %v", err)
	}
}
