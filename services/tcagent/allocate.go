package tcagent

import (
	"context"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

// The rhythm of sharing the uplink.
const (
	// shareAtRest is how often sessions are looked at while the uplink has room for all that they ask for.
	shareAtRest = time.Second
	// shareContended is how often while it has not.
	shareContended = 200 * time.Millisecond
	// shareBusy is the part of the uplink above which it is looked at more often, in percent.
	shareBusy = 70
	// shareSlack is how far a share must be from what is in force, in percent, for the kernel to be told.
	shareSlack = 5
	// hungryAt is the part of what it may send, in percent, from which on a session is taken for one that would send more.
	hungryAt = 90
	// headroom is what a session that is not is expected to send next, in percent of what it sends.
	headroom = 125
)

// shares is what a session gets of the node's uplink now, where that is less than its ceilings; zero: its ceiling.
type shares struct{ download, upload tc.BitsPerSecond }

func (s *shares) of(d tc.Direction) *tc.BitsPerSecond {
	if d == tc.Upload {
		return &s.upload
	}
	return &s.download
}

// allocator divides the node's uplink among its sessions (tc.Divide), each direction on its own, by what they send. It only decides what a
// session's link is at most: the enforcer writes that, with the session's plan. It is one goroutine's.
type allocator struct {
	capacity tc.BitsPerSecond
	last     map[string]*sending
}

// sending is what a session did lately.
type sending struct {
	at               time.Time
	on               kernel.Interface
	download, upload load
}

func (n *sending) of(d tc.Direction) *load {
	if d == tc.Upload {
		return &n.upload
	}
	return &n.download
}

// load is what was counted in a direction.
type load struct {
	bytes, drops uint64
	backlog      bool
	demand       tc.BitsPerSecond
	raised       bool // it was found that it may have more
}

// eachWay are the directions, each of which is shared on its own.
var eachWay = [...]tc.Direction{tc.Download, tc.Upload}

// claimant is a session that takes part.
type claimant struct {
	id   string
	on   kernel.Interface
	plan *tc.Plan
	now  shares
}

// allocate shares the uplink until ctx ends. A node whose uplink nobody has said shares nothing.
func (s *Service) allocate(ctx context.Context) error {
	capacity, err := tc.ParseRate(s.cfg.Uplink)
	if err != nil {
		return err // Config.Validate has seen it
	}
	a := &allocator{capacity: capacity, last: map[string]*sending{}}
	next := time.NewTimer(shareAtRest)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return nil
		}
		contended, err := s.share(a)
		if err != nil {
			s.log.WarnContext(ctx, "share the uplink", "err", err)
		}
		if contended {
			next.Reset(shareContended)
		} else {
			next.Reset(shareAtRest)
		}
	}
}

// share looks at all sessions once, and has those written whose share is another than what is in force. It reports whether the uplink is, or is
// about to be, too narrow for them.
func (s *Service) share(a *allocator) (contended bool, err error) {
	list := s.claimants()
	if !a.scarce(list) { // with their ceilings they cannot fill it: nothing to count
		clear(a.last)
		s.allot(list, make([]shares, len(list)))
		return false, nil
	}
	on := make([]kernel.Interface, len(list))
	for i, c := range list {
		on[i] = c.on
	}
	read, err := s.kernel.Count(on)
	if err != nil {
		return false, err
	}
	contended = a.learn(list, read, time.Now())
	want := make([]shares, len(list))
	for _, d := range eachWay {
		contended = a.divide(d, list, want) || contended
	}
	s.allot(list, want)
	return contended, nil
}

func (s *Service) claimants() (list []claimant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.sessions {
		if n.on != nil && n.plan != nil && !n.gone && n.plan.Mode == tc.Enforce {
			list = append(list, claimant{id, *n.on, n.plan, n.shares})
		}
	}
	return list
}

// ceiling is the most that a plan lets a session have of the uplink.
func (a *allocator) ceiling(t *tc.Tree) tc.BitsPerSecond {
	if t == nil {
		return 0
	}
	return min(t.Rate, a.capacity)
}

