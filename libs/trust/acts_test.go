package trust

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

// TestActs: what a service did is told as itself, equal acts in one record, also when auth comes later.
func TestActs(t *testing.T) {
	srv, ring := bustest.New(t)
	acts := NewActs(rpc.NewClient(bustest.Connect(t, srv, ring, "scheduler"), rpc.ClientConfig{Name: "scheduler"}), discard())
	for i := range 20 {
		acts.Did("acme", "scheduler.sweep", "t"+strconv.Itoa(i), "too old")
	}
	acts.Did("beta", "scheduler.sweep", "tb", "too old")
	acts.tell(t.Context()) // nobody hears
	if len(acts.waiting) != 2 {
		t.Fatalf("%d acts wait, want 2", len(acts.waiting))
	}

	var mu sync.Mutex
	told := map[string]api.RecordActRequest{}
	conn := bustest.Connect(t, srv, ring, "auth")
	store := New(conn, discard())
	server := rpc.NewServer(conn, rpc.ServerConfig{Service: "auth", Auth: token.NewVerifier(store, store, nil), Logger: discard()})
	rpc.Handle(server, api.RecordAct, func(ctx context.Context, req api.RecordActRequest) (api.None, error) {
		p, _ := api.PrincipalFrom(ctx)
		mu.Lock()
		defer mu.Unlock()
		told[p.ID+" "+req.Tenant] = req
		return api.None{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := server.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := acts.Run(ended); err != nil { // its end tells what is left
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := "too old: t0, t1, t2, t3, t4, t5, t6, t7 and 12 more"
	if got := told["service:scheduler acme"]; got.Detail != want || got.Object != "" || got.Action != "scheduler.sweep" {
		t.Errorf("%+v, want detail %q", got, want)
	}
	if got := told["service:scheduler beta"]; got.Object != "tb" || got.Detail != "too old" {
		t.Errorf("%+v", got)
	}
	for i := range 2 * maxActs {
		acts.Did("acme", "scheduler.sweep", "t", strconv.Itoa(i))
	}
	if len(acts.waiting) != maxActs || acts.dropped != maxActs {
		t.Errorf("%d wait, %d dropped", len(acts.waiting), acts.dropped)
	}
}
