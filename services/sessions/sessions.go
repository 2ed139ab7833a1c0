// Package sessions is the sessions service: it owns the SESSIONS and PROFILES ledgers and the user's side of the session log, decides
// what follows what in a session's life, and has a [Runtime] do it.
//
// Operations (create.go, list.go, message.go, lifecycle.go, profile.go) write the ledger and return; the reconciler (reconcile.go) sees each
// change in its view of the ledger, compares it with what the runtime runs, and takes one step. So whatever is killed when,
// the next start goes on from the ledger. Runners talk to it on their own subjects (runnerops.go).
//
// Every replica answers operations and takes reports. Of those that share a runtime one reconciles, chosen by lease (lead.go), and
// now and then compares all that the runtime has with the ledger, both ways (orphans.go).
package sessions

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/seal"
)

// actor is who changes a session when nobody asked.
const actor = "service:sessions"

// Deps is what the service works with.
type Deps struct {
	Conn    *bus.Conn
	Auth    rpc.Authenticator
	Issuer  *bus.SessionIssuer
	BusURL  string // where runners reach the bus
	Runtime Runtime
	Info    RuntimeInfo
	// Kind reports whether there is a kind of agent of that name.
	Kind func(name string) bool
	// CheckURL refuses a repository URL that must not be cloned.
	CheckURL func(ctx context.Context, url string) error
	Logger   *slog.Logger
	Metrics  prometheus.Registerer // nil: none
	Now      func() time.Time      // nil: time.Now
	// Declarations, if set, are followed while this replica reconciles.
	Declarations Declarations
	// Denied, if set, is told of each refused operation. It must not block.
	Denied func(ctx context.Context, op api.OpInfo, p api.Principal, err error)
	// Acted, if set, is told of each act on secrets and stored credentials, by name. It must not block.
	Acted func(ctx context.Context, op api.OpInfo, object string)
	// Did, if set, is told of what the service did to a session by itself, and why. It must not block.
	Did func(tenant, action, object, detail string)
}

// Service is the sessions service.
type Service struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	now  func() time.Time

	sessions *bus.Ledger[api.SessionRecord]
	view     *bus.View[api.SessionRecord]
	profiles *bus.Ledger[api.Profile]
	byName   *bus.View[api.Profile]
	events   *bus.Log

	keys           *seal.Keys
	secrets        *bus.Ledger[secretRecord]
	secretView     *bus.View[secretRecord]
	credentials    *bus.Ledger[credentialRecord]
	credentialView *bus.View[credentialRecord]

	quotas  *quotas
	hearing atomic.Pointer[time.Time]     // since when this replica reconciles with a bus on which runners can be heard
	reports *bus.WorkQueue                // sessions whose newest report waits to be written
	term    atomic.Pointer[bus.WorkQueue] // sessions to reconcile; nil while another replica does it
	tracker *tracker
	demand  demand
	metrics *metrics
	gauges  *gauges
	ready   chan struct{} // closed when operations are answered
}

// Index names of the view of SESSIONS.
const (
	indexTenant     = "tenant"
	indexOwner      = "owner"
	indexLiveTenant = "live-tenant"
	indexLiveOwner  = "live-owner"
	indexStarting   = "starting"
)

// allStarting is the only value of indexStarting.
const allStarting = "*"

func ownerValue(tenant, owner string) string { return tenant + "/" + owner }

// New returns a service that has done nothing yet.
func New(cfg Config, deps Deps) *Service {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Service{
		cfg: cfg.withDefaults(), deps: deps, log: deps.Logger, now: deps.Now,
		reports: bus.NewWorkQueue(), tracker: newTracker(), metrics: newMetrics(deps.Metrics), ready: make(chan struct{}),
	}
	s.gauges = newGauges(s, deps.Metrics)
	return s
}

// Ready reports nil when the service answers operations.
func (s *Service) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.deps.Conn.Ready(ctx)
	default:
		return api.Errorf(api.CodeUnavailable, "the sessions service is starting")
	}
}

