package gateway

import (
	"context"
	"sync"
	"sync/atomic"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// table is what the gateway knows of every session: the SESSIONS ledger's newest state, in memory. Reads never touch the bus.
type table struct {
	view *bus.View[api.SessionRecord]
	head atomic.Uint64 // the newest revision in rows

	mu   sync.RWMutex
	rows map[bus.Key]*row
}

// row is one session, as of one revision. It is not modified after it was put into the table.
type row struct {
	key  bus.Key
	rev  uint64
	last api.Change[struct{}] // who did what, without the state
	rec  api.SessionRecord
	to   endpoint // where its runner serves; zero: nowhere
}

// The indexes of what may be caught up with.
const (
	byTenant = "tenant"
	byOwner  = "owner" // tenant/owner
)

func ownerValue(tenant, owner string) string { return tenant + "/" + owner }

// among returns the index that lists what p may see with read, and little else: a catch-up costs who may see their own only nothing
// for what others own.
func among(p api.Principal, read api.Permission) (index, value string) {
	if p.Can(read.Any()) {
		return byTenant, p.Tenant
	}
	return byOwner, ownerValue(p.Tenant, p.ID)
}

// newTable returns an empty table. changed is called after each change was applied, in order; a nil now says that the
// session was purged or deleted.
func newTable(c *bus.Conn, changed func(old, now *row)) *table {
	t := &table{rows: map[bus.Key]*row{}}
	ledger := bus.ReadLedger[api.SessionRecord](c, "sessions")
	t.view = ledger.View(bus.ViewConfig[api.SessionRecord]{
		Indexes: map[string]func(bus.Entry[api.SessionRecord]) []string{
			byTenant: func(e bus.Entry[api.SessionRecord]) []string { return []string{e.Key.Tenant} },
			byOwner: func(e bus.Entry[api.SessionRecord]) []string {
				return []string{ownerValue(e.Key.Tenant, e.State.Owner)}
			},
		},
		OnChange: func(_ *bus.Entry[api.SessionRecord], now bus.Entry[api.SessionRecord]) {
			old, row := t.apply(now)
			if old != nil || row != nil {
				changed(old, row)
			}
		},
	})
	return t
}

func (t *table) apply(e bus.Entry[api.SessionRecord]) (old, now *row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old = t.rows[e.Key]
	t.head.Store(max(t.head.Load(), e.Rev))
	if e.Deleted {
		delete(t.rows, e.Key)
		return old, nil
	}
	now = newRow(e)
	t.rows[e.Key] = now
	return old, now
}

func newRow(e bus.Entry[api.SessionRecord]) *row {
	r := &row{
		key: e.Key, rev: e.Rev, rec: e.State,
		last: api.Change[struct{}]{Rev: e.Rev, At: e.At, Actor: e.Actor, Verb: e.Verb, Reason: e.Reason},
		to:   parseEndpoint(e.State.Endpoint, e.State.EndpointKey),
	}
	r.rec.Rev = e.Rev
	return r
}

// run feeds the table until ctx ends.
func (t *table) run(ctx context.Context) error { return t.view.Run(ctx) }

// ready is closed when the table holds every session that there was when run began.
func (t *table) ready() <-chan struct{} { return t.view.Ready() }

func (t *table) get(key bus.Key) (*row, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, ok := t.rows[key]
	return r, ok
}

// find returns the session id if p holds permission want on it. What p may not even read is not_found, as if it did not
// exist; what p may read but not do is denied.
func (t *table) find(p api.Principal, id string, want api.Permission) (*row, error) {
	if !api.ValidID(api.KindSession, id) {
		return nil, errNoAccess
	}
	r, ok := t.get(bus.Key{Tenant: p.Tenant, ID: id})
	if !ok {
		if !closed(t.ready()) {
			return nil, &api.Error{Code: api.CodeUnavailable, Detail: "the gateway is starting; try again", RetryAfter: retrySoon}
		}
		return nil, errNoAccess
	}
	if p.CanOn(want, r.key.Tenant, r.rec.Owner) {
		return r, nil
	}
	if p.CanOn(api.SessionRead, r.key.Tenant, r.rec.Owner) {
		return nil, api.Errorf(api.CodeDenied, "this needs the permission %s on the session", want)
	}
	return nil, errNoAccess
}

// since returns the sessions that p may see whose newest change is after rev.
func (t *table) since(p api.Principal, rev uint64) []*row {
	var rows []*row
	index, value := among(p, api.SessionRead)
	for _, e := range t.view.List(index, value, 0, maxVisible, func(e bus.Entry[api.SessionRecord]) bool {
		return e.Rev > rev && p.CanOn(api.SessionRead, e.Key.Tenant, e.State.Owner)
	}) {
		if r, ok := t.get(e.Key); ok && r.rev > rev {
			rows = append(rows, r)
		}
	}
	return rows
}

// maxVisible bounds one catch-up of the feed; what is beyond follows in the next.
const maxVisible = 100_000
