package runner

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/sessions/sandbox/sandboxtest"
)

// TestGate: an agent does not start before its session's network is open, starts without a traffic plan when nobody puts one in force, and not at all when the runner ends.
func TestGate(t *testing.T) {
	if !sandboxtest.OwnNetwork(t, time.Minute) {
		return
	}
	open := func(ctx context.Context, address string, hold time.Duration) *gate {
		spec := launch.Network{Address: address, Gateway: "10.9.8.1", Hold: api.Duration(hold)}
		n, err := sandbox.MakeNetwork(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return (&runner{launch: launch.Launch{Sandbox: launch.Sandbox{Network: spec}}, network: n, log: slog.New(slog.DiscardHandler)}).openGate(ctx)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := open(ctx, "10.9.8.2", time.Millisecond), open(ctx, "10.9.8.3", time.Hour)
	select {
	case <-first.opened:
		t.Error("the time is counted before anybody could make a plan")
	case <-time.After(50 * time.Millisecond):
	}
	first.reported()
	first.reported() // again and again
	if err := first.pass(); err != nil {
		t.Error(err)
	}
	second.reported()
	cancel()
	if err := second.pass(); err == nil {
		t.Error("the agent starts although the runner ends")
	}
	if none := (&runner{}).openGate(t.Context()); none.pass() != nil {
		t.Error("an agent that has the machine's network is held")
	}
}
