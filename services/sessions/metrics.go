package sessions

import "github.com/prometheus/client_golang/prometheus"

// metrics are what a person would count of the service itself; operations are measured where they are served (libs/rpc).
type metrics struct {
	leading prometheus.Gauge
	orphans *prometheus.CounterVec
	swept   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentyard_sessions_reconciling", Help: "1 while this replica reconciles the runtime with the ledger.",
		}),
		orphans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentyard_sessions_orphans_total", Help: "What was found without its other half and mended, by kind.",
		}, []string{"kind"}),
		swept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentyard_sessions_swept_total", Help: "Sessions that were paused, stopped or removed because a time had passed, by kind.",
		}, []string{"kind"}),
	}
	reg.MustRegister(m.leading, m.orphans, m.swept)
	for _, kind := range sweptKinds {
		m.swept.WithLabelValues(string(kind))
	}
	for _, kind := range orphanKinds {
		m.orphans.WithLabelValues(kind)
	}
	return m
}
