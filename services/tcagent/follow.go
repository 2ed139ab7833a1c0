package tcagent

import (
	"context"
	"errors"
	"fmt"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// follow takes on this node's plans as they come, until ctx ends.
func (s *Service) follow(ctx context.Context) error {
	plans := bus.ReadLedger[received](s.deps.Bus, api.NounPlans)
	err := plans.FollowPart(ctx, bus.Part[received]{Live: api.LivePlansPrefix, Tenant: s.token, Also: s.groups, Read: readChange, Tell: s.accept, CaughtUp: s.caughtUp})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// decode reads a record's plan. It refuses a plan that this release would not understand, and one that is not what its hash says.
func decode(r received) (plan *tc.Plan, err error) {
	if plan = r.plan; plan == nil {
		plan, err = tc.ReadPlan(r.Plan)
	}
	format := 0
	if err == nil {
		format = plan.Format
	} else { // perhaps for the reason that it is of another format
		var only struct {
			Format int `json:"format"`
		}
		if json.Unmarshal(r.Plan, &only) == nil {
			format = only.Format
		}
	}
	if format > tc.PlanFormat {
		return nil, fmt.Errorf("the plan's format %d is newer than this agent's %d; update the agent", format, tc.PlanFormat)
	}
	if err != nil {
		return nil, err
	}
	if hash := tc.HashPlan(r.Plan); hash != r.Hash {
		return nil, fmt.Errorf("the plan's hash is %s, it should be %s", hash, r.Hash)
	}
	if plan.Session == "" { // many share it
		plan.Session = r.Session
	}
	return plan, nil
}

// accept takes a change of one session's plan, or of one that sessions share, on, if it is newer than what is known.
func (s *Service) accept(e bus.Entry[received]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told, s.epoch = true, max(s.epoch, e.Epoch)
	if e.Key.Tenant == api.SharedPlans {
		s.acceptShared(e)
		return nil
	}
	id, at := e.Key.ID, position{e.Epoch, e.Rev}
	now := s.sessions[id]
	if now != nil {
		now.confirmed = true
		if !e.NewerThan(now.heard.Epoch, now.heard.Rev) {
			return nil
		}
	}
	if e.Deleted {
		if now != nil {
			now.heard = at
			s.end(id, now)
		}
		return nil
	}
	if now == nil {
		now = &session{confirmed: true}
		now.Record.Session = id
		s.sessions[id] = now
	}
	now.heard, now.own = at, e.State
	if g := s.shared[e.State.Group]; e.State.Group != "" && (g == nil || !g.asked) {
		now.early, now.gone = true, false // until it is known whether they share a newer one
		return nil
	}
	s.choose(id, now)
	return nil
}

// choose takes a session's newest plan on: its own, or that which it shares.
func (s *Service) choose(id string, now *session) {
	now.early = false
	to := accepted{position: now.heard, Record: now.own.TrafficPlanRecord}
	var plan *tc.Plan
	var err error
	if g := s.shared[now.own.Group]; g != nil && !g.gone && g.newerThan(now.heard) {
		to.position, to.Own = g.position, now.heard
		to.Record.Plan, to.Record.Hash = g.record.Plan, g.record.Hash
		if err = g.wrong; err == nil {
			mine := *g.plan // what it refers to nobody changes
			mine.Session, plan = id, &mine
		}
	} else {
		plan, err = decode(now.own)
	}
	if err != nil {
		now.refuse(to.position, to.Record.Hash, err)
		s.log.Warn("a plan is refused; what is in force stays", "session", id, "err", err)
		s.tell()
		return
	}
	if now.Record.Address != to.Record.Address {
		now.on = nil
	}
	now.accepted, now.plan, now.gone, now.refused = to, plan, false, false
	if plan.Mode != tc.Enforce { // it takes no part in sharing the uplink (claimants)
		now.shares = shares{}
	}
	now.hurry()
	s.keep(id, now)
	s.lookLocked(id)
}

// keep has the disk hold what a session was given. While it does not, as when it is full, each audit tries again: an agent that starts without the bus would go back to the plan before. It
// needs the mutex.
func (s *Service) keep(id string, n *session) {
	err := s.store.put(n.accepted)
	switch {
	case err != nil && !n.unkept:
		s.log.Warn("the plan is not kept on disk; it is tried again at each audit", "session", id, "err", err)
	case err == nil && n.unkept:
		s.log.Info("the plan is kept on disk again", "session", id)
	}
	n.unkept = err != nil
}

// caughtUp is called when the ledger was read to its head. The first time what it does not hold is no session of this node any more. But a bus that lost its
// data says nothing about the sessions that it knew: they stay as they are for as long as they live (outcome).
func (s *Service) caughtUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sharedRead()
	if s.complete {
		return
	}
	s.complete = true
	for id, now := range s.sessions {
		if !now.confirmed && !s.lost(now) {
			s.end(id, now)
		}
	}
}

// lost reports whether the bus that n's plan came from has lost its data. It has, too, when it says nothing at all: what a node's plans leave
// is at least the word of their ends.
func (s *Service) lost(n *session) bool { return !s.told || n.Epoch < s.epoch }

// end has a session's plan taken away, and forgotten after that (takeAway).
func (s *Service) end(id string, now *session) {
	now.gone = true
	now.hurry()
	s.lookLocked(id)
}
