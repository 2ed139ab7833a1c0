package tcagent

import (
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// shared is a plan that sessions of this node share, with others' mostly (api.TrafficPlanRecord.Group). The Service's mutex guards it.
type shared struct {
	position
	record received
	plan   *tc.Plan // but for its session; nil: none yet, or wrong
	wrong  error
	gone   bool // sessions' own plans hold
	asked  bool // what the ledger holds of it is known
}

func (g *shared) newerThan(p position) bool {
	return g.Epoch > p.Epoch || g.Epoch == p.Epoch && g.Rev > p.Rev
}

// groups lists the plans that this node's sessions share, and forgets the others.
func (s *Service) groups() (keys []bus.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[string]bool{}
	for _, n := range s.sessions {
		if g := n.own.Group; g != "" && !n.gone && !wanted[g] {
			wanted[g] = true
			keys = append(keys, bus.Key{Tenant: api.SharedPlans, ID: g})
			if s.shared[g] == nil {
				s.shared[g] = &shared{}
			}
		}
	}
	for g := range s.shared {
		if !wanted[g] {
			delete(s.shared, g)
		}
	}
	return keys
}

// acceptShared takes a change of a plan that sessions share on. It needs the mutex.
func (s *Service) acceptShared(e bus.Entry[received]) {
	g := s.shared[e.Key.ID]
	if g == nil || !e.NewerThan(g.Epoch, g.Rev) {
		return
	}
	g.position, g.record, g.plan, g.wrong = position{e.Epoch, e.Rev}, e.State, nil, nil
	if g.gone = e.Deleted; !g.gone { // by a controller of the release before, since somebody shares it
		g.plan, g.wrong = decode(e.State)
	}
	if g.asked {
		s.spread(e.Key.ID)
	}
}

// spread has the sessions that share a plan take it on. It needs the mutex.
func (s *Service) spread(group string) {
	g := s.shared[group]
	for id, n := range s.sessions {
		if n.own.Group == group && !n.gone && (n.early || g.newerThan(n.position) && (!g.gone || n.Own != (position{}))) {
			s.choose(id, n)
		}
	}
}

// sharedRead is called when the ledger has told all that it holds of the shared plans. It needs the mutex.
func (s *Service) sharedRead() {
	for group, g := range s.shared {
		if !g.asked {
			g.asked = true
			s.spread(group)
		}
	}
}
