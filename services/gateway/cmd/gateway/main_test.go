package main

import (
	"context"
	"log/slog"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/libs/trust/trusttest"
)

func TestMain(m *testing.M) { daemontest.Main(m, main) }

func TestProcess(t *testing.T) {
	daemontest.Command{
		Name: "gateway", Role: "gateway", Prepare: others,
		Args: func(*testing.T, *bus.Keyring) []string { return []string{"-gateway.listen", "127.0.0.1:0"} },
	}.Test(t)
}

// others stands in for auth and sessions: they publish what they do and answer the operations by which the gateway sees that they are there.
func others(t *testing.T, server *bus.Server, ring *bus.Keyring) {
	t.Helper()
	auth, sessions := bustest.Connect(t, server, ring, "auth"), bustest.Connect(t, server, ring, "sessions")
	trusttest.Publish(t, auth)
	if _, err := bus.OpenLedger[api.SessionRecord](t.Context(), sessions, bus.LedgerConfig{Noun: "sessions"}); err != nil {
		t.Fatal(err)
	}
	verifier := token.NewVerifier(trust.New(auth, slog.New(slog.DiscardHandler)), nil, nil)
	a := rpc.NewServer(auth, rpc.ServerConfig{Service: "auth", Auth: verifier})
	rpc.Handle(a, api.JWKS, func(context.Context, api.None) (api.JWKSResponse, error) { return api.JWKSResponse{}, nil })
	s := rpc.NewServer(sessions, rpc.ServerConfig{Service: "sessions", Auth: verifier})
	rpc.Handle(s, api.ListProfiles, func(context.Context, api.List) (api.Page[api.Profile], error) {
		return api.Page[api.Profile]{}, nil
	})
	for _, server := range []*rpc.Server{a, s} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- server.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			<-ended
		})
	}
}
