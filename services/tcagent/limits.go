package tcagent

import (
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

// limitsASecond is of how many sessions the limits are read in a second: some milliseconds of work.
const limitsASecond = 25

// limits reads what limits of packets and connections have caught, of the sessions that have some. Each session's network namespace is entered for it, so it is
// done more seldom than classes are counted.
func (s *Service) limits() (map[string][]api.TrafficLimitCount, error) {
	var (
		ids   []string
		on    []kernel.Interface
		plans []*tc.Plan
	)
	s.mu.Lock()
	for id, n := range s.sessions {
		if n.on != nil && n.plan != nil && !n.gone && len(n.plan.Limits) > 0 && n.inForce == n.Record.Hash {
			ids, on, plans = append(ids, id), append(on, *n.on), append(plans, n.plan)
		}
	}
	s.mu.Unlock()
	read, err := s.kernel.CountLimits(on, plans)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]api.TrafficLimitCount, len(ids))
	for i, id := range ids {
		for _, c := range read[i] {
			out[id] = append(out[id], api.TrafficLimitCount{Limit: string(c.Kind), Direction: string(c.Direction), Packets: c.Packets, Bytes: c.Bytes})
		}
	}
	return out, nil
}
