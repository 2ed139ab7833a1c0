package auth

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

// Signing keys live in one entity of SIGNERS, sealed, so that a rotation is one conditional write. Their public halves are
// published in JWKS. A key's life:
//
//	made ── publishLead ──▶ signs ── RotateEvery ──▶ its successor signs ── TokenTTL + retireSlack ──▶ retired
//
// A key is in JWKS from before it signs until its last token has expired.
const (
	// maxPublishLead is how long a key is published before it signs: followers need milliseconds, one that was cut off a reconnect.
	maxPublishLead = 10 * time.Minute
	// retireSlack covers the clocks of other machines.
	retireSlack = time.Minute
	// openEnd is the retirement of a key that has no successor yet: later than any successor.
	openEnd = 100 * 365 * 24 * time.Hour
)

var ringKey = bus.Key{Tenant: yardTenant, ID: "ring"}

// sealedRing is the state of SIGNERS.
type sealedRing struct {
	Keys []sealedKey `json:"keys"`
}

// sealedKey is a signing key whose private half only the secret file's holder can read.
type sealedKey struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	SignFrom  time.Time `json:"sign_from"`
	RetireAt  time.Time `json:"retire_at"`
	Sealed    []byte    `json:"sealed"` // the Ed25519 seed
}

// signing holds the keys that sign and rotates them.
type signing struct {
	*table[sealedRing]
	jwks *bus.Ledger[trust.KeySet]

	s      *Service
	sealer atomic.Pointer[sealer] // nil until start
	ring   atomic.Pointer[token.KeySet]

	mu  sync.Mutex
	rev uint64 // of ring
}

func (g *signing) init(s *Service) {
	g.s = s
	g.ring.Store(&token.KeySet{})
}

// start opens the ring, makes its first key if there is none, and publishes it. Any replica may: the writes are conditional.
func (g *signing) start(ctx context.Context, sec *secret) error {
	sl, err := newSealer(sec.derive("signing key seal v1"))
	if err != nil {
		return err
	}
	g.sealer.Store(&sl)
	if err := g.step(ctx); err != nil {
		return err
	}
	if e, ok := g.view.Get(ringKey); ok {
		return g.load(e)
	}
	return api.Errorf(api.CodeUnavailable, "the signing keys are not there yet")
}

// changed follows the ring that another replica rotated.
func (g *signing) changed(_ *bus.Entry[sealedRing], now bus.Entry[sealedRing]) {
	if g.sealer.Load() == nil || now.Deleted || now.Key != ringKey {
		return
	}
	if err := g.load(now); err != nil {
		g.s.log.Error("the new signing keys cannot be used; signing with the old ones", "err", err)
	}
}

// load opens a ring, unless a newer one is open.
func (g *signing) load(e bus.Entry[sealedRing]) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.Rev <= g.rev {
		return nil
	}
	ring := make(token.KeySet, 0, len(e.State.Keys))
	for _, k := range e.State.Keys {
		key, err := g.unseal(k)
		if err != nil {
			return err
		}
		ring = append(ring, key)
	}
	g.ring.Store(&ring)
	g.rev = e.Rev
	return nil
}

func (g *signing) seal(k token.SigningKey) sealedKey {
	return sealedKey{
		ID: k.ID, CreatedAt: k.CreatedAt, SignFrom: k.SignFrom, RetireAt: k.RetireAt,
		Sealed: g.sealer.Load().seal(k.ID, k.Private.Seed()),
	}
}

func (g *signing) unseal(k sealedKey) (token.SigningKey, error) {
	seed, err := g.sealer.Load().open(k.ID, k.Sealed)
	if err != nil || len(seed) != ed25519.SeedSize {
		return token.SigningKey{}, errWrongSecret(g.s.cfg.SecretFile)
	}
	return token.SigningKey{
		ID: k.ID, Private: ed25519.NewKeyFromSeed(seed),
		CreatedAt: k.CreatedAt, SignFrom: k.SignFrom, RetireAt: k.RetireAt,
	}, nil
}

