package tcagent

import (
	"context"
	"errors"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

// session is one session's plan, and how far the kernel is. The Service's mutex guards it.
type session struct {
	accepted
	plan      *tc.Plan
	gone      bool     // take the plan away, and forget the session
	confirmed bool     // the bus has told of it since the agent started
	heard     position // of the newest change of its own entry that the bus told of,
	own       received // and that
	early     bool     // it is not known yet whether that is the newest (shared)
	refused   bool     // what the bus told last was not taken on
	unkept    bool     // what was accepted is not on disk

	shares  shares            // of the node's uplink, now (allocate.go)
	fault   *faulty           // the last, which may have ended; nil: none (fault.go)
	relay   *relayed          // nil: none; the enforcer's alone
	on      *kernel.Interface // nil: not found
	raised  kernel.Interface  // where packets pass; the enforcer's alone
	applied api.TrafficPlanApplied
	easing  bool      // its queues are on their way to what is planned (kernel.Result.Again)
	inForce string    // the hash of the plan that the kernel holds; empty: none, or not known
	held    shares    // with which the kernel holds it,
	upset   *faulty   // and with which fault
	tries   int       // that failed since the last news
	after   time.Time // not before
}

// How often what fails is tried again, and how often what somebody else changes again and again is repaired.
const (
	retryFirst   = 50 * time.Millisecond
	retryMost    = 10 * time.Second
	repairEvery  = 100 * time.Millisecond
	applyTimeout = 10 * time.Second
)

// The states of a plan on its node (api.TrafficPlanApplied).
const (
	stateApplied = "applied"
	stateFailed  = "failed"
	stateKept    = "kept"
	stateOff     = "off" // nothing can be in force: the node cannot control traffic, or the session has no network of its own
)

func (n *session) hurry() { n.tries, n.after = 0, time.Time{} }

// refuse reports a plan that is not taken on.
func (n *session) refuse(at position, hash string, err error) {
	n.refused = true
	n.applied = api.TrafficPlanApplied{Rev: at.Rev, Hash: hash, State: stateFailed, Detail: err.Error(), At: time.Now().UTC()}
	if n.inForce != "" {
		n.applied.Hash, n.applied.State = n.inForce, stateKept
	}
}

// look has a session compared with its plan.
func (s *Service) look(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked(id)
}

func (s *Service) lookLocked(id string) {
	s.dirty[id] = struct{}{}
	s.wakeUp()
}

// wakeUp has the enforcer look at what there is to do. It does not block.
func (s *Service) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lookAll has every session compared with its plan; those that were not found, or failed, at once. It keeps what could not be kept.
func (s *Service) lookAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.sessions {
		n.after = time.Time{}
		s.dirty[id] = struct{}{}
		if n.unkept && !n.gone {
			s.keep(id, n)
		}
	}
	if s.shelter != nil {
		s.shelter.look.Store(true)
	}
	s.wakeUp()
}

// enforce makes the kernel hold the plans, one session after the other, until ctx ends.
func (s *Service) enforce(ctx context.Context) error {
	audit := time.NewTicker(s.cfg.Audit)
	defer audit.Stop()
	defer s.endRelays()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-audit.C:
			s.sweep(ctx)
			s.lookAll()
			continue
		case <-s.wake:
		case <-retry.C:
		}
		s.refresh()
		for _, id := range s.due() {
			if ctx.Err() != nil {
				return nil
			}
			s.settle(ctx, id)
		}
		s.announce()
		s.protect(ctx) // those that are left
		retry.Reset(s.idle())
	}
}

// refresh has the finder look anew, and know nothing of interfaces that are gone.
func (s *Service) refresh() {
	if s.finder == nil {
		return
	}
	s.mu.Lock()
	gone := s.gone
	s.gone = nil
	s.mu.Unlock()
	s.finder.drop(gone)
	s.finder.again()
}

// idle is how long nothing is to be done unless there is news.
func (s *Service) idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := retryMost
	if s.shelter.expecting() {
		d = expectStep
	}
	for _, until := range s.faults {
		d = min(d, time.Until(until))
	}
	if !s.reportBy.IsZero() {
		d = min(d, time.Until(s.reportBy))
	}
	for id := range s.dirty {
		if n := s.sessions[id]; n != nil {
			d = min(d, time.Until(n.after))
		}
	}
	return max(d, time.Millisecond)
}

