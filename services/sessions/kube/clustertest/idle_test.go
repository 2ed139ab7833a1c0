//go:build cluster

package clustertest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// TestIdle: a session whose agent has left a process running is not idle, whatever its turn says. When that has ended the pod is put aside, and a message, which
// is held meanwhile, brings it back with its files.
func TestIdle(t *testing.T) {
	t.Parallel()
	const idle, busy = time.Second, 8 * time.Second
	y := newYard(t, nil)
	y.profile(api.Profile{Name: "idle", Agent: api.Agent{Kind: "demo"}, IdleTimeout: api.Duration(idle), Pod: api.Pod{Volume: &api.Volume{Bytes: 16 << 20}}})
	s := y.create("idle")
	y.reaches(s.ID, api.StateRunning)
	began := time.Now()
	y.ask(s.ID, fmt.Sprintf("run echo the work > kept; (busybox setsid busybox sleep %d </dev/null >/dev/null 2>&1 &)", int(busy/time.Second)))
	y.reaches(s.ID, api.StatePaused)
	page, err := rpc.Call(y.admin, y.client, api.SessionHistory, api.HistoryRequest{ID: s.ID, List: api.List{Limit: 500}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range page.Items {
		if c.State.State == api.StatePausing && c.At.Before(began.Add(busy)) {
			t.Errorf("it was put aside %s after its agent began something that took %s", c.At.Sub(began), busy)
		}
	}
	if pods := y.podsOf(s.ID); len(pods) != 0 {
		t.Errorf("it is paused and has %d pods", len(pods))
	}
	asked := time.Now()
	sent, err := rpc.Call(y.admin, y.client, api.SendMessage, api.SendMessageRequest{ID: s.ID, Content: "read kept"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the message was held for %s", time.Since(asked).Round(10*time.Millisecond))
	if got := y.answer(s.ID, sent.ID); !strings.Contains(got, "the work") {
		t.Errorf("it answers %q", got)
	}
	y.end(s.ID)
}
