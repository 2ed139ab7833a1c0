// Package auth is the service that knows who may do what: tenants, users and their roles, API keys, the access tokens
// that keys are exchanged for, and the audit record of it all.
//
// Its state is its ledgers on the bus (ledgers.go), each with a view in memory, so any number of replicas answer. What every
// other service needs, the public keys and the revocations, it publishes for libs/trust to follow: nobody asks this service
// about a token.
package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

// Deps is what the service works with.
type Deps struct {
	Bus     *bus.Conn
	Logger  *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
	Clock   func() time.Time      // nil: time.Now
	// Announce receives the bootstrap key when there is no file for it; nil: os.Stderr.
	Announce io.Writer
}

// Service answers the operations of libs/api/ops_auth.go.
type Service struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	now   func() time.Time
	id    string // of this process, among the replicas
	ready chan struct{}

	trust  *trust.Store
	server *rpc.Server
	guard  *guard

	// Set by Run before the server answers.
	pepper   []byte
	tenants  *table[tenantRecord]
	users    *table[userRecord]
	keys     *table[keyRecord]
	lastUsed *table[lastUsed]
	revoked  *bus.Ledger[trust.Revocation] // followed by trust
	audit    audit
	signing  signing
	usage    usage

	keysChanged broadcast
}

// The pace of what happens in the background.
const (
	// stepEvery is how often the leader looks whether to rotate or repair; both have minutes to spare.
	stepEvery = 15 * time.Second
	// flushTimeout bounds writing what is queued when the service stops.
	flushTimeout = 5 * time.Second
)

// New returns the service; Run starts it.
func New(cfg Config, deps Deps) *Service {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	if deps.Announce == nil {
		deps.Announce = os.Stderr
	}
	s := &Service{
		cfg: cfg.withDefaults(), deps: deps, log: deps.Logger, now: deps.Clock,
		id:    api.NewID('r'),
		ready: make(chan struct{}),
		trust: trust.New(deps.Bus, deps.Logger),
		guard: newGuard(),
	}
	s.trust.Now = deps.Clock
	s.audit.init(s)
	s.signing.init(s)
	s.usage.init(s)
	s.server = rpc.NewServer(deps.Bus, rpc.ServerConfig{
		Service: "auth",
		Auth:    token.NewVerifier(s.trust, s.trust, deps.Clock),
		Logger:  deps.Logger,
		Metrics: deps.Metrics,
		Denied:  s.denied,
	})
	s.handle()
	return s
}

// Ready reports nil when the service answers.
func (s *Service) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.server.Ready(ctx)
	default:
		return api.Errorf(api.CodeUnavailable, "auth is starting")
	}
}

// Run serves until ctx ends. It waits for the bus; it fails only for what waiting does not mend: a bad configuration, a
// secret that is not the one that sealed the signing keys, a bootstrap key file that holds no key.
func (s *Service) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	if err := s.openLedgers(ctx); err != nil {
		return stopped(ctx, err)
	}
	// What is followed and written in the background ends after the server, which needs it to the last request.
	background, working := parts.New(context.WithoutCancel(ctx))
	defer background.Stop()
	s.follow(background)
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(working, cancel)()
	err := s.start(serving)
	if err != nil {
		err = stopped(ctx, err)
	} else {
		background.Go("write the audit ledger", s.audit.run)
		background.Go("write last uses", s.usage.run)
		background.Go("lead", s.lead)
		close(s.ready)
		s.log.InfoContext(ctx, "auth answers")
		err = s.server.Run(serving)
	}
	background.Stop()
	return errors.Join(err, background.Wait())
}

// stopped turns what went wrong because ctx ended into success.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // told to stop
	}
	return err
}

// follow runs the views.
func (s *Service) follow(g *parts.Group) {
	g.Go("follow tenants", s.tenants.view.Run)
	g.Go("follow users", s.users.view.Run)
	g.Go("follow keys", s.keys.view.Run)
	g.Go("follow last uses", s.lastUsed.view.Run)
	g.Go("follow the audit ledger", s.audit.view.Run)
	g.Go("follow signing keys", s.signing.view.Run)
	g.Go("follow keys and revocations", s.trust.Run)
}

// start brings the yard to where it can answer: state in memory, a key that signs, somebody who may sign in.
func (s *Service) start(ctx context.Context) error {
	for _, loaded := range []<-chan struct{}{
		s.tenants.view.Ready(), s.users.view.Ready(), s.keys.view.Ready(), s.lastUsed.view.Ready(),
		s.audit.view.Ready(), s.signing.view.Ready(),
	} {
		if err := wait(ctx, loaded); err != nil {
			return err
		}
	}
	secret, err := s.openSecret()
	if err != nil {
		return err
	}
	s.pepper = secret.derive("API key pepper v1")
	if err := s.retry(ctx, "prepare signing keys", func() error { return s.signing.start(ctx, secret) }); err != nil {
		return err
	}
	if err := wait(ctx, s.trust.Ready()); err != nil {
		return err
	}
	return s.bootstrap(ctx)
}

// lead does what one replica must do alone, or need not be done by more than one.
func (s *Service) lead(ctx context.Context) error {
	lease := bus.NewLease(s.deps.Bus, bus.LeaseConfig{Service: "auth", Name: "leader", Holder: s.id})
	return lease.Run(ctx, func(ctx context.Context, _ uint64) {
		tick := time.NewTicker(stepEvery)
		defer tick.Stop()
		for {
			for _, step := range []struct {
				name string
				run  func(context.Context) error
			}{{"rotate signing keys", s.signing.step}, {"repair revocations", s.repair}, {"forget old keys", s.sweepKeys}} {
				if err := step.run(ctx); err != nil && ctx.Err() == nil {
					s.log.WarnContext(ctx, "step failed; it is tried again", "step", step.name, "err", err)
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// retry calls f until it succeeds, fails for good, or ctx ends.
func (s *Service) retry(ctx context.Context, what string, f func() error) error {
	const pause = 200 * time.Millisecond
	for {
		err := f()
		if err == nil {
			return nil
		}
		if code := api.CodeOf(err); code != api.CodeUnavailable && code != api.CodeConflict {
			return fmt.Errorf("%s: %w", what, err)
		}
		s.log.WarnContext(ctx, "not yet; trying again", "step", what, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// broadcast wakes everyone who waits for the next change.
type broadcast struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns a channel that the next announce closes.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *broadcast) announce() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}
