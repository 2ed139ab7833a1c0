package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/trust"
)

// yardTenant is the subject token of entities that belong to the yard and to no tenant.
const yardTenant = "yard"

// tenantRecord is the state of TENANTS.
type tenantRecord struct {
	api.Tenant
	// Admins are users that are admins and enabled: all of them, but for one whose change was cut short. The last one cannot leave
	// it, and whoever stops being an admin leaves it first, which makes "the last admin" a single conditional write.
	Admins []string `json:"admins"`
	// Epoch ends the tokens issued before it; see revocation.go.
	Epoch time.Time `json:"epoch,omitzero"`
}

// userRecord is the state of USERS.
type userRecord struct {
	api.User
	// Deleted users stay as records, so that neither their id nor what they own is inherited by a new user of the same name.
	Deleted bool      `json:"deleted,omitempty"`
	Epoch   time.Time `json:"epoch,omitzero"`
}

func (u userRecord) activeAdmin() bool {
	return !u.Deleted && !u.Disabled && slices.Contains(u.Roles, api.RoleAdmin)
}

// keyRecord is the state of KEYS: an API key without its secret.
type keyRecord struct {
	api.Key
	Lookup string `json:"lookup"` // the prefix that names it
	Hash   []byte `json:"hash"`   // HMAC-SHA-256 of the whole key
}

// lastUsed is the state of LASTUSED: one entity per API key.
type lastUsed struct {
	At time.Time `json:"at"`
}

// table is a ledger that this service owns, with its view, which the ledger's own writes are in at once.
type table[T any] struct {
	*bus.Ledger[T]
	view *bus.View[T]
}

func openTable[T any](ctx context.Context, c *bus.Conn, cfg bus.LedgerConfig, vc bus.ViewConfig[T]) (*table[T], error) {
	l, err := bus.OpenLedger[T](ctx, c, cfg)
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", cfg.Noun, err)
	}
	return &table[T]{l, l.View(vc)}, nil
}

// find reads key from memory, or from the bus when another replica may just have made it.
func (t *table[T]) find(ctx context.Context, key bus.Key) (bus.Entry[T], error) {
	if e, ok := t.view.Get(key); ok {
		return e, nil
	}
	return t.Get(ctx, key)
}

// put updates the entity of key, or creates it from the zero state when there is none.
func put[T any](ctx context.Context, l *bus.Ledger[T], key bus.Key, meta bus.Meta, f func(T) (T, error)) (bus.Entry[T], error) {
	// Two turns suffice: what another replica created in between is there to be updated.
	for turn := 0; ; turn++ {
		e, err := l.Update(ctx, key, meta, f)
		if !isCode(err, api.CodeNotFound) {
			return e, err
		}
		var zero T
		state, err := f(zero)
		if err != nil {
			return bus.Entry[T]{}, err
		}
		e, err = l.Create(ctx, key, meta, state)
		if !isCode(err, api.CodeConflict) || turn > 0 {
			return e, err
		}
	}
}

func isCode(err error, code api.Code) bool {
	return err != nil && errors.Is(err, &api.Error{Code: code})
}

// The names of the views' indexes.
const (
	byAll     = "all"     // ""
	byTenant  = "tenant"  // <tenant>
	byUser    = "user"    // <tenant>/<user>
	byLive    = "live"    // <tenant>/<user>: keys that are not revoked
	byLookup  = "lookup"  // an API key's prefix
	byActor   = "actor"   // <tenant>/<actor>
	byAction  = "action"  // <tenant>/<action>
	byBoth    = "both"    // <tenant>/<actor>/<action>
	byRevoked = "revoked" // "": what may have to be in REVOKED
)

