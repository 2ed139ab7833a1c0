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
	labelState  = "state"
	labelClass  = "class"
	labelWay    = "direction"
	microsecond = 1e-6
)

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_traffic_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "agentyard_traffic_" + name, Help: help}, labels)
	}
	m := &metrics{
		applies: counter("applies_total", "Comparisons of a session's interface with its plan, by what holds then.", labelState),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "agentyard_traffic_apply_seconds", Help: "Time to change one session's traffic control in the kernel.",
			Buckets: prometheus.ExponentialBuckets(50*microsecond, 2, 16),
		}),
		repairs:  prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_traffic_repairs_total", Help: "Changes by others that were undone."}),
		sessions: gauge("sessions", "Sessions with a plan, by how far it is.", labelState),
		bytes:    counter("bytes_total", "Bytes sent, of layer 2, by class.", labelClass, labelWay),
		packets:  counter("packets_total", "Packets sent, by class.", labelClass, labelWay),
		drops:    counter("drops_total", "Packets dropped, by class.", labelClass, labelWay),
		borrowed: counter("borrowed_packets_total", "Packets sent with what other classes left, by class.", labelClass, labelWay),
		backlog:  gauge("backlog_bytes", "Bytes that wait, by class.", labelClass, labelWay),
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
