package runner

import (
	"context"
	"slices"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

const (
	reportEvery   = 10 * time.Second // heartbeat; the sessions service misses several before it acts
	reportTimeout = 5 * time.Second
	lastReport    = 2 * time.Second // for the report of a failure before the end
)

// state is what the runner reports, and the mark that it leaves in the log.
type state struct {
	mu     sync.Mutex
	now    api.RunnerReportRequest
	marked api.RunnerMark
	dirty  chan struct{} // of capacity 1
}

func newState(incarnation int, agent api.Agent, endpoint string, resume api.RunnerResumeResponse) *state {
	s := &state{dirty: make(chan struct{}, 1)}
	s.now = api.RunnerReportRequest{
		Incarnation: incarnation, State: api.StateStarting, Agent: agent, Endpoint: endpoint, ActiveAt: time.Now().UnixMilli(),
	}
	s.marked = api.RunnerMark{DoneSeq: resume.DoneSeq, InterruptSeq: resume.InterruptSeq, AgentSession: resume.AgentSession}
	return s
}

func (s *state) change(f func(*api.RunnerReportRequest)) {
	s.mu.Lock()
	f(&s.now)
	s.now.Version++
	s.now.ActiveAt = time.Now().UnixMilli()
	s.mu.Unlock()
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// touch notes a sign of work; the next report carries it.
func (s *state) touch(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.ActiveAt = at.UnixMilli()
}

func (s *state) set(a api.Activity) {
	s.change(func(now *api.RunnerReportRequest) { now.Activity = a })
}

// spend adds to the usage of this incarnation; the next report carries it.
func (s *state) spend(u api.Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Version++
	s.now.Usage = s.now.Usage.Plus(u)
}

func (s *state) snapshot() api.RunnerReportRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.Activity == api.ActivityWorking {
		s.now.ActiveAt = time.Now().UnixMilli()
	}
	now := s.now
	now.Turns = slices.Clone(s.now.Turns)
	return now
}

// turned notes a turn for its trace; the next report carries it. Of too many the oldest are forgotten.
func (s *state) turned(t api.RunnerTurn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Turns = append(s.now.Turns, t)
	s.now.Turns = s.now.Turns[max(0, len(s.now.Turns)-api.MaxTurns):]
}

// told forgets the turns of a report that was answered.
func (s *state) told(turns []api.RunnerTurn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Turns = slices.DeleteFunc(s.now.Turns, func(t api.RunnerTurn) bool { return slices.Contains(turns, t) })
}

func (s *state) mark() api.RunnerMark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marked
}

// session remembers the agent's own name for the conversation.
func (s *state) session(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marked.AgentSession = name
}

// end returns the mark that the end of it's turn leaves.
func (s *state) end(it item, interruptSeq uint64) api.RunnerMark {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !it.own {
		s.marked.DoneSeq = it.Seq
	}
	s.marked.InterruptSeq = interruptSeq
	return s.marked
}

// report sends the state on each change and as a heartbeat, until ctx ends or the answer
// is to stop. A report that fails is made again by the next.
func (r *runner) report(ctx context.Context) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	failed := false
	for {
		stop, err := r.reportOnce(ctx, reportTimeout)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !failed:
			r.log.Warn("report", "op", api.RunnerReport.Verb, "code", api.CodeOf(err), "err", err)
		case stop:
			return errStopped
		}
		failed = err != nil
		retry := (<-chan time.Time)(nil)
		if failed {
			retry = time.After(time.Second)
		}
		select {
		case <-r.state.dirty:
		case <-tick.C:
		case <-retry:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *runner) reportOnce(ctx context.Context, timeout time.Duration) (stop bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	now := r.state.snapshot()
	res, err := rpc.CallAsSession(ctx, r.client, r.launch.Tenant, r.launch.Session, api.RunnerReport, now)
	if err == nil {
		r.state.told(now.Turns)
		r.gate.reported()
	}
	return res.Stop, err
}
