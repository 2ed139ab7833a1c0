package sessions

import (
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// quotaRetry is what a caller whose quota is used up is told to wait: sessions end by hand or by their ttl.
const quotaRetry = 30 * time.Second

// quotas bounds live sessions per user and tenant. Live are all that have not ended, paused ones included: they hold a workspace.
type quotas struct {
	cfg     Config
	view    *bus.View[api.SessionRecord]
	users   *bus.View[limits] // auth's ledgers, read only
	tenants *bus.View[limits]

	mu       sync.Mutex
	creating map[string]int // by index value: admitted, and not in the view yet
}

// limits is the part of auth's users and tenants that counts here.
type limits struct {
	MaxSessions int `json:"max_sessions,omitempty"`
}

// admit takes a place for one more session, or returns exhausted. The place must be given back with the
// returned function once the session is in the view, or is not to be.
func (q *quotas) admit(tenant, owner string) (release func(), err error) {
	perUser, perTenant := q.cfg.MaxPerUser, q.cfg.MaxPerTenant
	if e, ok := q.users.Get(bus.Key{Tenant: tenant, ID: owner}); ok && e.State.MaxSessions > 0 {
		perUser = e.State.MaxSessions
	}
	if e, ok := q.tenants.Get(bus.Key{Tenant: tenant, ID: tenant}); ok && e.State.MaxSessions > 0 {
		perTenant = e.State.MaxSessions
	}
	byOwner := ownerValue(tenant, owner)
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.view.Len(indexLiveOwner, byOwner) + q.creating[byOwner]; perUser > 0 && n >= perUser {
		return nil, &api.Error{Code: api.CodeExhausted, RetryAfter: quotaRetry,
			Detail: plural(n, "session") + " of yours have not ended, and that is your limit; end one first"}
	}
	if n := q.view.Len(indexLiveTenant, tenant) + q.creating[tenant]; perTenant > 0 && n >= perTenant {
		return nil, &api.Error{Code: api.CodeExhausted, RetryAfter: quotaRetry,
			Detail: plural(n, "session") + " of your organisation have not ended, and that is its limit; end one first"}
	}
	q.creating[byOwner]++
	q.creating[tenant]++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, k := range []string{byOwner, tenant} {
			if q.creating[k]--; q.creating[k] <= 0 {
				delete(q.creating, k)
			}
		}
	}, nil
}
