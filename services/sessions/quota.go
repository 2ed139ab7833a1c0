package sessions

import (
	"maps"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// quotaRetry is what a caller whose quota is used up is told to wait: sessions end by hand or by their ttl.
const quotaRetry = 30 * time.Second

// crowdedRetry is what a caller is told to wait while too many sessions are being started: some seconds see many of them through.
const crowdedRetry = 5 * time.Second

// crowded returns exhausted when as many sessions are being started as may be, whoever's they are. Who comes now would wait behind them until the
// start timeout; it is better told to come again.
func (s *Service) crowded() error {
	n := s.view.Len(indexStarting, allStarting)
	if s.cfg.MaxStarting <= 0 || n < s.cfg.MaxStarting {
		return nil
	}
	return &api.Error{Code: api.CodeExhausted, RetryAfter: crowdedRetry, Detail: plural(n, "session") + " are being started, and that is as many as may be at once"}
}

// quotas bounds live sessions per user and tenant. Live are all that have not ended, paused ones included: they hold a workspace.
type quotas struct {
	cfg     Config
	view    *bus.View[api.SessionRecord]
	users   *bus.View[limits] // auth's ledgers, read only
	tenants *bus.View[limits]

	mu       sync.Mutex
	creating map[string]map[bus.Key]int // by index value: how often admitted; perhaps in the view already
}

// limits is the part of auth's users and tenants that counts here.
type limits struct {
	MaxSessions int `json:"max_sessions,omitempty"`
}

// bounds returns how many sessions of one user and of one tenant may live; zero: any number.
func (q *quotas) bounds(tenant, owner string) (perUser, perTenant int) {
	perUser, perTenant = q.cfg.MaxPerUser, q.cfg.MaxPerTenant
	if e, ok := q.users.Get(bus.Key{Tenant: tenant, ID: owner}); ok && e.State.MaxSessions > 0 {
		perUser = e.State.MaxSessions
	}
	if e, ok := q.tenants.Get(bus.Key{Tenant: tenant, ID: tenant}); ok && e.State.MaxSessions > 0 {
		perTenant = e.State.MaxSessions
	}
	return perUser, perTenant
}

// admit takes a place for the session that is to be key, or returns exhausted. The place must be given back with the
// returned function once the session is in the view, or is not to be.
func (q *quotas) admit(key bus.Key, owner string) (release func(), err error) {
	perUser, perTenant := q.bounds(key.Tenant, owner)
	byOwner := ownerValue(key.Tenant, owner)
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.view.LenWith(indexLiveOwner, byOwner, maps.Keys(q.creating[byOwner])); perUser > 0 && n >= perUser {
		return nil, &api.Error{Code: api.CodeExhausted, RetryAfter: quotaRetry,
			Detail: plural(n, "session") + " of yours have not ended, and that is your limit; end one first"}
	}
	if n := q.view.LenWith(indexLiveTenant, key.Tenant, maps.Keys(q.creating[key.Tenant])); perTenant > 0 && n >= perTenant {
		return nil, &api.Error{Code: api.CodeExhausted, RetryAfter: quotaRetry,
			Detail: plural(n, "session") + " of your organisation have not ended, and that is its limit; end one first"}
	}
	places := []string{byOwner, key.Tenant}
	for _, place := range places {
		if q.creating[place] == nil {
			q.creating[place] = map[bus.Key]int{}
		}
		q.creating[place][key]++
	}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, place := range places {
			if q.creating[place][key]--; q.creating[place][key] > 0 {
				continue // the same request twice at once
			}
			if delete(q.creating[place], key); len(q.creating[place]) == 0 {
				delete(q.creating, place)
			}
		}
	}, nil
}

// overQuota returns why the pending session of e must not start. Each replica admits by its own view, so that several which admit at
// the same time may admit too many; the one that reconciles refuses those that came last, before anything of
// them exists. known is false while its view may lack an earlier one.
func (s *Service) overQuota(e bus.Entry[api.SessionRecord]) (reason string, known bool) {
	if !s.deps.Info.Shared {
		return "", true
	}
	if s.view.Seen() < e.Created {
		return "", false
	}
	perUser, perTenant := s.quotas.bounds(e.Key.Tenant, e.State.Owner)
	for _, place := range []struct {
		index, value, whose string
		bound               int
	}{
		{indexLiveOwner, ownerValue(e.Key.Tenant, e.State.Owner), "yours", perUser},
		{indexLiveTenant, e.Key.Tenant, "your organisation", perTenant},
	} {
		if place.bound <= 0 || s.view.Len(place.index, place.value) <= place.bound {
			continue
		}
		if len(s.view.List(place.index, place.value, e.Created, place.bound, nil)) == place.bound {
			return plural(place.bound, "session") + " of " + place.whose + " had not ended when this one was created, and that is the limit", true
		}
	}
	return "", true
}
