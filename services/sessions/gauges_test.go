package sessions_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// measured returns the value of a gauge or a counter, or the count of a histogram, with that label; -1: there is none.
func measured(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == label {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return -1
}

// TestGauges: what is counted of sessions is what there is, and each start once.
func TestGauges(t *testing.T) {
	reg := prometheus.NewRegistry()
	y := emptyYard(t, nil)
	y.metrics = reg
	y.start()
	t.Cleanup(func() { y.removeAll(); y.stop() })
	ana := y.as("ana")
	shows := func(want map[string]float64) {
		t.Helper()
		for key, n := range want {
			name, label, _ := strings.Cut(key, "/")
			y.eventually(key, func() bool { return measured(t, reg, name, label) == n })
		}
	}
	shows(map[string]float64{"agentyard_sessions/running": 0, "agentyard_sessions/failed": 0, "agentyard_session_start_seconds/create": 0})
	one := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	y.create(ana, api.CreateSessionRequest{Wait: "running"})
	shows(map[string]float64{"agentyard_sessions/running": 2, "agentyard_session_start_seconds/create": 2})
	do := func(op api.Op[api.SessionRef, api.Session], want api.State) {
		t.Helper()
		if _, err := rpc.Call(ana, y.client, op, api.SessionRef{ID: one.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, one.ID, want)
	}
	do(api.PauseSession, api.StatePaused)
	shows(map[string]float64{"agentyard_sessions/running": 1, "agentyard_sessions/paused": 1})
	do(api.ResumeSession, api.StateRunning)
	shows(map[string]float64{"agentyard_sessions/running": 2, "agentyard_sessions/paused": 0, "agentyard_session_start_seconds/resume": 1})
	do(api.DeleteSession, api.StateTerminated)
	shows(map[string]float64{"agentyard_sessions/terminated": 1, "agentyard_session_start_seconds/create": 2, "agentyard_session_start_seconds/restart": 0})
}
