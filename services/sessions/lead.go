package sessions

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// leaseTTL leaves a second of the five in which another replica has to go on.
	leaseTTL = 3 * time.Second
	// viewLag is how long what another replica wrote may take to be in this one's view.
	viewLag = 2 * time.Millisecond
	// tidyEvery is how often what is known beside the ledger is looked through.
	tidyEvery = announceAge
)

// compete reconciles whenever this replica holds the lease of the runtime. A replica that is killed is followed within leaseTTL and a
// third. What a former holder still does does no harm: its writes are conditional on what it saw, and a runtime starts no
// incarnation that a newer one has replaced.
func (s *Service) compete(ctx context.Context) error {
	host, _ := os.Hostname()
	lease := bus.NewLease(s.deps.Conn, bus.LeaseConfig{
		Service: "sessions", Name: "reconcile-" + s.deps.Info.Name, TTL: leaseTTL,
		Holder: host + "-" + strconv.Itoa(os.Getpid()) + "-" + api.NewID(api.KindSession)[1:9],
	})
	return lease.Run(ctx, func(ctx context.Context, fence uint64) {
		s.log.Info("this replica reconciles", "runtime", s.deps.Info.Name, "fence", fence)
		err := s.begin(ctx)
		if err == nil {
			err = s.lead(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("reconcile", "code", api.CodeOf(err), "err", err) // another replica may be luckier
		}
		s.log.Info("this replica reconciles no more", "runtime", s.deps.Info.Name, "fence", fence)
	})
}

// begin learns what the runtime runs and queues it, and all that the ledger holds which has not ended.
func (s *Service) begin(ctx context.Context) error {
	q := bus.NewWorkQueue()
	s.tracker.restart()
	s.term.Store(q) // from here on each change is queued; those before are in the view
	list, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	instances, err := s.deps.Runtime.List(list)
	if err != nil {
		s.term.Store(nil)
		return fmt.Errorf("list what the runtime runs: %w", err)
	}
	for _, i := range instances {
		s.tracker.started(bus.Key{Tenant: i.Tenant, ID: i.Session}, i.Incarnation)
	}
	for _, key := range s.tracker.keys() {
		q.Add(key)
	}
	var live []bus.Key
	s.view.All(func(e bus.Entry[api.SessionRecord]) bool {
		if !e.State.State.Final() {
			live = append(live, e.Key)
		}
		return true
	})
	for _, key := range live {
		q.Add(key)
	}
	s.log.Info("adopted", "runners", len(instances), "sessions", len(live))
	return nil
}

// lead reconciles what begin has queued and whatever changes, until ctx ends.
func (s *Service) lead(ctx context.Context) error {
	s.metrics.leading.Set(1)
	defer s.metrics.leading.Set(0)
	q := s.term.Load()
	defer s.term.Store(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { s.sweep(ctx) })
	parts.Go(func() { s.watchOrphans(ctx) })
	parts.Go(func() { s.reseal(ctx) })
	parts.Go(func() { s.keepPools(ctx) })
	if d := s.deps.Declarations; d != nil {
		parts.Go(func() { d.Follow(ctx, s) })
	}
	q.Run(ctx, s.cfg.Workers, s.reconcile)
	return nil
}

// enqueue has a session looked at soon, if this replica reconciles.
func (s *Service) enqueue(key bus.Key) {
	if q := s.term.Load(); q != nil {
		q.Add(key)
	}
}

// enqueueAfter is enqueue after d.
func (s *Service) enqueueAfter(key bus.Key, d time.Duration) {
	if q := s.term.Load(); q != nil {
		q.AddAfter(key, d)
	}
}

// tidy forgets, now and then, what nobody needs of sessions that have ended. A replica that does not reconcile remembers recent changes
// of state and exits, so that it can go on where another stops.
func (s *Service) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		then := s.now().Add(-announceAge)
		if s.term.Load() != nil {
			then = time.Time{} // its own announcements wait until they are made
		}
		s.tracker.tidy(then, func(key bus.Key) bool {
			e, ok := s.view.Get(key)
			return !ok || e.State.State.Final()
		})
	}
}
