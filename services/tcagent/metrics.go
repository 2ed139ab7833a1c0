package tcagent

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	applies  *prometheus.CounterVec
	took     prometheus.Histogram
	repairs  prometheus.Counter
	sessions *prometheus.GaugeVec

	bytes, packets, drops, borrowed *prometheus.CounterVec
	backlog                         *prometheus.GaugeVec

	mu      sync.Mutex
	classes map[string]bool
}

// maxClasses bounds the labels that policies make; further classes count as one.
const (
	maxClasses  = 100
	otherClass  = "other classes"
	microsecond = 1e-6
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		applies: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_traffic_applies_total", Help: "Comparisons of a session's interface with its plan, by what holds then."}, []string{"state"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "agentyard_traffic_apply_seconds", Help: "Time to change one session's traffic control in the kernel.",
			Buckets: prometheus.ExponentialBuckets(50*microsecond, 2, 16),
		}),
		repairs:  prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_traffic_repairs_total", Help: "Changes by others that were undone."}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "agentyard_traffic_sessions", Help: "Sessions with a plan, by how far it is."}, []string{"state"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_traffic_bytes_total", Help: "Bytes sent, of layer 2, by class."}, []string{"class", "direction"}),
		packets:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_traffic_packets_total", Help: "Packets sent, by class."}, []string{"class", "direction"}),
		drops:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_traffic_drops_total", Help: "Packets dropped, by class."}, []string{"class", "direction"}),
		borrowed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_traffic_borrowed_packets_total", Help: "Packets sent with what other classes left, by class."}, []string{"class", "direction"}),
		backlog:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "agentyard_traffic_backlog_bytes", Help: "Bytes that wait, by class."}, []string{"class", "direction"}),
		classes:  map[string]bool{},
	}
	if reg != nil {
		reg.MustRegister(m.applies, m.took, m.repairs, m.sessions, m.bytes, m.packets, m.drops, m.borrowed, m.backlog)
	}
	return m
}

// label is the class's label.
func (m *metrics) label(class string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.classes[class] {
		if len(m.classes) >= maxClasses {
			return otherClass
		}
		m.classes[class] = true
	}
	return class
}
