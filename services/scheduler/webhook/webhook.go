// Package webhook tells the addresses that people registered of what happens to tasks and schedules.
//
// One process, chosen by lease, reads the changes of TASKS and SCHEDULES in their order (notice.go), and for each that a webhook asks for
// writes a delivery, whose id derives from the webhook and the change; then it moves its position, which is kept on the bus. So no
// change is passed over and none makes two deliveries, whatever dies. Deliveries that are pending in the DELIVERIES ledger are sent (send.go)
// until the receiver answers 2xx or has had its attempts: at least once, so a receiver passes over an event id that it knows.
//
// A delivery is signed (sign.go) and goes to public addresses only (address.go).
package webhook

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
	"agentyard.dev/libs/seal"
)

// Clock is the time, and a way to wait for it.
type Clock interface {
	Now() time.Time
	After(d time.Duration) (<-chan time.Time, func())
}

// Deps is what the service works with.
type Deps struct {
	Bus      *bus.Conn
	Replicas int           // of the ledgers; zero: 1
	Holder   string        // names this process among the replicas
	LeaseTTL time.Duration // zero: the bus's 3 s
	// AllowPrivate lets deliveries go to private addresses and by plain http: for receivers in the operator's own network, and for tests.
	AllowPrivate bool
	Transport    func(*http.Transport) // changes how deliveries are sent; nil: nothing
	Clock        Clock
	// Keys seal the signing secrets; nil: they are kept as they are.
	Keys   *seal.Keys
	Logger *slog.Logger // nil: none
}

// Service keeps webhooks and, while it holds the lease, serves them.
type Service struct {
	deps       Deps
	log        *slog.Logger
	client     *http.Client
	webhooks   *bus.Ledger[record]
	byName     *bus.View[record]
	deliveries *bus.Ledger[api.DeliveryRecord]
	view       *bus.View[api.DeliveryRecord]
	noticed    *bus.Ledger[position]

	news   chan struct{} // something may have happened to a task or a schedule
	sender *sender
}

const (
	actor = "service:scheduler"
	// deliveriesKept is how long a delivery can be looked at; pending ones have ended long before.
	deliveriesKept = 48 * time.Hour
)

// The indexes of the views.
const (
	byTenant  = "tenant"
	byWebhook = "webhook"
	pending   = "pending"
)

func webhookValue(tenant, name string) string { return tenant + "/" + name }

// New returns a service that has done nothing yet.
func New(deps Deps) *Service {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{deps: deps, log: deps.Logger, client: newClient(deps.AllowPrivate, deps.Transport), news: make(chan struct{}, 1)}
	s.sender = newSender(s)
	return s
}

// Open makes the ledgers; it waits for the bus. The other methods need it.
func (s *Service) Open(ctx context.Context) (err error) {
	conn := s.deps.Bus
	if s.webhooks, err = bus.OpenLedger[record](ctx, conn, bus.LedgerConfig{Noun: "webhooks", Replicas: s.deps.Replicas, History: 64}); err != nil {
		return err
	}
	if s.deliveries, err = bus.OpenLedger[api.DeliveryRecord](ctx, conn, bus.LedgerConfig{
		Noun: "deliveries", Replicas: s.deps.Replicas, History: 32, MaxAge: deliveriesKept,
	}); err != nil {
		return err
	}
	if s.noticed, err = bus.OpenLedger[position](ctx, conn, bus.LedgerConfig{Noun: "noticed", Replicas: s.deps.Replicas, History: 2}); err != nil {
		return err
	}
	s.byName = s.webhooks.View(bus.ViewConfig[record]{
		Indexes: map[string]func(bus.Entry[record]) []string{
			byTenant: func(e bus.Entry[record]) []string { return []string{e.Key.Tenant} },
		},
		OnChange: func(_ *bus.Entry[record], now bus.Entry[record]) {
			s.Changed()
			s.sender.webhookChanged(now.Key)
		},
	})
	s.view = s.deliveries.View(bus.ViewConfig[api.DeliveryRecord]{
		Indexes: map[string]func(bus.Entry[api.DeliveryRecord]) []string{
			byWebhook: func(e bus.Entry[api.DeliveryRecord]) []string {
				return []string{webhookValue(e.Key.Tenant, e.State.Webhook)}
			},
			pending: func(e bus.Entry[api.DeliveryRecord]) []string {
				if e.State.State != api.DeliveryPending {
					return nil
				}
				return []string{webhookValue(e.Key.Tenant, e.State.Webhook)}
			},
		},
		OnChange: func(_ *bus.Entry[api.DeliveryRecord], now bus.Entry[api.DeliveryRecord]) {
			s.sender.deliveryChanged(now.Key)
		},
	})
	return nil
}

// Ready returns nil when operations can be answered.
func (s *Service) Ready(ctx context.Context) error {
	for _, ready := range []<-chan struct{}{s.byName.Ready(), s.view.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "webhooks are being read: %w", ctx.Err())
		}
	}
	return nil
}

// Exists reports whether a tenant has a webhook of that name.
func (s *Service) Exists(tenant, name string) bool {
	_, ok := s.byName.Get(bus.Key{Tenant: tenant, ID: name})
	return ok
}

// Changed tells that a task or a schedule has changed, so that its notice does not wait for the next look. It does not block.
func (s *Service) Changed() {
	if !s.anyWebhook() {
		return // nobody to tell
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Run follows the ledgers, and serves webhooks while it holds the lease, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := parts.New(ctx)
	defer group.Stop()
	group.Go("follow webhooks", s.byName.Run)
	group.Go("follow deliveries", s.view.Run)
	if group.Await(s.byName.Ready(), s.view.Ready()) {
		lease := bus.NewLease(s.deps.Bus, bus.LeaseConfig{Service: "scheduler", Name: "webhooks", Holder: s.deps.Holder, TTL: s.deps.LeaseTTL})
		group.Go("serve webhooks", func(ctx context.Context) error { return lease.Run(ctx, s.lead) })
	}
	<-ctx.Done()
	s.client.CloseIdleConnections()
	return group.Wait()
}

// lead serves until ctx ends.
func (s *Service) lead(ctx context.Context, _ uint64) {
	s.log.InfoContext(ctx, "serves webhooks")
	s.seal(ctx)
	var work sync.WaitGroup
	work.Go(func() { s.follow(ctx) })
	work.Go(func() { s.sender.run(ctx) })
	work.Wait()
}
