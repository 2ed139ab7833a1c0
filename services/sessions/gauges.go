package sessions

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// indexState lists sessions by their state, so that counting them costs nothing.
const indexState = "state"

// countTimeout bounds what a scrape waits for the runtime's pools.
const countTimeout = time.Second

// states are all states of a session, so that none is missing where there is no session in it.
var states = []api.State{
	api.StatePending, api.StateStarting, api.StateRunning, api.StatePausing, api.StatePaused, api.StateResuming, api.StateStopping,
	api.StateTerminated, api.StateFailed,
}

// Ways in which a session came to run.
const (
	startCreate  = "create"  // from the request that created it
	startResume  = "resume"  // from the request, or the message, that brought it back
	startRestart = "restart" // from the death of the runner before
)

// gauges are what a person would count: sessions, pools, and how long it took until sessions ran. Every replica counts the same sessions and
// pools; starts are counted by the one that reconciles. It implements prometheus.Collector.
type gauges struct {
	service  *Service
	sessions *prometheus.GaugeVec
	pools    *prometheus.GaugeVec
	starts   *prometheus.HistogramVec
}

func newGauges(s *Service, reg prometheus.Registerer) *gauges {
	g := &gauges{
		service: s,
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "agentyard_sessions", Help: "Sessions that are kept, by state.",
		}, []string{"state"}),
		pools: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "agentyard_sessions_pool_runners", Help: "Runners of all warm pools: wanted, ready, and coming.",
		}, []string{"state"}),
		starts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "agentyard_session_start_seconds", Help: "From the request to running, by how a session came to run.",
			Buckets: []float64{.01, .025, .05, .1, .2, .35, .5, 1, 2, 5, 10, 20, 40, 80, 120},
		}, []string{"how"}),
	}
	for _, how := range []string{startCreate, startResume, startRestart} {
		g.starts.WithLabelValues(how)
	}
	if reg != nil {
		reg.MustRegister(g, g.starts)
	}
	return g
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	g.sessions.Describe(out)
	g.pools.Describe(out)
}

// Collect implements prometheus.Collector. Until the service is ready it says nothing rather than zero.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	select {
	case <-g.service.ready:
	default:
		return
	}
	for _, state := range states {
		g.sessions.WithLabelValues(string(state)).Set(float64(g.service.view.Len(indexState, string(state))))
	}
	g.sessions.Collect(out)
	if want, ready, coming, ok := g.service.poolTotals(); ok {
		g.pools.WithLabelValues("wanted").Set(float64(want))
		g.pools.WithLabelValues("ready").Set(float64(ready))
		g.pools.WithLabelValues("coming").Set(float64(coming))
		g.pools.Collect(out)
	}
}

// poolTotals adds up all pools; false for a runtime that keeps none, or does not say.
func (s *Service) poolTotals() (want, ready, coming int, ok bool) {
	pooler, ok := s.deps.Runtime.(Pooler)
	if !ok {
		return 0, 0, 0, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	pools, err := pooler.Pools(ctx)
	if err != nil {
		return 0, 0, 0, false
	}
	for _, p := range pools {
		ready, coming = ready+p.Ready, coming+p.Coming
	}
	now := s.now()
	s.byName.All(func(e bus.Entry[api.Profile]) bool {
		want += poolWant(e.State.Pool, s.demand.lately(e.Key, now), now)
		return true
	})
	return want, ready, coming, true
}

// started measures a session that has come to run, where this replica reconciles: of several one counts.
func (g *gauges) started(old *bus.Entry[api.SessionRecord], now bus.Entry[api.SessionRecord]) {
	if old == nil || old.State.State == api.StateRunning || now.State.State != api.StateRunning || g.service.term.Load() == nil {
		return
	}
	how, since := startRestart, old.State.StateSince
	switch {
	case old.State.State == api.StateResuming:
		how = startResume
	case now.State.Incarnation == 1:
		how, since = startCreate, now.State.CreatedAt
	}
	g.starts.WithLabelValues(how).Observe(max(0, now.At.Sub(since).Seconds()))
}
