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
	look     atomic.Bool     // there may be new interfaces
	has      map[int]bool    // interfaces, by index, that it was put on
	pods     map[string]bool // those of sessions, by ID, that it was put on or that were there before; nil: nobody has looked
	expect   atomic.Int64    // until when, in Unix nanoseconds, the container runtime may list a pod whose interface was made
}

const (
	// expectPod is how long after a new interface its pod may be listed, expectStep how often it is looked for.
	expectPod  = 10 * time.Second
	expectStep = 50 * time.Millisecond
)

// arrived notes that there is a new interface, perhaps a session's.
func (s *Service) arrived() {
	if s.shelter == nil {
		return
	}
	if s.deps.Runtime != nil {
		s.shelter.expect.Store(time.Now().Add(expectPod).UnixNano())
	}
	s.shelter.look.Store(true)
	s.wakeUp()
}

// expecting reports whether there may be a pod at any moment.
func (h *shelter) expecting() bool { return h != nil && time.Now().UnixNano() < h.expect.Load() }

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

// protect puts the default plan on the interfaces of sessions that have none of their own yet. Of those that a runtime made and leaves to us these are the ones that are down, where nothing
// has passed; of pods, those that were not there when the agent began.
func (s *Service) protect(ctx context.Context) {
	if s.shelter == nil || s.kernel == nil {
		return
	}
	if !s.shelter.look.Swap(false) && !s.shelter.expecting() {
		return
	}
	named, err := s.kernel.Named(api.TrafficLinkAlias)
	if err != nil {
		s.log.Warn("look for new sessions' interfaces", "err", err)
		return
	}
	has := map[int]bool{}
	for _, n := range named {
		path, ok := s.finder.file(n)
		switch {
		case s.shelter.has[n.Index]:
			has[n.Index] = true
		case ok && !n.Up:
			has[n.Index] = s.protectOne(ctx, path)
		}
	}
	s.shelter.has = has
	s.protectPods(ctx)
}

// protectPods does so for sessions' pods. A runtime lists a pod after its interface is there, and before its containers begin.
func (s *Service) protectPods(ctx context.Context) {
	if s.deps.Runtime == nil {
		return
	}
	pods, err := s.deps.Runtime.Pods(ctx)
	if err != nil {
		return // the finder says so
	}
	first, seen := s.shelter.pods == nil, map[string]bool{}
	for _, p := range pods {
		if _, ours := p.Labels[api.PodLabel]; ours {
			seen[p.ID] = first || s.shelter.pods[p.ID] || s.protectOne(ctx, s.finder.namespace(p.PID))
		}
	}
	s.shelter.pods = seen
}

// protectOne puts the default plan on the interface that leads to a network namespace, unless it is that of a session whose plan is known. It reports whether that needs
// no other try.
func (s *Service) protectOne(ctx context.Context, path string) bool {
	found, err := s.kernel.Find(path)
	if errors.Is(err, kernel.ErrGone) {
		return true
	}
	if err == nil && s.claimed(found.Index) {
		return true
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		plan, _ := s.shelter.policies.Compile(tc.Session{ID: "default" + strconv.Itoa(found.Index)}, s.capabilities(), time.Now())
		_, err = s.kernel.Apply(ctx, found.Interface, plan)
	}
	if err != nil {
		s.log.Warn("the default traffic policy is not in force", "namespace", path, "err", err)
		s.shelter.look.Store(true) // the enforcer's timer comes back to it
	}
	return err == nil
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
