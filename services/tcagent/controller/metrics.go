package controller

import "github.com/prometheus/client_golang/prometheus"

// metrics are what an operator watches of the controller.
type metrics struct {
	compiled prometheus.Counter
	written  prometheus.Counter
	failed   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		compiled: counter("agentyard_traffic_plans_compiled_total", "Plans that were compiled."),
		written:  counter("agentyard_traffic_plans_written_total", "Plans that differed from those on the bus, and were written."),
		failed:   counter("agentyard_traffic_plans_failed_total", "Plans that could not be written; they are tried again."),
	}
	if reg != nil {
		reg.MustRegister(m.compiled, m.written, m.failed)
	}
	return m
}
