package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The classes of routes, as the label "route". A class is what a person would look at; no path or id is a label.
const (
	routeAPI     = "api"
	routeAgent   = "agent"
	routePorts   = "ports"
	routeFiles   = "files"
	routeSSE     = "sse"
	routeWS      = "ws"
	routeFeed    = "feed"
	routeLogin   = "login"
	routeDocs    = "docs"
	routeHealth  = "health"
	routeUnknown = "unknown"
)

var routeClasses = []string{routeAPI, routeAgent, routePorts, routeFiles, routeSSE, routeWS, routeFeed, routeLogin, routeDocs, routeHealth, routeUnknown}

// metrics are rate, errors and duration per class of route, and what is open.
type metrics struct {
	requests map[string]*[6]prometheus.Observer // by class, then by the status's first digit
	open     *prometheus.GaugeVec
	subs     prometheus.Gauge
	events   prometheus.Counter
	gaps     prometheus.Counter
	slow     prometheus.Counter
	shared   prometheus.Counter
	limited  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	requests := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "agentyard_gateway_request_seconds", Help: "Duration of HTTP requests, streams to their end, by class of route and status.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .1, .5, 1, 5, 30},
	}, []string{"route", "status"})
	m := &metrics{
		requests: map[string]*[6]prometheus.Observer{},
		open:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "agentyard_gateway_streams", Help: "Open streams by kind."}, []string{"kind"}),
		subs:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "agentyard_gateway_subscriptions", Help: "Sessions followed by WebSockets."}),
		events:   prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_gateway_events_total", Help: "Events sent to clients."}),
		gaps:     prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_gateway_gaps_total", Help: "Gap events sent: what could not be replayed."}),
		slow:     prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_gateway_slow_clients_total", Help: "Streams closed because a write took too long."}),
		shared:   prometheus.NewCounter(prometheus.CounterOpts{Name: "agentyard_gateway_polls_shared_total", Help: "Polls of a session's status that another's question answered."}),
		limited:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "agentyard_gateway_limited_total", Help: "Requests refused by a rate limit."}, []string{"by"}),
	}
	reg.MustRegister(requests, m.open, m.subs, m.events, m.gaps, m.slow, m.shared, m.limited)
	for _, class := range routeClasses {
		var byStatus [6]prometheus.Observer
		for i := range byStatus {
			byStatus[i] = requests.WithLabelValues(class, strconv.Itoa(i)+"xx")
		}
		m.requests[class] = &byStatus
	}
	return m
}

func (m *metrics) observe(class string, status int, took time.Duration) {
	if status < 100 || status > 599 {
		status = 0
	}
	m.requests[class][status/100].Observe(took.Seconds())
}
