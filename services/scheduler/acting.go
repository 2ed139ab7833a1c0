package scheduler

import (
	"context"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

// actingScopes is all that the scheduler does in an owner's name.
var actingScopes = []api.Permission{api.SessionCreate, api.SessionRead, api.SessionWrite, api.SessionDelete}

// actingMargin is how long before its end a token is no longer used.
const actingMargin = 30 * time.Second

// acting holds short tokens of the owners whose tasks run. They are in memory only, and asked for anew when they end, so
// what an owner may no longer do its tasks may not either.
type acting struct {
	client *rpc.Client
	now    func() time.Time

	mu     sync.Mutex
	owners map[bus.Key]*ownerToken
}

type ownerToken struct {
	mu    sync.Mutex // held while one is asked for
	raw   string
	until time.Time
}

func newActing(client *rpc.Client, now func() time.Time) *acting {
	return &acting{client: client, now: now, owners: map[bus.Key]*ownerToken{}}
}

// as returns ctx with which to act as owner. Errors: denied when the owner may not sign in any more, unavailable.
func (a *acting) as(ctx context.Context, tenant, owner, purpose string) (context.Context, error) {
	key := keyIn(tenant, owner)
	a.mu.Lock()
	t := a.owners[key]
	if t == nil {
		a.forgetLocked()
		t = &ownerToken{}
		a.owners[key] = t
	}
	a.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.now().Add(actingMargin).Before(t.until) {
		return token.WithRaw(ctx, t.raw), nil
	}
	asked := a.now()
	resp, err := rpc.CallAsService(ctx, a.client, api.ActAs, api.ActAsRequest{Tenant: tenant, User: owner, Scopes: actingScopes, Purpose: purpose})
	if err != nil {
		return nil, err
	}
	t.raw, t.until = resp.AccessToken, asked.Add(time.Duration(resp.ExpiresIn)*time.Second)
	return token.WithRaw(ctx, t.raw), nil
}

// drop forgets a token that was refused.
func (a *acting) drop(tenant, owner string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.owners, keyIn(tenant, owner))
}

// forgetLocked drops tokens that have ended, so that there are never more than owners with running tasks.
func (a *acting) forgetLocked() {
	for key, t := range a.owners {
		if t.mu.TryLock() {
			if t.until.Before(a.now()) {
				delete(a.owners, key)
			}
			t.mu.Unlock()
		}
	}
}
