package tcagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// follow takes on this node's plans as they come, until ctx ends.
func (s *Service) follow(ctx context.Context) error {
	plans := bus.ReadLedger[api.TrafficPlanRecord](s.deps.Bus, api.NounPlans)
	err := plans.FollowPart(ctx, api.LivePlansPrefix, s.token, 0, s.accept, s.complete)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// decode reads a record's plan. It refuses a plan that this release would not understand, and one that is not what its hash says.
func decode(r api.TrafficPlanRecord) (*tc.Plan, error) {
	plan := &tc.Plan{}
	err := json.Unmarshal(r.Plan, plan)
	format := plan.Format
	if err != nil { // perhaps for the reason that it is of another format
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
		return nil, fmt.Errorf("read plan: %w", err)
	}
	if hash := tc.HashPlan(r.Plan); hash != r.Hash {
		return nil, fmt.Errorf("the plan's hash is %s, it should be %s", hash, r.Hash)
	}
	return plan, nil
}

// accept takes a change of one session's plan on, if it is newer than what is known.
func (s *Service) accept(e bus.Entry[api.TrafficPlanRecord]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, at := e.Key.ID, position{e.Epoch, e.Rev}
	now := s.sessions[id]
	s.told, s.epoch = true, max(s.epoch, e.Epoch)
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
	plan, err := decode(e.State)
	if err != nil {
		now.refuse(at, e.State.Hash, err)
		s.log.Warn("a plan is refused; what is in force stays", "session", id, "err", err)
		s.tell()
		return nil
	}
	if now.Record.Address != e.State.Address {
		now.on = nil
	}
	now.accepted, now.plan, now.gone = accepted{at, e.State}, plan, false
	now.heard, now.refused = at, false
	if plan.Mode != tc.Enforce { // it takes no part in sharing the uplink (claimants)
		now.shares = shares{}
	}
	now.hurry()
	if err := s.store.put(now.accepted); err != nil {
		s.log.Warn("the plan is not kept on disk", "session", id, "err", err)
	}
	s.lookLocked(id)
	return nil
}

// complete is called when the ledger was read to its head: what it does not hold is no session of this node any more. But a bus that lost its
// data says nothing about the sessions that it knew: they stay as they are for as long as they live (outcome).
func (s *Service) complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, now := range s.sessions {
		if !now.confirmed && !s.lost(now) {
			s.end(id, now)
		}
	}
}

// lost reports whether the bus that n's plan came from has lost its data. It has, too, when it says nothing at all: what a node's plans leave
// is at least the word of their ends.
func (s *Service) lost(n *session) bool { return !s.told || n.Epoch < s.epoch }

// end takes a session's plan away.
func (s *Service) end(id string, now *session) {
	now.gone = true
	now.hurry()
	if err := s.store.remove(id); err != nil {
		s.log.Warn("the plan stays on disk", "session", id, "err", err)
	}
	s.lookLocked(id)
}
