package tcagent

import (
	"context"
	"math/rand/v2"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// gather is how long a report waits after the one before it: a policy changes many sessions at once. The first is not kept waiting.
	gather = 50 * time.Millisecond
	// heartbeat is how long after its last report a node reports that has no news, a half more or less: nodes that started at one moment, when the power came back, shall not report at one moment
	// for ever.
	heartbeat = time.Minute
	// reportLate is how much later than it is announced NODES says what has become of shared plans, at random: all nodes have such news at one moment.
	reportLate     = 5 * time.Second
	reportLateMost = 15 * time.Second

	// reportRetry is how long a report that could not be written waits, half of it at random, doubled with each that fails, and at most: when
	// the bus has too much to do, that is because all nodes report.
	reportRetry     = time.Second
	reportRetryMost = 16 * time.Second
)

// actor is who reports.
const actor = "service:tcagent"

// tell says that there is something to report. It does not block.
func (s *Service) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// tellLater says that there is something to announce, and to report later. It needs the mutex.
func (s *Service) tellLater(id string) {
	s.untold[id] = struct{}{}
	if s.reportBy.IsZero() { // the enforcer's timer comes back to it
		s.reportBy = time.Now().Add(reportLate + rand.N(reportLateMost-reportLate)) //nolint:gosec // jitter
	}
}

// announce publishes the news that the node's entry in NODES says later. Whoever does not hear of it reads it there.
func (s *Service) announce() {
	s.mu.Lock()
	if len(s.untold) == 0 {
		s.mu.Unlock()
		return
	}
	news := api.TrafficCounters{Node: s.cfg.Node, At: time.Now().UTC(), Applied: make(map[string]api.TrafficPlanApplied, len(s.untold))}
	for id := range s.untold {
		if n := s.sessions[id]; n != nil && n.applied.State != "" && !n.gone {
			news.Applied[id] = n.applied
		}
	}
	clear(s.untold)
	s.mu.Unlock()
	data, err := json.Marshal(news)
	if err == nil {
		err = s.deps.Bus.Publish(api.LiveCountersPrefix+s.token, data)
	}
	if err != nil {
		s.log.Debug("announce", "err", err)
	}
}

// report keeps the node's entry in NODES up to date, until ctx ends: what it can do, and what it has applied, which is not what was
// intended until it says so.
func (s *Service) report(ctx context.Context) error {
	nodes := bus.ReadLedger[api.TrafficNodeRecord](s.deps.Bus, api.NounNodes)
	key := bus.Key{Tenant: api.HomeTenant, ID: s.token}
	beat := time.NewTimer(0)
	defer beat.Stop()
	retry := reportRetry
	for {
		began := time.Now()
		if err := s.write(ctx, nodes, key); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.log.WarnContext(ctx, "report", "code", api.CodeOf(err), "err", err)
			wait(ctx, retry/2+rand.N(retry/2)) //nolint:gosec // jitter
			retry = min(2*retry, reportRetryMost)
			continue
		}
		retry = reportRetry
		beat.Reset(heartbeat/2 + rand.N(heartbeat)) //nolint:gosec // jitter
		if !s.awaitNews(ctx, began, beat.C) {
			return nil
		}
	}
}

// awaitNews waits until there is something to report since a report began, and reports false when ctx has ended.
func (s *Service) awaitNews(ctx context.Context, began time.Time, beat <-chan time.Time) bool {
	select {
	case <-s.news:
		wait(ctx, time.Until(began.Add(gather)))
		return true
	case <-beat:
		return true
	case <-ctx.Done():
		return false
	}
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *Service) write(ctx context.Context, nodes *bus.Ledger[api.TrafficNodeRecord], key bus.Key) error {
	select {
	case <-s.news: // what it told of is in this report
	default:
	}
	record, err := s.record()
	if err != nil {
		return err
	}
	meta := bus.Meta{Actor: actor, Verb: "report"}
	if s.reported.Rev != 0 {
		e, err := nodes.Replace(ctx, s.reported, meta, record)
		if err == nil {
			s.reported = e
		}
		if err == nil || api.CodeOf(err) != api.CodeConflict { // what was refused may have been written: then the next meets a conflict
			return err
		}
	}
	s.reported, err = nodes.Update(ctx, key, meta, func(api.TrafficNodeRecord) (api.TrafficNodeRecord, error) { return record, nil })
	if api.CodeOf(err) == api.CodeNotFound && err != nil {
		s.reported, err = nodes.Create(ctx, key, meta, record)
	}
	return err
}

func (s *Service) record() (api.TrafficNodeRecord, error) {
	can, err := json.Marshal(s.capabilities())
	if err != nil {
		return api.TrafficNodeRecord{}, err
	}
	r := api.TrafficNodeRecord{
		Name: s.cfg.Node, Agent: s.deps.Version, ReportedAt: time.Now().UTC(), Capabilities: can, Uplink: s.cfg.Uplink,
		Applied: map[string]api.TrafficPlanApplied{}, Shares: true,
	}
	states := map[string]int{stateApplied: 0, stateFailed: 0, stateKept: 0, stateOff: 0}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reportBy = time.Time{}
	for id, n := range s.sessions {
		if n.applied.State != "" && !n.gone {
			r.Applied[id] = n.applied
			states[n.applied.State]++
		}
	}
	for state, n := range states {
		s.metrics.sessions.WithLabelValues(state).Set(float64(n))
	}
	return r, nil
}
