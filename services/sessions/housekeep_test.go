package sessions_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
)

// TestSweepIsAccountedFor: what a passed time does to a session is told beforehand, counted and audited.
func TestSweepIsAccountedFor(t *testing.T) {
	y := emptyYard(t, func(c *sessions.Config) { c.Sweep, c.Retention = time.Hour, time.Millisecond })
	var mu sync.Mutex
	var acts []string
	y.did = func(tenant, action, object, detail string) {
		mu.Lock()
		defer mu.Unlock()
		acts = append(acts, tenant+" "+action+" "+object+": "+detail)
	}
	registry := prometheus.NewRegistry()
	y.metrics = registry
	y.start()
	t.Cleanup(func() {
		y.removeAll()
		y.stop()
	})
	ana, boss := y.as("ana"), y.as("boss", api.RoleAdmin)
	sweep := func(dry bool) api.SweepReport {
		t.Helper()
		report, err := rpc.Call(boss, y.client, api.SweepSessions, api.SweepRequest{DryRun: dry})
		if err != nil || len(report.Problems) > 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		return report
	}
	_, err := rpc.Call(ana, y.client, api.SweepSessions, api.SweepRequest{})
	wantCode(t, err, api.CodeDenied, "")
	// Long enough to run first, on a busy machine.
	s := y.create(ana, api.CreateSessionRequest{TTL: api.Duration(3 * time.Second), Wait: "running"})
	y.eventually("its ttl has passed", func() bool { return sweep(true).Counts[api.SweepSessionTTL] == 1 })
	if got := y.get(ana, s.ID); got.State.Final() || got.State == api.StateStopping {
		t.Errorf("a dry run made it %s", got.State)
	}
	if report := sweep(true); len(report.Items) != 1 || report.Items[0].ID != s.ID || !report.Items[0].Since.Equal(s.CreatedAt.Add(3*time.Second)) {
		t.Errorf("%+v", report)
	}
	sweep(false)
	y.eventually("its retention is over too", func() bool {
		sweep(false)
		_, err := rpc.Call(ana, y.client, api.GetSession, api.SessionRef{ID: s.ID})
		return api.CodeOf(err) == api.CodeNotFound
	})
	wants := []string{
		s.Tenant + " sessions.sweep " + s.ID + ": its ttl of 3s has passed",
		s.Tenant + " sessions.sweep " + s.ID + ": it has ended and was kept for 1ms",
	}
	y.eventually("both are audited", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(acts, wants)
	})
	for kind, want := range map[api.SweepKind]float64{api.SweepSessionTTL: 1, api.SweepSessionEnded: 1, api.SweepSessionIdle: 0} {
		if got := measured(t, registry, "agentyard_sessions_swept_total", string(kind)); got != want {
			t.Errorf("counted %v of %s, want %v", got, kind, want)
		}
	}
}
