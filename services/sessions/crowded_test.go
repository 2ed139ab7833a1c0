package sessions_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

// full is a cluster that has no room and says when to come again.
type full struct {
	*node
	asked atomic.Int64
}

func (f *full) Start(context.Context, launch.Launch) (sessions.Instance, error) {
	f.asked.Add(1)
	return sessions.Instance{}, &api.Error{Code: api.CodeExhausted, Detail: "make its pod: the cluster has too much to do", RetryAfter: time.Hour}
}

// TestCrowded: when sessions wait for a cluster without room, further ones are told to come again instead of waiting behind them, and the cluster is
// not asked before its time.
func TestCrowded(t *testing.T) {
	t.Parallel()
	y := emptyYard(t, func(c *sessions.Config) { c.MaxStarting = 2 })
	f := &full{node: newCluster(y).join()}
	info := f.Info()
	info.Shared = true
	r := y.serve(f, info)
	t.Cleanup(func() { y.removeAll(); r.stop() })
	ana := y.as("ana")
	first := y.create(ana, api.CreateSessionRequest{})
	y.create(ana, api.CreateSessionRequest{})
	y.eventually("the cluster was asked for both", func() bool { return f.asked.Load() >= 2 })
	_, err := rpc.Call(ana, y.client, api.CreateSession, api.CreateSessionRequest{})
	wantCode(t, err, api.CodeExhausted, "2 sessions are being started")
	if e := api.Redact(err); e.RetryAfter <= 0 {
		t.Errorf("it does not say when to come again: %+v", e)
	}
	if n := f.asked.Load(); n != 2 {
		t.Errorf("the cluster was asked %d times, although it said when to come again", n)
	}
	if _, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: first.ID}); err != nil {
		t.Fatal(err)
	}
	y.eventually("there is room for another", func() bool {
		_, err := rpc.Call(ana, y.client, api.CreateSession, api.CreateSessionRequest{})
		return err == nil
	})
}