// step makes the next key when it is time, drops retired ones, and publishes what verifies. It may run again at any time, on
// any replica.
func (g *signing) step(ctx context.Context) error {
	now := g.s.now()
	next, err := g.rotate(ctx, now)
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	if err := g.load(next); err != nil {
		return err
	}
	if err := g.publish(ctx, *g.ring.Load(), now); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

func (g *signing) rotate(ctx context.Context, now time.Time) (bus.Entry[sealedRing], error) {
	meta := bus.Meta{Actor: "service:auth", Verb: "rotate"}
	return put(ctx, g.Ledger, ringKey, meta, func(ring sealedRing) (sealedRing, error) {
		next, changed, err := g.next(ring, now)
		if err == nil && !changed {
			err = bus.ErrUnchanged
		}
		return next, err
	})
}

// next decides the ring that follows ring at now.
func (g *signing) next(ring sealedRing, now time.Time) (_ sealedRing, changed bool, err error) {
	before := len(ring.Keys)
	keys := slices.DeleteFunc(slices.Clone(ring.Keys), func(k sealedKey) bool { return !now.Before(k.RetireAt) })
	changed = len(keys) != before

	var newest sealedKey
	for _, k := range keys {
		if k.SignFrom.After(newest.SignFrom) {
			newest = k
		}
	}
	signFrom := now
	if newest.ID != "" {
		// Before anything is changed: a ring of another secret is not ours to rotate.
		if _, err := g.unseal(newest); err != nil {
			return ring, false, err
		}
		lead := min(g.s.cfg.RotateEvery/4, maxPublishLead)
		due := newest.SignFrom.Add(g.s.cfg.RotateEvery)
		if now.Before(due.Add(-lead)) {
			return sealedRing{Keys: keys}, changed, nil
		}
		signFrom = due
		if at := now.Add(lead); signFrom.Before(at) {
			signFrom = at // the leader was away: late, but published first
		}
	}
	key, err := token.NewSigningKey(now, signFrom, signFrom.Add(openEnd))
	if err != nil {
		return ring, false, err
	}
	for i, k := range keys {
		if end := signFrom.Add(g.s.cfg.TokenTTL + retireSlack); k.RetireAt.After(end) {
			keys[i].RetireAt = end
		}
	}
	return sealedRing{Keys: append(keys, g.seal(key))}, true, nil
}

func (g *signing) publish(ctx context.Context, ring token.KeySet, now time.Time) error {
	var set trust.KeySet
	for _, k := range ring {
		if now.Before(k.RetireAt) {
			set.Keys = append(set.Keys, trust.PublicKey{JWK: k.JWK(), SignFrom: k.SignFrom, RetireAt: k.RetireAt})
		}
	}
	_, err := put(ctx, g.jwks, trust.KeySetKey, bus.Meta{Actor: "service:auth", Verb: "publish"}, func(old trust.KeySet) (trust.KeySet, error) {
		if sameKeys(old, set) {
			return old, bus.ErrUnchanged
		}
		return set, nil
	})
	return err
}

func sameKeys(a, b trust.KeySet) bool {
	return slices.EqualFunc(a.Keys, b.Keys, func(a, b trust.PublicKey) bool {
		return a.JWK == b.JWK && a.SignFrom.Equal(b.SignFrom) && a.RetireAt.Equal(b.RetireAt)
	})
}

// mint signs an access token for p, that lives for at most ttl, with the newest key that signs and that is published.
func (g *signing) mint(p api.Principal, now time.Time, ttl time.Duration) (raw string, life time.Duration, err error) {
	published := g.s.trust.VerifyingKeys()
	var usable token.KeySet
	for _, k := range *g.ring.Load() {
		if _, ok := published[k.ID]; ok {
			usable = append(usable, k)
		}
	}
	key, ok := usable.Signer(now)
	if !ok {
		return "", 0, api.Errorf(api.CodeUnavailable, "no key signs yet; try again in a moment")
	}
	life = min(ttl, key.RetireAt.Sub(now)).Truncate(time.Second)
	raw, err = token.Mint(key, p, now, life)
	if err != nil {
		return "", 0, errors.Join(api.Errorf(api.CodeInternal, "sign"), err)
	}
	return raw, life, nil
}

// keySet answers api.JWKS: the keys that verify, those that do not sign yet included.
func (s *Service) keySet(context.Context, api.None) (api.JWKSResponse, error) {
	set := api.JWKSResponse{Keys: []api.JWK{}}
	verifying := s.trust.VerifyingKeys()
	for _, k := range s.trust.Published().Keys {
		if _, ok := verifying[k.JWK.ID]; ok {
			set.Keys = append(set.Keys, k.JWK)
		}
	}
	return set, nil
}
