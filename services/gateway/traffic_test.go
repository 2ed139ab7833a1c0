package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

func TestTrafficEvents(t *testing.T) {
	y := newYard(t)
	conn := bustest.Connect(t, y.srv, y.ring, "tcagent")
	store := trust.New(conn, quiet)
	start(t, store.Run)
	var asked atomic.Uint64
	var gone atomic.Bool
	server := rpc.NewServer(conn, rpc.ServerConfig{Service: "tcagent", Auth: token.NewVerifier(store, store, nil), Logger: quiet})
	rpc.Handle(server, api.GetTrafficSession, func(ctx context.Context, req api.SessionRef) (api.TrafficSession, error) {
		p, _ := api.PrincipalFrom(ctx)
		if gone.Load() || p.ID != id("u", "alice") {
			return api.TrafficSession{}, api.Errorf(api.CodeNotFound, "there is no session")
		}
		return api.TrafficSession{Session: req.ID, Intended: &api.TrafficPlan{Rev: asked.Add(1), Commands: []string{"tc"}}}, nil
	})
	start(t, server.Run)
	must(t, server.Ready(timeout(t)))
	g := y.gateway()
	sid := y.session(g, "alice-key", "")
	path := "/api/v1/traffic/sessions/" + sid

	if _, body := call(t, g, "alice-key", "GET", path, nil); !strings.Contains(body, `"commands":["tc"]`) {
		t.Errorf("the operation answers %s", body)
	}
	for name, s := range map[string]*sse{
		"a path of its own":              openSSE(t, g, "alice-key", path+"/events"),
		"the operation's, when asked so": openSSE(t, g, "alice-key", path, "Accept", "text/event-stream"),
	} {
		t.Run(name, func(t *testing.T) {
			if s.resp.StatusCode != http.StatusOK {
				t.Fatalf("status %d", s.resp.StatusCode)
			}
			var last uint64
			for _, ev := range s.want(2) {
				var now api.TrafficSession
				if err := json.Unmarshal([]byte(ev.data), &now); err != nil || ev.event != "traffic" {
					t.Fatalf("%+v, %v", ev, err)
				}
				if now.Session != sid || now.Intended.Rev <= last || now.Intended.Commands != nil {
					t.Errorf("%+v", now)
				}
				last = now.Intended.Rev
			}
		})
		defer func() {
			gone.Store(true)
			for {
				ev, ok := s.next()
				if !ok {
					t.Errorf("%s: the stream ended without a reason", name)
					return
				}
				if ev.event == "error" && strings.Contains(ev.data, "not_found") {
					return
				}
			}
		}()
	}
	for _, who := range []string{"bob-key", "evil-key"} {
		if resp, _ := call(t, g, who, "GET", path+"/events", nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s gets status %d", who, resp.StatusCode)
		}
	}
	if resp, _ := call(t, g, "", "GET", path+"/events", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody gets status %d", resp.StatusCode)
	}
}
