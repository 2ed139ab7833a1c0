package sessions_test

import (
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/services/sessions"
)

// BenchmarkList lists one user's 20 sessions among 50,000 of others, in the service's view: the goal is 1 ms.
func BenchmarkList(b *testing.B) {
	srv, ring := bustest.New(b)
	ledger, err := bus.OpenLedger[api.SessionRecord](b.Context(), bustest.Connect(b, srv, ring, "sessions"), bus.LedgerConfig{Noun: "sessions"})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, ledger, 50_000)
	sessions.MeasureList(b, ledger, userID("u7"), 20)
}
