package tcagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

// shelter is the operator's default policy: it holds for the interface of a new session until the session's own plan is there. It is the enforcer's.
type shelter struct {
	policies *tc.Set
	look     atomic.Bool  // there may be new interfaces
	has      map[int]bool // interfaces, by index, that it was put on
}

// newShelter reads the policy in file.
func newShelter(file string) (*shelter, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("-tcagent.default: %w", err)
	}
	policy, err := tc.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("-tcagent.default: %s: %w", file, err)
	}
	if !policy.AppliesTo.Selects(tc.Session{}) {
		return nil, fmt.Errorf("-tcagent.default: %s: applies_to selects sessions; nothing is known yet of whom the default holds for", file)
	}
	set, err := tc.NewSet([]tc.Policy{policy})
	if err != nil {
		return nil, fmt.Errorf("-tcagent.default: %s: %w", file, err)
	}
	return &shelter{policies: set, has: map[int]bool{}}, nil
}

// protect puts the default plan on the interfaces of sessions that have none of their own yet. Of those that a runtime made, these are the ones that are down: nothing
// has passed.
func (s *Service) protect(ctx context.Context) {
	if s.shelter == nil || s.kernel == nil || !s.shelter.look.Swap(false) {
		return
	}
	named, err := s.kernel.Named(api.TrafficLinkAlias)
	if err != nil {
		s.log.Warn("look for new sessions' interfaces", "err", err)
		return
	}
	has := map[int]bool{}
	for _, n := range named {
		switch {
		case s.shelter.has[n.Index]:
			has[n.Index] = true
		case n.Up || s.claimed(n.Index):
		default:
			if err := s.protectOne(ctx, n); err != nil {
				s.log.Warn("the default traffic policy is not in force", "interface", n.Index, "err", err)
				s.shelter.look.Store(true) // the enforcer's timer comes back to it
				continue
			}
			has[n.Index] = true
		}
	}
	s.shelter.has = has
}

func (s *Service) protectOne(ctx context.Context, n kernel.Named) error {
	path, ok := s.finder.file(n)
	if !ok {
		return nil // nobody's of this node
	}
	found, err := s.kernel.Find(path)
	if err != nil {
		if errors.Is(err, kernel.ErrGone) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	plan, _ := s.shelter.policies.Compile(tc.Session{ID: "default" + strconv.Itoa(n.Index)}, s.capabilities(), time.Now())
	_, err = s.kernel.Apply(ctx, found.Interface, plan)
	return err
}

// claimed reports whether the interface is that of a session whose plan is known.
func (s *Service) claimed(index int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.sessions {
		if n.on != nil && n.on.Index == index {
			return true
		}
	}
	return false
}
