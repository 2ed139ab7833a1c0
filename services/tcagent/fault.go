package tcagent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

// faulty is a fault as this node has it: for how long, by the clock that the kernel ends it by.
type faulty struct {
	record api.TrafficFaultRecord
	fault  tc.Fault
	until  time.Time
	boot   uint64
}

// faultInForce is what is said of a fault that is in force as a whole.
const faultInForce = "in force"

// diverted is a plan with the session's fault, if it has one that has not ended, that fault, and what is to be said of it. The moment at which the kernel ends the fault is worked out once and
// kept, since a classifier with another is another; a clock of the controller's that is ahead does not prolong it. It needs the Service's mutex.
func (s *Service) diverted(id string, n *session, p *tc.Plan) (plan *tc.Plan, f *faulty, said string) {
	now := time.Now()
	record := n.Record.Fault
	switch {
	case record == nil || !now.Before(record.Until):
		n.fault = nil
	case n.fault == nil || n.fault.record != *record:
		n.fault = nil
		fault, err := readFault(record.TrafficFaultSpec)
		if err != nil {
			delete(s.faults, id)
			return p, nil, err.Error()
		}
		left := min(record.Until.Sub(now), tc.MaxFaultTime)
		n.fault = &faulty{record: *record, fault: fault, until: now.Add(left), boot: kernel.BootTime() + uint64(left)}
	}
	if n.fault == nil || !now.Before(n.fault.until) { // which is remembered until its record is gone, or it would begin anew
		delete(s.faults, id)
		return p, nil, ""
	}
	s.faults[id] = n.fault.until
	plan, missing := p.WithFault(n.fault.fault, n.fault.boot, s.capabilities())
	if len(missing) > 0 {
		said = strings.Join(missing, "; ")
		if plan != p {
			said = "in part; " + said
		}
		return plan, n.fault, said
	}
	return plan, n.fault, faultInForce
}

// readFault turns what travels into what is done: the JSON of both is one vocabulary.
func readFault(spec api.TrafficFaultSpec) (f tc.Fault, err error) {
	data, err := json.Marshal(spec)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return f, fmt.Errorf("read fault: %w", err)
	}
	if found := f.Validate(); len(found) > 0 {
		return f, fmt.Errorf("fault: %w", found)
	}
	return f, nil
}

// ended has the sessions looked at whose fault has ended. It needs the Service's mutex.
func (s *Service) ended(now time.Time) {
	for id, until := range s.faults {
		if !now.Before(until) {
			delete(s.faults, id)
			if n := s.sessions[id]; n != nil {
				n.after = time.Time{}
				s.dirty[id] = struct{}{}
			}
		}
	}
}

// relayed is a fault, or a part of one, that this process does itself (kernel.Relay), where the kernel has no netem. It ends with the process.
type relayed struct {
	*kernel.Relay
	of *faulty
	on kernel.Interface
}

// keep ends the relay unless it is this fault's, at this interface.
func (r *relayed) keep(f *faulty, on *kernel.Interface) {
	if r != nil && r.Relay != nil && (r.of != f || on == nil || r.on != *on) {
		r.Close()
		r.Relay = nil
	}
}

// relay begins what of a session's fault is a relay's part, and returns what is to be said of the fault.
func (s *Service) relay(ctx context.Context, n *session, on kernel.Interface, f *faulty, said string) string {
	if f == nil || !f.fault.Relayed(s.capabilities()) {
		return said
	}
	if n.relay != nil && n.relay.Relay != nil && n.relay.of == f && n.relay.on == on {
		return said
	}
	r, err := s.kernel.Relay(ctx, on, f.fault, f.boot)
	if err != nil {
		return "in part; delay and duplicate: " + err.Error()
	}
	n.relay = &relayed{r, f, on}
	return said
}

// endRelays ends all of them, when the agent stops.
func (s *Service) endRelays() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.sessions {
		n.relay.keep(nil, nil)
	}
}
