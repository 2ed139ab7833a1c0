package gateway

import (
	"context"
	"net/http"
	"strings"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

const (
	// trafficEvery is how often a session's traffic is told: node agents publish counters as often.
	trafficEvery = time.Second
	// trafficEvent names the events of the stream.
	trafficEvent api.EventType = "traffic"
	// trafficEvents is where the stream is; a client that accepts text/event-stream gets it at the operation's own path too.
	trafficEvents = "GET /api/v1/traffic/sessions/{id}/events"
)

// wantsTrafficEvents says whether the operation's path was asked for as a stream.
func wantsTrafficEvents(pattern string, r *http.Request) bool {
	return pattern == api.GetTrafficSession.Route && strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// serveTraffic is GET /api/v1/traffic/sessions/{id}/events: each second an event "traffic", its data what the operation answers, but for the
// plan's commands. Events have no ids: whoever connects again wants the present. The stream ends when the session is gone.
func (g *Gateway) serveTraffic(w *recorder, r *http.Request, c *caller) {
	ask := func(ctx context.Context, c *caller) (api.TrafficSession, error) {
		ctx = token.WithRaw(api.WithPrincipal(ctx, c.Principal), c.raw)
		s, err := rpc.Call(ctx, g.rpc, api.GetTrafficSession, api.SessionRef{ID: r.PathValue("id")})
		if s.Intended != nil {
			s.Intended.Commands = nil
		}
		return s, err
	}
	now, err := ask(r.Context(), c)
	if err != nil {
		fail(w, r, err)
		return
	}
	ctx, st, out, ok := g.openSSE(w, r, "traffic", c)
	if !ok {
		return
	}
	defer st.close()
	tick := time.NewTicker(trafficEvery)
	defer tick.Stop()
	for {
		data, err := json.Marshal(now)
		if err == nil {
			err = out.send(nil, trafficEvent, data, true)
		}
		if err != nil {
			st.end(err)
		}
		for again := true; again; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				out.close(context.Cause(ctx))
				return
			}
			// While the controller is away the stream waits: the heartbeats go on.
			now, err = ask(ctx, st.who.Load())
			again = api.CodeOf(err) == api.CodeUnavailable && ctx.Err() == nil
		}
		if err != nil {
			st.end(err)
			out.close(err)
			return
		}
	}
}