// openLedgers makes or updates every stream; it waits for the bus until ctx ends.
func (s *Service) openLedgers(ctx context.Context) (err error) {
	c, replicas := s.deps.Bus, s.cfg.Replicas
	s.tenants, err = openTable(ctx, c, bus.LedgerConfig{Noun: "tenants", Replicas: replicas}, bus.ViewConfig[tenantRecord]{
		Indexes: map[string]func(bus.Entry[tenantRecord]) []string{
			byAll: func(bus.Entry[tenantRecord]) []string { return []string{""} },
			byRevoked: func(e bus.Entry[tenantRecord]) []string {
				return when(!e.State.Epoch.IsZero(), "")
			},
		},
	})
	if err != nil {
		return err
	}
	s.users, err = openTable(ctx, c, bus.LedgerConfig{Noun: "users", Replicas: replicas}, bus.ViewConfig[userRecord]{
		Indexes: map[string]func(bus.Entry[userRecord]) []string{
			byTenant: func(e bus.Entry[userRecord]) []string { return when(!e.State.Deleted, e.Key.Tenant) },
			byRevoked: func(e bus.Entry[userRecord]) []string {
				return when(!e.State.Epoch.IsZero(), "")
			},
		},
	})
	if err != nil {
		return err
	}
	s.keys, err = openTable(ctx, c, bus.LedgerConfig{Noun: "keys", Replicas: replicas}, bus.ViewConfig[keyRecord]{
		Indexes: map[string]func(bus.Entry[keyRecord]) []string{
			byTenant: func(e bus.Entry[keyRecord]) []string { return []string{e.Key.Tenant} },
			byUser:   func(e bus.Entry[keyRecord]) []string { return []string{e.Key.Tenant + "/" + e.State.User} },
			byLive: func(e bus.Entry[keyRecord]) []string {
				return when(e.State.RevokedAt == nil, e.Key.Tenant+"/"+e.State.User)
			},
			byLookup:  func(e bus.Entry[keyRecord]) []string { return []string{e.State.Lookup} },
			byRevoked: func(e bus.Entry[keyRecord]) []string { return when(e.State.RevokedAt != nil, "") },
		},
		OnChange: func(*bus.Entry[keyRecord], bus.Entry[keyRecord]) { s.keysChanged.announce() },
	})
	if err != nil {
		return err
	}
	// Last use is worth no history.
	s.lastUsed, err = openTable(ctx, c, bus.LedgerConfig{Noun: "lastused", History: 1, Replicas: replicas}, bus.ViewConfig[lastUsed]{})
	if err != nil {
		return err
	}
	s.audit.table, err = openTable(ctx, c, bus.LedgerConfig{Noun: "audit", MaxAge: s.cfg.AuditMaxAge, History: 1, Replicas: replicas}, bus.ViewConfig[api.AuditRecord]{
		Indexes: map[string]func(bus.Entry[api.AuditRecord]) []string{
			byTenant: func(e bus.Entry[api.AuditRecord]) []string { return []string{e.Key.Tenant} },
			byActor:  func(e bus.Entry[api.AuditRecord]) []string { return []string{e.Key.Tenant + "/" + e.State.Actor} },
			byAction: func(e bus.Entry[api.AuditRecord]) []string { return []string{e.Key.Tenant + "/" + e.State.Action} },
			byBoth: func(e bus.Entry[api.AuditRecord]) []string {
				return []string{e.Key.Tenant + "/" + e.State.Actor + "/" + e.State.Action}
			},
		},
	})
	if err != nil {
		return err
	}
	// History 2: a key that was rotated out should not stay readable, sealed or not.
	s.signing.table, err = openTable(ctx, c, bus.LedgerConfig{Noun: "signers", History: 2, Replicas: replicas}, bus.ViewConfig[sealedRing]{
		OnChange: s.signing.changed,
	})
	if err != nil {
		return err
	}
	if s.signing.jwks, err = bus.OpenLedger[trust.KeySet](ctx, c, bus.LedgerConfig{Noun: trust.JWKSNoun, Replicas: replicas}); err != nil {
		return fmt.Errorf("open ledger %s: %w", trust.JWKSNoun, err)
	}
	s.revoked, err = bus.OpenLedger[trust.Revocation](ctx, c, bus.LedgerConfig{Noun: trust.RevokedNoun, MaxAge: trust.RevokedMaxAge, Replicas: replicas})
	if err != nil {
		return fmt.Errorf("open ledger %s: %w", trust.RevokedNoun, err)
	}
	return nil
}

func when(ok bool, value string) []string {
	if ok {
		return []string{value}
	}
	return nil
}