// Run opens the ledgers, adopts what the runtime runs, and serves until ctx ends. Sessions' runners go on without it.
func (s *Service) Run(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before the bus was there
		}
		return err
	}
	group, ctx := parts.New(ctx)
	defer group.Stop()
	users := bus.ReadLedger[limits](s.deps.Conn, "users").View(bus.ViewConfig[limits]{})
	tenants := bus.ReadLedger[limits](s.deps.Conn, "tenants").View(bus.ViewConfig[limits]{})
	s.quotas = &quotas{cfg: s.cfg, view: s.view, users: users, tenants: tenants, creating: map[string]map[bus.Key]int{}}
	group.Go("follow sessions", s.view.Run)
	group.Go("follow profiles", s.byName.Run)
	group.Go("follow secrets", s.secretView.Run)
	group.Go("follow credentials", s.credentialView.Run)
	group.Go("follow users", users.Run)
	group.Go("follow tenants", tenants.Run)
	if !group.Await(s.view.Ready(), s.byName.Ready(), s.secretView.Ready(), s.credentialView.Ready()) {
		return group.Wait()
	}
	group.Go("watch runners", s.watchExits)
	group.Go("tidy", s.tidy)
	group.Go("write reports", func(ctx context.Context) error {
		s.reports.Run(ctx, reportWriters, s.flushReport)
		return nil
	})
	if s.deps.Info.Shared {
		group.Go("compete", s.compete)
	} else {
		if err := s.begin(ctx); err != nil {
			if ctx.Err() != nil {
				return group.Wait()
			}
			return err
		}
		group.Go("reconcile", s.lead)
	}
	server := rpc.NewServer(s.deps.Conn, rpc.ServerConfig{
		Service: "sessions", Auth: s.deps.Auth, Logger: s.log, Metrics: s.deps.Metrics, Denied: s.deps.Denied,
	})
	s.register(server)
	group.Go("serve", server.Run)
	if err := server.Ready(ctx); err == nil {
		close(s.ready)
	}
	return group.Wait()
}

