package promises_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
	"agentyard.dev/services/standalone/yardtest/spantest"
)

// TestOneTrace: what one request makes the gateway, the sessions service and the session's runner do is one trace.
func TestOneTrace(t *testing.T) {
	const patience = 30 * time.Second
	collector, err := spantest.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	// Spans are sent in batches, twice a second (an environment variable of OpenTelemetry's SDK, in milliseconds).
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		s := y.Client.Session(t, api.CreateSessionRequest{})
		if got := y.Client.Ask(t, s.ID, "sleep 20ms"); got == "" {
			t.Error("no answer")
		}
		ofSession := func(turn spantest.Span) bool { return turn.Attributes["agentyard.session"] == s.ID }
		own := collector.Await(t, patience, "runner.turn of "+s.ID, func(span spantest.Span) bool { return span.Name == "runner.turn" && ofSession(span) })
		asked, answered, turn := collector.Turn(t, patience, func(span spantest.Span) bool { return span.Trace == own.Trace })
		if turn.ID != own.ID || turn.Took < 20*time.Millisecond {
			t.Errorf("the agent slept for 20 ms, and its turn took %s: %+v, %+v", turn.Took, turn, own)
		}
		if len(y.Processes()) > 2 && (asked.Service != "gateway" || answered.Service != "sessions") {
			t.Errorf("asked by %s, answered by %s", asked.Service, answered.Service)
		}

		// A client's own trace goes on here; what it says of recording decides nothing.
		const theirs = "b7ad6b7169203331"
		clients := fmt.Sprintf("%032x", time.Now().UnixNano()) // another in each arrangement
		status, body, err := y.Client.Do(t.Context(), http.MethodPost, "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": "echo traced"},
			"Traceparent", "00-"+clients+"-"+theirs+"-00", "Tracestate", "stranger=1")
		if err != nil || status != http.StatusAccepted {
			t.Fatalf("status %d, %v: %s", status, err, body)
		}
		asked, _, turn = collector.Turn(t, patience, func(span spantest.Span) bool { return span.Trace == clients })
		if asked.Parent != theirs || !ofSession(turn) {
			t.Errorf("in the client's trace are %+v and %+v", asked, turn)
		}
	}, "AGENTAPI_OTEL_ENDPOINT="+collector.URL, "OTEL_BSP_SCHEDULE_DELAY=500")
}
