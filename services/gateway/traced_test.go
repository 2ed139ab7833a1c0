package gateway

import (
	"context"
	"net/http"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// TestTraced runs without an SDK, as one whose sampler records nothing.
func TestTraced(t *testing.T) {
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, tt := range []struct {
		name, mode, header string
		joined, sampled    bool
	}{
		{"ignored", traceIgnore, "00-" + id + "-" + parent + "-01", false, false},
		{"joined, and recorded as we say", traceJoin, "00-" + id + "-" + parent + "-01", true, false},
		{"obeyed", traceObey, "00-" + id + "-" + parent + "-01", true, true},
		{"obeyed, not sampled", traceObey, "00-" + id + "-" + parent + "-00", true, false},
		{"no trace", traceJoin, "", false, false},
		{"nonsense", traceObey, "00-zz-" + parent + "-01", false, false},
		{"no id", traceObey, "00-00000000000000000000000000000000-" + parent + "-01", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &Gateway{cfg: Config{TraceContext: tt.mode}}
			h := http.Header{"Tracestate": {"stranger=1"}}
			if tt.header != "" {
				h.Set("Traceparent", tt.header)
			}
			got := trace.SpanContextFromContext(g.traced(context.Background(), h))
			if got.IsValid() != tt.joined || got.IsSampled() != tt.sampled || got.TraceState().Len() > 0 {
				t.Errorf("%+v", got)
			}
			if tt.joined && (got.TraceID().String() != id || got.SpanID().String() != parent || !got.IsRemote()) {
				t.Errorf("%+v", got)
			}
		})
	}
}
