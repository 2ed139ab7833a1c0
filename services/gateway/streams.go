package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// streams are the open streams of this replica: what must end when a session goes or a credential is revoked.
type streams struct {
	auth    *authn
	metrics *metrics
	limit   int // open streams of one principal
	visible func(c *caller, key bus.Key) error

	force chan struct{} // asks run to look at once
	jobs  sync.WaitGroup

	mu        sync.Mutex
	all       map[*stream]struct{}
	bySession map[bus.Key]map[*stream]struct{}
	perOwner  map[bus.Key]int
}

// stream is one client's connection that stays open. It ends when its credential does.
type stream struct {
	reg    *streams
	kind   string
	owner  bus.Key
	end    context.CancelCauseFunc
	who    atomic.Pointer[caller]
	asking atomic.Bool

	mu       sync.Mutex
	sessions map[bus.Key]context.CancelCauseFunc
}

func newStreams(auth *authn, m *metrics, limit int, visible func(*caller, bus.Key) error) *streams {
	return &streams{
		auth: auth, metrics: m, limit: limit, visible: visible, force: make(chan struct{}, 1),
		all: map[*stream]struct{}{}, bySession: map[bus.Key]map[*stream]struct{}{}, perOwner: map[bus.Key]int{},
	}
}

// open registers a stream of c. Its context ends, with the reason as its cause, when the stream must; close it in any case.
func (s *streams) open(ctx context.Context, kind string, c *caller) (context.Context, *stream, error) {
	owner := bus.Key{Tenant: c.Tenant, ID: c.ID}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perOwner[owner] >= s.limit {
		return nil, nil, &api.Error{Code: api.CodeExhausted, Detail: "too many open streams; close some", RetryAfter: retrySoon}
	}
	ctx, end := context.WithCancelCause(ctx)
	st := &stream{reg: s, kind: kind, owner: owner, end: end, sessions: map[bus.Key]context.CancelCauseFunc{}}
	st.who.Store(c)
	s.all[st] = struct{}{}
	s.perOwner[owner]++
	s.metrics.open.WithLabelValues(kind).Inc()
	return ctx, st, nil
}

func (st *stream) close() {
	s := st.reg
	s.mu.Lock()
	defer s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	for key := range st.sessions {
		s.forget(st, key)
	}
	delete(s.all, st)
	if s.perOwner[st.owner]--; s.perOwner[st.owner] == 0 {
		delete(s.perOwner, st.owner)
	}
	s.metrics.open.WithLabelValues(st.kind).Dec()
	st.end(nil)
}

// forget needs both locks.
func (s *streams) forget(st *stream, key bus.Key) {
	delete(st.sessions, key)
	if set := s.bySession[key]; set != nil {
		delete(set, st)
		if len(set) == 0 {
			delete(s.bySession, key)
		}
	}
}

// follow registers that the stream follows the session key until the returned context ends: with the stream, with the
// session or with the access to it. It is a conflict when the stream follows it already.
func (st *stream) follow(ctx context.Context, key bus.Key) (context.Context, error) {
	ctx, end := context.WithCancelCause(ctx)
	if !st.register(key, end) {
		end(nil)
		return nil, api.Errorf(api.CodeConflict, "this connection follows the session already")
	}
	// The session may have gone before it was registered here.
	if err := st.reg.visible(st.who.Load(), key); err != nil {
		st.unfollow(key)
		return nil, err
	}
	return ctx, nil
}

func (st *stream) register(key bus.Key, end context.CancelCauseFunc) bool {
	s := st.reg
	s.mu.Lock()
	defer s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, taken := st.sessions[key]; taken {
		return false
	}
	st.sessions[key] = end
	set := s.bySession[key]
	if set == nil {
		set = map[*stream]struct{}{}
		s.bySession[key] = set
	}
	set[st] = struct{}{}
	return true
}

// unfollow ends what follow began, and reports whether there was something to end.
func (st *stream) unfollow(key bus.Key) bool {
	s := st.reg
	s.mu.Lock()
	st.mu.Lock()
	end, ok := st.sessions[key]
	s.forget(st, key)
	st.mu.Unlock()
	s.mu.Unlock()
	if ok {
		end(nil)
	}
	return ok
}

// count returns how many sessions the stream follows.
func (st *stream) count() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.sessions)
}

// endSession ends whatever follows the session key.
func (s *streams) endSession(key bus.Key, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.bySession[key] {
		st.mu.Lock()
		end := st.sessions[key]
		st.mu.Unlock()
		if end != nil {
			end(cause)
		}
	}
}

// endAll ends every stream.
func (s *streams) endAll(cause error) {
	for _, st := range s.snapshot() {
		st.end(cause)
	}
}

func (s *streams) snapshot() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*stream, 0, len(s.all))
	for st := range s.all {
		list = append(list, st)
	}
	return list
}

// recheckNow has run look at every stream at once. It does not block.
func (s *streams) recheckNow() {
	select {
	case s.force <- struct{}{}:
	default:
	}
}

// run ends the streams whose credential or access has ended, until ctx ends.
func (s *streams) run(ctx context.Context) {
	tick := time.NewTicker(recheckInterval)
	defer tick.Stop()
	defer s.jobs.Wait()
	for {
		forced := false
		select {
		case <-ctx.Done():
			return
		case <-s.force:
			forced = true
		case <-tick.C:
		}
		for _, st := range s.snapshot() {
			c := st.who.Load()
			if s.auth.fresh(ctx, c) {
				if forced {
					st.checkAccess(c)
				}
				continue
			}
			// Asking may cost an exchange: one stream does not wait for another's. The exchanges
			// of one key are one.
			if st.asking.CompareAndSwap(false, true) {
				s.jobs.Go(func() {
					defer st.asking.Store(false)
					st.ask(ctx)
				})
			}
		}
	}
}

// ask presents the stream's credential again. Where nobody can say any more whether it is good, the stream ends as unavailable: its client is to
// connect again, not to sign in again.
func (st *stream) ask(ctx context.Context) {
	c, err := st.reg.auth.caller(ctx, st.who.Load().credential, "")
	if err != nil {
		if api.CodeOf(err) == api.CodeUnauthenticated {
			err = errRevoked
		}
		if ctx.Err() == nil { // else the stream ends with the gateway
			st.end(err)
		}
		return
	}
	st.who.Store(c)
	st.checkAccess(c)
}

// checkAccess ends the following of sessions that c may not see any more.
func (st *stream) checkAccess(c *caller) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, end := range st.sessions {
		if err := st.reg.visible(c, key); err != nil {
			end(err)
		}
	}
}
