package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// metrics counts what a person would: tasks by state, ends, and how long tasks wait for their assignment.
type metrics struct {
	tasks *prometheus.GaugeVec
	ended *prometheus.CounterVec
	wait  prometheus.Histogram

	preempted prometheus.Counter
	// Of housekeeping.
	leading prometheus.Gauge
	sweeps  prometheus.Counter
	swept   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		tasks: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "agentyard_tasks", Help: "Tasks that are kept, by state."}, []string{"state"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_tasks_ended_total", Help: "Tasks that ended while this process followed, by state."}, []string{"state"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "agentyard_task_wait_seconds", Help: "From queued to assigned, of what this process assigned.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .1, .5, 1, 5, 30, 120, 600, 3600},
		}),
		preempted: prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_tasks_preempted_total", Help: "Tasks that this process put off for more urgent ones."}),
		leading:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "agentyard_scheduler_housekeeping", Help: "1 while this replica sweeps."}),
		sweeps:    prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_scheduler_sweeps_total", Help: "Sweeps that this process made."}),
		swept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentyard_scheduler_swept_total", Help: "What sweeps removed or ended, by kind.",
		}, []string{"kind"}),
	}
	for _, kind := range sweepKinds {
		m.swept.WithLabelValues(string(kind))
	}
	if r != nil {
		r.MustRegister(m.tasks, m.ended, m.wait, m.preempted, m.leading, m.sweeps, m.swept)
	}
	return m
}

func (m *metrics) changed(old *bus.Entry[api.TaskRecord], now bus.Entry[api.TaskRecord]) {
	from := api.TaskState("")
	if old != nil {
		from = old.State.State
	}
	to := now.State.State
	if now.Deleted {
		to = ""
	}
	if from == to {
		return
	}
	if from != "" {
		m.tasks.WithLabelValues(string(from)).Dec()
	}
	if to != "" {
		m.tasks.WithLabelValues(string(to)).Inc()
	}
	if to.Final() && from != "" {
		m.ended.WithLabelValues(string(to)).Inc()
	}
}

func (m *metrics) waited(d time.Duration) { m.wait.Observe(d.Seconds()) }
