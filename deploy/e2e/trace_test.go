//go:build cluster

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest/spantest"
)

// TestOneTrace: what one message makes the gateway, the sessions service and the runner in a session's pod do is one trace, the client's own, and arrives where the chart's tracing
// values say, from the services' own pods and past their network policies. The runner's part is told by its report (a session's pod reaches no collector).
func TestOneTrace(t *testing.T) {
	boss := admin(t)
	s := boss.Session(t, api.CreateSessionRequest{Profile: profile})
	trace := fmt.Sprintf("%032x", time.Now().UnixNano())
	const theirs, nap = "b7ad6b7169203331", 20 * time.Millisecond
	var accepted api.Accepted
	status, body, err := boss.Do(t.Context(), http.MethodPost, "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": "sleep " + nap.String()},
		"Traceparent", "00-"+trace+"-"+theirs+"-01")
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("send: %d, %v: %s", status, err, body)
	}
	decode(t, body, &accepted)

	asked, answered, turn := running.spans.Turn(t, patience, func(span spantest.Span) bool { return span.Trace == trace })
	if asked.Parent != theirs {
		t.Errorf("the gateway's span is below %q, not the client's %q", asked.Parent, theirs)
	}
	if turn.Attributes["agentyard.session"] != s.ID || turn.Attributes["agentyard.message"] != accepted.ID || turn.Took < nap {
		t.Errorf("of the turn of %s in %s, which took %s or more, there is %+v", accepted.ID, s.ID, nap, turn)
	}
	for span, service := range map[*spantest.Span]string{&asked: "gateway", &answered: "sessions", &turn: "sessions"} {
		var of []netip.Addr
		for _, p := range podsOf(t, namespace, part(service)) {
			if at, err := netip.ParseAddr(p.Status.PodIP); err == nil {
				of = append(of, at)
			}
		}
		if span.Service != service || !slices.Contains(of, span.From) {
			t.Errorf("%s is %s's and comes from %s; the pods of %s are at %v", span.Name, span.Service, span.From, service, of)
		}
	}
	end(t, boss, s.ID)
}
