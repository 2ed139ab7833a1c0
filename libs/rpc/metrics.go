package rpc

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
)

// tracer is the process's; without an SDK (libs/daemon sets it) spans cost next to nothing.
func tracer() trace.Tracer { return otel.Tracer("agentyard.dev/libs/rpc") }

// Made once: there is a span for each call.
var (
	asClient = trace.WithSpanKind(trace.SpanKindClient)
	asServer = trace.WithSpanKind(trace.SpanKindServer)
)

// buckets reach from a cached read to the longest wait operation, in seconds.
var buckets = []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120}

// opSeconds is the histogram of a server's operations.
func opSeconds(r prometheus.Registerer) *prometheus.HistogramVec {
	return register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "yard_op_duration_seconds", Help: "How long operations took where they were answered.", Buckets: buckets,
	}, []string{"service", "op", "code"}))
}

// callSeconds is the histogram of a client's calls, the way there and back included.
func callSeconds(r prometheus.Registerer) *prometheus.HistogramVec {
	return register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "yard_call_duration_seconds", Help: "How long calls of operations took where they were asked.", Buckets: buckets,
	}, []string{"caller", "service", "op", "code"}))
}

// register adds c to r, or returns the collector of the same name that is there: the services of one process share a registry. A nil r
// keeps c to itself.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	var have prometheus.AlreadyRegisteredError
	if errors.As(err, &have) {
		if same, ok := have.ExistingCollector.(C); ok {
			return same
		}
	}
	if err != nil {
		panic("rpc: register metrics: " + err.Error()) // another collector took our name: a programming error
	}
	return c
}