// scarce says whether the ceilings of a direction add up to more than the uplink.
func (a *allocator) scarce(list []claimant) bool {
	var download, upload tc.BitsPerSecond
	for _, c := range list {
		download, upload = download+a.ceiling(c.plan.Download), upload+a.ceiling(c.plan.Upload)
	}
	return max(download, upload) > a.capacity
}

// learn works out what each session would send, from what the kernel counted since the last time. unknown: some are new.
func (a *allocator) learn(list []claimant, read []kernel.Counters, now time.Time) (unknown bool) {
	next := make(map[string]*sending, len(list))
	for i, c := range list {
		n := &sending{at: now, on: c.on, download: sum(read[i].Download), upload: sum(read[i].Upload)}
		if before := a.last[c.id]; before != nil && before.on == c.on {
			for _, d := range eachWay {
				was, is := before.of(d), n.of(d)
				is.raised = was.raised
				is.demand = a.demand(*was, *is, now.Sub(before.at), c.plan.Tree(d), *c.now.of(d))
			}
		} else { // what it sends the next look tells, which is soon
			unknown = true
		}
		next[c.id] = n
	}
	a.last = next
	return unknown
}

func sum(classes []kernel.ClassCounters) (l load) {
	for _, c := range classes {
		l.bytes, l.drops, l.backlog = l.bytes+c.Bytes, l.drops+c.Drops, l.backlog || c.Backlog > 0
	}
	return l
}

// demand is what a session would send: all that it may, when packets wait or are lost, or it sends about what it may; else a little more than what it sends.
func (a *allocator) demand(before, now load, took time.Duration, t *tc.Tree, share tc.BitsPerSecond) tc.BitsPerSecond {
	ceiling := a.ceiling(t)
	if ceiling == 0 || took <= 0 || now.bytes < before.bytes {
		return ceiling // counted anew
	}
	most := ceiling
	if share != 0 {
		most = min(most, share)
	}
	rate := tc.BitsPerSecond(float64(now.bytes-before.bytes) * 8 / took.Seconds())
	if now.backlog || now.drops != before.drops || rate >= most/100*hungryAt {
		return ceiling
	}
	return min(rate/100*headroom, ceiling)
}

// divide sets what each session is to get of a direction, and reports whether the uplink is about full.
func (a *allocator) divide(d tc.Direction, list []claimant, want []shares) (full bool) {
	claims := make([]tc.Claim, len(list))
	for i, c := range list {
		t := c.plan.Tree(d)
		if t == nil {
			continue
		}
		claims[i] = tc.Claim{Guarantee: t.Guarantee, Ceiling: a.ceiling(t), Demand: a.last[c.id].of(d).demand, Weight: max(t.Guarantee, tc.Mbit)}
	}
	var used tc.BitsPerSecond
	for i, share := range tc.Divide(a.capacity, claims) {
		used += share.Use
		if t := list[i].plan.Tree(d); t != nil && share.Limit < claims[i].Ceiling {
			*want[i].of(d) = max(share.Limit, tc.MinRate)
		}
		a.settleDown(d, list[i], &want[i])
	}
	return used >= a.capacity/100*shareBusy
}

// settleDown leaves a share as it is that would change by little, and lets one grow only when two looks in a row say so: what one session gets
// more the others have to be told first, and a pause of a moment is none.
func (a *allocator) settleDown(d tc.Direction, c claimant, want *shares) {
	n := a.last[c.id].of(d)
	next, now := want.of(d), *c.now.of(d)
	grows := now != 0 && (*next == 0 || *next > now)
	switch {
	case now == 0: // a limit is put at once
	case *next != 0 && *next >= now/100*(100-shareSlack) && *next <= now/100*(100+shareSlack):
		*next, grows = now, false
	case grows && !n.raised:
		*next = now
	}
	n.raised = grows
}

// allot hands shares to the enforcer, where they are other than before.
func (s *Service) allot(list []claimant, want []shares) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range list {
		if n := s.sessions[c.id]; n != nil && n.plan == c.plan && n.shares != want[i] { // of another plan the next look decides
			n.shares = want[i]
			s.lookLocked(c.id)
		}
	}
}
