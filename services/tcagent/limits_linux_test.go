package tcagent_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestLimits: a plan's limits are put in force, and what they catch is told.
func TestLimits(t *testing.T) {
	y := newYard(t)
	y.agent(nil)
	p := shaped("s1", 20*tc.Mbit)
	p.Limits = []tc.Limit{{Kind: tc.PacketRate, Direction: tc.Download, Rate: 10, Burst: 10}, {Kind: tc.Connections, Direction: tc.Upload, Count: 5}}
	_, hash := y.plan("s1", kerneltest.Session4, p)
	y.applied("s1", hash)
	y.lab.Session.Sink(t, kerneltest.Session4+":4000")
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 10 * tc.Mbit})
	y.counts("what the limit caught", func(s api.TrafficSessionCounters) bool {
		return len(s.Limits) == 2 && s.Limits[0].Limit == "packet_rate" && s.Limits[0].Direction == "download" && s.Limits[0].Packets > 50 && s.Limits[1].Packets == 0
	})
}

// TestAudit: what somebody changes without the kernel's telling the agent of it, as rules are, is as planned again after the next audit.
func TestAudit(t *testing.T) {
	y := newYard(t)
	y.config.Audit = 100 * time.Millisecond
	y.agent(nil)
	p := shaped("s1", 20*tc.Mbit)
	p.Limits = []tc.Limit{{Kind: tc.Connections, Direction: tc.Upload, Count: 5}}
	_, hash := y.plan("s1", kerneltest.Session4, p)
	y.applied("s1", hash)
	const table = "agentyard"
	there := func() bool { return strings.Contains(kerneltest.Tables(t, y.lab.Session.Namespace), table) }
	if !there() {
		t.Fatal("the session has no rules")
	}
	for range 3 {
		must(t, y.lab.Session.Do(exec.CommandContext(t.Context(), "nft", "delete", "table", "inet", table).Run))
		y.until(func() (bool, string) { return there(), "the rules are gone" })
	}
}
