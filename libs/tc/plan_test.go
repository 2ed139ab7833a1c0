package tc_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	"agentyard.dev/libs/tc"
)

// examplePlan is made by hand: two classes down, one up, a limit of each kind.
func examplePlan() *tc.Plan {
	tcp, ef := uint8(6), uint8(46)
	return &tc.Plan{
		Format: tc.PlanFormat, Session: "sexample", Mode: tc.Enforce,
		Download: &tc.Tree{
			Place: tc.AtHost, Rate: 50 * tc.Mbit, Burst: 64 * tc.KiB, Default: 0x101, MTU: 1514,
			Leaves: []tc.Leaf{
				{
					Minor: 0x101, Class: "bulk", Rate: tc.MinRate, Ceiling: 50 * tc.Mbit, Burst: 1600, CeilingBurst: 64 * tc.KiB,
					Priority: 5, Quantum: 1514, Queue: tc.Queue{Kind: tc.BFIFO, Limit: 312_500},
				},
				{
					Minor: 0x2f3, Class: "model", Rate: 20 * tc.Mbit, Ceiling: 50 * tc.Mbit, Burst: 25_000, CeilingBurst: 64 * tc.KiB,
					Priority: 0, Quantum: 60_000, Queue: tc.Queue{
						Kind: tc.FQCodel, Limit: 4 * tc.MiB, Packets: 1024, Target: 5 * tc.Millisecond, Interval: 100 * tc.Millisecond, Quantum: 1514, ECN: true,
					},
				},
			},
			Filters: []tc.Filter{
				{Class: 0x2f3, Family: tc.IPv4, Protocol: &tcp, Src: netip.MustParsePrefix("192.0.2.0/24"), SrcPorts: tc.PortRange{First: 443, Last: 443}},
				{Class: 0x2f3, Family: tc.IPv6, DSCP: &ef},
			},
		},
		Upload: &tc.Tree{
			Place: tc.AtIFB, Rate: 10 * tc.Mbit, Burst: 16 * tc.KiB, Default: 0x101, MTU: 1514,
			Leaves: []tc.Leaf{{
				Minor: 0x101, Class: "bulk", Rate: 10 * tc.Mbit, Ceiling: 10 * tc.Mbit, Burst: 16 * tc.KiB, CeilingBurst: 16 * tc.KiB,
				Quantum: 60_000, Queue: tc.Queue{Kind: tc.SFQ, Packets: 127, Quantum: 1514},
			}},
		},
		Limits: []tc.Limit{
			{Kind: tc.PacketRate, Direction: tc.Upload, Rate: 5000, Burst: 500},
			{Kind: tc.ConnectionRate, Direction: tc.Upload, Rate: 50, Burst: 50},
			{Kind: tc.Connections, Direction: tc.Upload, Count: 256},
		},
	}
}

func TestPlanIsItsBytes(t *testing.T) {
	plan := examplePlan()
	var back tc.Plan
	if err := json.Unmarshal(plan.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&back, plan) {
		t.Errorf("read back:\n%s\nwritten:\n%s", back.Bytes(), plan.Bytes())
	}
	if back.Hash() != plan.Hash() {
		t.Error("the hash differs")
	}
	back.Download.Rate++
	if back.Hash() == plan.Hash() {
		t.Error("another rate has the same hash")
	}
}
