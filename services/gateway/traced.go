package gateway

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// What the gateway makes of a client's trace context (W3C traceparent).
const (
	traceIgnore = "ignore" // nothing: each request begins a trace
	traceJoin   = "join"   // the request is part of that trace; it is recorded as if it had come without
	traceObey   = "obey"   // and the client's sampled flag decides whether it is recorded
)

// traced returns ctx in the trace that an authenticated caller's request belongs to. Its tracestate and baggage are not believed: they would go to every service.
//
// Whether a request is recorded is ours to say, or a stranger would have us record everything, or nothing. A sampler that decides by the trace's id would be
// asked about one that the client chose; so it is asked about a trace of our own, which nobody hears of again.
func (g *Gateway) traced(ctx context.Context, h http.Header) context.Context {
	if g.cfg.TraceContext == traceIgnore || len(h["Traceparent"]) != 1 {
		return ctx
	}
	theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": h["Traceparent"][0]}))
	if !theirs.IsValid() {
		return ctx
	}
	if g.cfg.TraceContext == traceJoin {
		_, own := otel.Tracer("agentyard.dev/services/gateway").Start(context.Background(), "sample") // never ended, so never sent
		theirs = theirs.WithTraceFlags(theirs.TraceFlags().WithSampled(own.SpanContext().IsSampled()))
	}
	return trace.ContextWithRemoteSpanContext(ctx, theirs)
}
