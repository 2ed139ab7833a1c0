package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// The kinds of orphans.
const (
	orphanRunner  = "runner"  // it runs without a session, or for one that has ended or is paused
	orphanSession = "session" // it should have a runner, and the runtime runs none although nobody saw it end
	orphanStale   = "stale"   // a runner of an earlier incarnation beside the current one
	orphanKept    = "kept"    // a directory or volume of a session that is gone
	orphanStuck   = "stuck"   // a session that waits for a step that nobody takes
)

// orphanGrace is for a runner to end that has no session. With the two intervals until it is looked for, it is gone within a minute, even if it does not listen.
const orphanGrace = 10 * time.Second

var orphanKinds = []string{orphanRunner, orphanSession, orphanStale, orphanKept, orphanStuck}

// finding is one thing that is wrong with one session.
type finding struct {
	kind        string
	key         bus.Key
	incarnation int
}

// watchOrphans compares all that the runtime has with all that the ledger says, both ways, whatever was told or missed in between. A
// list and the ledger are never of one moment, so only what is found twice in a row is mended: begun within two intervals.
func (s *Service) watchOrphans(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Reconcile)
	defer tick.Stop()
	var before map[finding]bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		found, err := s.findOrphans(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("look for orphans", "op", "reconcile", "code", api.CodeOf(err), "err", err)
		}
		for f := range found {
			if !before[f] {
				continue
			}
			delete(found, f) // when it is still there it is found twice again
			if err := s.mend(ctx, f); err != nil && ctx.Err() == nil {
				s.log.Warn("mend", "op", "reconcile", "kind", f.kind, "tenant", f.key.Tenant, "session", f.key.ID, "code", api.CodeOf(err), "err", err)
			}
		}
		before = found
	}
}

// findOrphans returns what does not fit. With an error it returns what it could compare.
func (s *Service) findOrphans(ctx context.Context) (map[finding]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	instances, err := s.deps.Runtime.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what the runtime runs: %w", err)
	}
	found := map[finding]bool{}
	running := map[bus.Key]int{} // the newest incarnation
	for _, i := range instances {
		key := bus.Key{Tenant: i.Tenant, ID: i.Session}
		running[key] = max(running[key], i.Incarnation)
	}
	for _, i := range instances {
		key := bus.Key{Tenant: i.Tenant, ID: i.Session}
		e, ok := s.view.Get(key)
		switch {
		case !ok || !wantsRunner(e.State.State) && settled(e.State.State):
			found[finding{orphanRunner, key, i.Incarnation}] = true
		case i.Incarnation < e.State.Incarnation && running[key] == e.State.Incarnation:
			found[finding{orphanStale, key, i.Incarnation}] = true
		}
	}
	stuckSince := s.now().Add(-s.cfg.Reconcile)
	empty := true
	s.view.All(func(e bus.Entry[api.SessionRecord]) bool {
		empty = false
		st := e.State.State
		missing := wantsRunner(st) && running[e.Key] < e.State.Incarnation
		switch {
		case missing && s.tracker.see(e.Key).running == e.State.Incarnation:
			found[finding{orphanSession, e.Key, e.State.Incarnation}] = true
		case (missing || !settled(st) && st != api.StateRunning) && e.State.StateSince.Before(stuckSince):
			found[finding{orphanStuck, e.Key, e.State.Incarnation}] = true
		}
		return true
	})
	keeper, ok := s.deps.Runtime.(Keeper)
	if !ok || empty { // a yard that has lost its ledger, or was given another's, removes no work
		return found, nil
	}
	kept, err := keeper.Kept(ctx)
	if err != nil {
		return found, fmt.Errorf("list what the runtime keeps: %w", err)
	}
	for _, r := range kept {
		key := bus.Key{Tenant: r.Tenant, ID: r.Session}
		if e, ok := s.view.Get(key); running[key] == 0 && (!ok || e.State.State == api.StateTerminated) {
			found[finding{kind: orphanKept, key: key}] = true
		}
	}
	return found, nil
}

// settled reports whether a session in state st waits for nothing but a person.
func settled(st api.State) bool { return st.Final() || st == api.StatePaused }

// mend has a finding's session looked at with what is true, or removes what belongs to none.
func (s *Service) mend(ctx context.Context, f finding) error {
	switch f.kind {
	case orphanStuck:
		s.enqueue(f.key) // a step that waits for its time is no orphan, so it is not counted
		return nil
	case orphanRunner:
		s.tracker.with(f.key, func(k *tracked) { k.running = f.incarnation })
		if _, ok := s.view.Get(f.key); ok {
			s.orphaned(f.kind, f.key) // and else where it is removed
		}
		s.enqueue(f.key)
		return nil
	case orphanSession:
		s.orphaned(f.kind, f.key)
		s.tracker.exited(f.key, Exit{
			Ref: refOf(f.key), Incarnation: f.incarnation, Reason: "the runtime runs it no more",
		})
		s.enqueue(f.key)
		return nil
	case orphanStale:
		s.orphaned(f.kind, f.key)
		e, ok := s.view.Get(f.key)
		if !ok || !wantsRunner(e.State.State) {
			return nil
		}
		return s.start(ctx, e) // which ends older ones
	case orphanKept:
		// The view may be behind, and what is removed does not come back.
		e, err := s.sessions.Get(ctx, f.key)
		if err == nil && e.State.State != api.StateTerminated || err != nil && api.CodeOf(err) != api.CodeNotFound {
			return err
		}
		s.orphaned(f.kind, f.key)
		return s.deps.Runtime.Stop(ctx, refOf(f.key), s.orphanGrace(), false)
	}
	return errors.New("there is no such kind of orphan: " + f.kind)
}

func (s *Service) orphanGrace() time.Duration { return min(s.cfg.StopGrace, orphanGrace) }

// orphaned counts and tells what was found and is mended.
func (s *Service) orphaned(kind string, key bus.Key) {
	s.metrics.orphans.WithLabelValues(kind).Inc()
	s.log.Warn("orphan", "op", "reconcile", "kind", kind, "tenant", key.Tenant, "session", key.ID)
	s.did(key, "orphan: "+kind)
}
