package sessions

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// A request's trace goes on in the session's runner: the message carries the request's trace context in the log, and the runner says in its
// reports from when to when it had the message. The span is made here, in the runner's name: its session reaches the bus and nothing
// that takes spans, and a program that sends them is nothing to put beside an agent.

// turnSpan is the name of a runner's span.
const turnSpan = "runner.turn"

// traceParent returns the trace context of the request in ctx, "" when it is not recorded.
func traceParent(ctx context.Context) string {
	if !oteltrace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return c.Get("traceparent")
}

// trace makes the spans of turns that ended.
func trace(key bus.Key, turns []api.RunnerTurn) {
	for _, t := range turns[:min(len(turns), api.MaxTurns)] {
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": t.TraceParent})
		if !oteltrace.SpanContextFromContext(ctx).IsSampled() || t.Began.IsZero() || t.Ended.Before(t.Began) {
			continue
		}
		_, span := otel.Tracer("agentyard.dev/services/sessions/runner").Start(ctx, turnSpan,
			oteltrace.WithSpanKind(oteltrace.SpanKindConsumer), oteltrace.WithTimestamp(t.Began),
			oteltrace.WithAttributes(
				attribute.String("agentyard.tenant", key.Tenant), attribute.String("agentyard.session", key.ID), attribute.String("agentyard.message", t.MessageID),
			))
		span.End(oteltrace.WithTimestamp(t.Ended))
	}
}