// due are the sessions whose time has come. The others stay dirty.
func (s *Service) due() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.ended(now)
	if !s.reportBy.IsZero() && !now.Before(s.reportBy) {
		s.reportBy = time.Time{}
		s.tell()
	}
	for id := range s.dirty {
		n := s.sessions[id]
		if n != nil && now.Before(n.after) {
			continue
		}
		delete(s.dirty, id)
		if n != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// settle makes the kernel hold one session's plan.
func (s *Service) settle(ctx context.Context, id string) {
	s.mu.Lock()
	n := s.sessions[id]
	if n == nil {
		s.mu.Unlock()
		return
	}
	plan, gone, on, known, address, share := n.plan, n.gone, n.on, n.accepted, n.Record.Address, n.shares
	if gone {
		delete(s.faults, id)
		s.mu.Unlock()
		s.takeAway(ctx, id, n, on)
		return
	}
	if plan == nil {
		s.mu.Unlock()
		return // refused, and none before it
	}
	plan, fault, said := s.diverted(id, n, plan.Narrowed(share.download, share.upload))
	s.mu.Unlock()
	n.relay.keep(fault, on)
	began := time.Now()
	on, result, err := s.apply(ctx, plan, on, address, fault != nil)
	if err == nil && on != nil && n.raised != *on {
		err = s.raise(ctx, n, *on)
	}
	if err == nil && on != nil {
		said = s.relay(ctx, n, *on, fault, said)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	asBefore := n.inForce == known.Record.Hash && n.held == share && n.upset == fault
	if err == nil {
		n.held, n.upset = share, fault
	}
	if n.gone || n.accepted.position != known.position {
		s.lookLocked(id) // it is another plan's turn
	}
	s.outcome(id, n, known, asBefore, said, on, result, err, began)
}

// apply finds the interface, where it is not known, and applies the plan. There is something to do, too, for a fault of which the plan has nothing: a relay's.
func (s *Service) apply(ctx context.Context, plan *tc.Plan, on *kernel.Interface, address string, fault bool) (*kernel.Interface, kernel.Result, error) {
	nothing := plan.Download == nil && plan.Upload == nil && len(plan.Limits) == 0 && !fault
	if s.deps.Rehearsal != nil {
		s.deps.Rehearsal.Applied(plan.Session)
		return nil, kernel.Result{}, nil
	}
	switch {
	case s.kernel == nil && nothing:
		return nil, kernel.Result{}, nil
	case s.kernel == nil:
		return nil, kernel.Result{}, s.unable
	case on == nil:
		found, ok, err := s.finder.find(ctx, address)
		if err != nil {
			return nil, kernel.Result{}, err
		}
		if !ok && nothing {
			return nil, kernel.Result{}, nil
		}
		if !ok && address == "" {
			return nil, kernel.Result{}, errNoNetwork
		}
		if !ok {
			return nil, kernel.Result{}, errNotFound
		}
		on = &found
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	result, err := s.kernel.Apply(ctx, *on, plan)
	if errors.Is(err, kernel.ErrGone) {
		s.finder.forget()
		on = nil
	}
	return on, result, err
}

// raise has packets pass at an interface whose maker left that to us: the session's plan is in force.
func (s *Service) raise(ctx context.Context, n *session, on kernel.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	_, err := s.kernel.Raise(ctx, on, api.TrafficLinkAlias)
	if err == nil {
		n.raised = on
	}
	return err
}

var (
	errNoNetwork = errors.New("the session has no network of its own: its traffic is the node's")
	errNotFound  = errors.New("the session's network interface is not on this node yet")
)

// outcome takes note of what became of applying the plan known; asBefore: which is in force since the last time, unless somebody changed it;
// said: of its fault.
func (s *Service) outcome(id string, n *session, known accepted, asBefore bool, said string, on *kernel.Interface, result kernel.Result, err error, began time.Time) {
	n.on = on
	at := api.TrafficPlanApplied{Rev: known.Rev, Hash: known.Record.Hash, State: stateApplied, At: time.Now().UTC(), Fault: said}
	var failed *kernel.ApplyError
	switch {
	case err == nil:
		if asBefore && !n.easing && len(result.Steps) > 0 {
			s.metrics.repairs.Inc()
			s.log.Info("somebody changed a session's traffic control; it is as planned again", "session", id, "steps", len(result.Steps))
			n.after = time.Now().Add(repairEvery)
		}
		n.inForce, n.tries = known.Record.Hash, 0
		if n.easing = result.Again != 0; n.easing {
			n.after = time.Now().Add(result.Again)
			s.dirty[id] = struct{}{}
		}
	case errors.As(err, &failed) && failed.InForce == kernel.NewEnforcement:
		n.inForce = known.Record.Hash
	case on == nil || errors.As(err, &failed) && failed.InForce == kernel.UnknownEnforcement:
		n.inForce = ""
	}
	if errors.Is(err, errNotFound) && n.Epoch < s.epoch {
		s.end(id, n) // nobody else will say that it has ended
		return
	}
	if err != nil {
		n.tries++
		n.after = time.Now().Add(min(retryFirst<<min(n.tries-1, 8), retryMost))
		s.dirty[id] = struct{}{} // the loop's timer comes back to it
		at.State, at.Detail, at.Fault = stateFailed, err.Error(), ""
		switch {
		case n.inForce != "":
			at.State, at.Hash = stateKept, n.inForce
		case s.unable != nil || errors.Is(err, errNoNetwork):
			at.State = stateOff
		}
	}
	s.metrics.applies.WithLabelValues(at.State).Inc()
	if len(result.Steps) > 0 {
		s.metrics.took.Observe(result.Took.Seconds())
	}
	if n.refused || at.Rev == n.applied.Rev && at.Hash == n.applied.Hash && at.State == n.applied.State && at.Detail == n.applied.Detail &&
		at.Fault == n.applied.Fault {
		return // no news
	}
	at.TookMS = float64(time.Since(began).Microseconds()) / 1000
	n.applied = at
	if err != nil && !errors.Is(err, errNotFound) {
		s.log.Warn("a plan is not in force", "session", id, "state", at.State, "err", err)
	}
	if known.Own != (position{}) {
		s.tellLater(id) // others have such news at this moment, too
		return
	}
	s.tell()
}

// takeAway removes what is ours from a session that has ended, or has no plan any more.
func (s *Service) takeAway(ctx context.Context, id string, n *session, on *kernel.Interface) {
	var err error
	n.relay.keep(nil, on)
	if on == nil && s.kernel != nil && n.Record.Address != "" {
		if found, ok, ferr := s.finder.find(ctx, n.Record.Address); ferr == nil && ok {
			on = &found
		}
	}
	if on != nil {
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		if _, err = s.kernel.Remove(ctx, *on); errors.Is(err, kernel.ErrGone) {
			err = nil
		}
	}
	if s.kernel != nil {
		s.sweep(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !n.gone: // a new plan came meanwhile
		n.inForce = ""
		s.lookLocked(id)
	case err != nil:
		n.tries++
		n.after = time.Now().Add(min(retryFirst<<min(n.tries-1, 8), retryMost))
		s.dirty[id] = struct{}{}
		s.log.Warn("a session's traffic control is not taken away yet", "session", id, "err", err)
	default:
		// Not before: if the agent dies, the next one has to know that there is something to take away.
		if err := s.store.remove(id); err != nil {
			s.log.Warn("the plan stays on disk", "session", id, "err", err)
		}
		delete(s.sessions, id)
		s.tell()
	}
}

// sweep deletes what sessions leave that end without a word.
func (s *Service) sweep(ctx context.Context) {
	if s.kernel == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	if deleted, err := s.kernel.Sweep(ctx); err != nil {
		s.log.Warn("sweep", "err", err)
	} else if len(deleted) > 0 {
		s.log.Info("swept", "devices", len(deleted))
	}
}

// watch has sessions looked at whose interface somebody else changed, until ctx ends.
func (s *Service) watch(ctx context.Context) error {
	return s.kernel.Watch(ctx, s.lookAll, func(c kernel.Change) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.New || c.Device == 0 {
			s.arrived()
		}
		if s.finder != nil && (c.Gone || c.Device == 0) {
			if s.gone == nil {
				s.gone = map[int]bool{}
			}
			s.gone[c.Device] = true
		}
		if c.Device == 0 {
			for id := range s.sessions {
				s.lookLocked(id)
			}
			return
		}
		for id, n := range s.sessions {
			switch {
			case n.on != nil && n.on.Index == c.Device:
				s.lookLocked(id)
			case n.on == nil && c.New && n.plan != nil: // perhaps this one's
				n.after = time.Time{}
				s.lookLocked(id)
			}
		}
	})
}