func (s *Service) open(ctx context.Context) (err error) {
	conn := s.deps.Conn
	if s.sessions, err = bus.OpenLedger[api.SessionRecord](ctx, conn, bus.LedgerConfig{Noun: "sessions", Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	if s.profiles, err = bus.OpenLedger[api.Profile](ctx, conn, bus.LedgerConfig{Noun: "profiles", Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	if s.events, err = bus.OpenLog(ctx, conn, bus.LogConfig{Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	if err := s.openSecrets(ctx); err != nil {
		return err
	}
	s.view = s.sessions.View(bus.ViewConfig[api.SessionRecord]{Indexes: indexes(), OnChange: s.changed})
	s.byName = s.profiles.View(bus.ViewConfig[api.Profile]{
		Indexes: map[string]func(bus.Entry[api.Profile]) []string{
			indexTenant: func(e bus.Entry[api.Profile]) []string { return []string{e.Key.Tenant} },
		},
	})
	return nil
}

func indexes() map[string]func(bus.Entry[api.SessionRecord]) []string {
	type entry = bus.Entry[api.SessionRecord]
	live := func(e entry, value string) []string {
		if e.State.State.Final() {
			return nil
		}
		return []string{value}
	}
	return map[string]func(entry) []string{
		indexTenant:     func(e entry) []string { return []string{e.Key.Tenant} },
		indexState:      func(e entry) []string { return []string{string(e.State.State)} },
		indexOwner:      func(e entry) []string { return []string{ownerValue(e.Key.Tenant, e.State.Owner)} },
		indexLiveTenant: func(e entry) []string { return live(e, e.Key.Tenant) },
		indexLiveOwner:  func(e entry) []string { return live(e, ownerValue(e.Key.Tenant, e.State.Owner)) },
		indexStarting: func(e entry) []string {
			if e.State.State == api.StatePending || e.State.State == api.StateStarting {
				return []string{allStarting}
			}
			return nil
		},
	}
}

// register is the table of the service's operations.
func (s *Service) register(server *rpc.Server) {
	rpc.HandleLong(server, api.CreateSession, createTimeout, s.create)
	rpc.Handle(server, api.ListSessions, s.list)
	rpc.Handle(server, api.GetSession, s.get)
	rpc.Handle(server, api.SessionHistory, s.history)
	rpc.Handle(server, api.UpdateSession, s.update)
	rpc.Handle(server, api.DeleteSession, s.delete)
	rpc.Handle(server, api.PauseSession, s.pause)
	rpc.Handle(server, api.ResumeSession, s.resume)
	rpc.Handle(server, api.InterruptSession, s.interrupt)
	rpc.HandleLong(server, api.SendMessage, sendTimeout, s.send)
	rpc.Handle(server, api.ListMessages, s.messages)
	rpc.Handle(server, api.AnswerApproval, s.answer)
	rpc.Handle(server, api.CreateProfile, s.createProfile)
	rpc.Handle(server, api.ListProfiles, s.listProfiles)
	rpc.Handle(server, api.GetProfile, s.getProfile)
	rpc.Handle(server, api.UpdateProfile, s.updateProfile)
	rpc.Handle(server, api.DeleteProfile, s.deleteProfile)
	rpc.Handle(server, api.GetPool, s.pool)
	rpc.Handle(server, api.PutSecret, s.putSecret)
	rpc.Handle(server, api.ListSecrets, s.listSecrets)
	rpc.Handle(server, api.DeleteSecret, s.deleteSecret)
	rpc.Handle(server, api.PutCredential, s.putCredential)
	rpc.Handle(server, api.ListCredentials, s.listCredentials)
	rpc.Handle(server, api.DeleteCredential, s.deleteCredential)
	rpc.Handle(server, api.RunnerCredential, s.keepCredential)
	rpc.HandleLong(server, api.SweepSessions, listTimeout+10*time.Second, s.sweepNow)
	rpc.Handle(server, api.RunnerReport, s.report)
	rpc.Handle(server, api.RunnerInbox, s.inbox)
	rpc.Handle(server, api.RunnerResume, s.position)
	rpc.HandleLong(server, api.RunnerBind, bindTimeout, s.bind)
}

// public returns the part of an entry that leaves the service.
func public(e bus.Entry[api.SessionRecord]) api.Session {
	out := e.State.Session
	out.Rev = e.Rev
	return out
}

// find returns the session id of the caller's tenant on which the caller holds perm. What does not exist, is another
// tenant's or another owner's is not_found alike, so that an id tells nothing.
func (s *Service) find(ctx context.Context, perm api.Permission, id string) (bus.Entry[api.SessionRecord], api.Principal, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return bus.Entry[api.SessionRecord]{}, p, api.Errorf(api.CodeUnauthenticated, "no credential")
	}
	missing := api.Errorf(api.CodeNotFound, "there is no session %q", clip(id, 40))
	if !api.ValidID(api.KindSession, id) {
		return bus.Entry[api.SessionRecord]{}, p, missing
	}
	e, ok := s.lookUp(ctx, bus.Key{Tenant: p.Tenant, ID: id})
	if !ok || !p.CanOn(perm, e.State.Tenant, e.State.Owner) {
		return bus.Entry[api.SessionRecord]{}, p, missing
	}
	return e, p, nil
}

// lookUp returns a session's entry. What this replica's view does not have yet another may have written just now.
func (s *Service) lookUp(ctx context.Context, key bus.Key) (bus.Entry[api.SessionRecord], bool) {
	e, ok := s.view.Get(key)
	if ok || !s.deps.Info.Shared {
		return e, ok
	}
	e, err := s.sessions.Get(ctx, key)
	return e, err == nil
}

func asError(err error, target **api.Error) bool { return errors.As(err, target) }

// newSecret returns 256 random bits as text.
func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
