package tcagent_test

import (
	"encoding/json"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestLimits: a plan's limits are put in force, and what they catch is told.
func TestLimits(t *testing.T) {
	y := newYard(t)
	heard := make(chan api.TrafficSessionCounters, 1000)
	must(t, y.conn.Subscribe(t.Context(), api.LiveCountersPrefix+"node-1_example", func(_ string, _ bus.Header, data []byte) {
		var c api.TrafficCounters
		if json.Unmarshal(data, &c) != nil {
			return
		}
		for _, s := range c.Sessions {
			select {
			case heard <- s:
			default:
			}
		}
	}, nil))
	y.agent(nil)
	p := shaped("s1", 20*tc.Mbit)
	p.Limits = []tc.Limit{{Kind: tc.PacketRate, Direction: tc.Download, Rate: 10, Burst: 10}, {Kind: tc.Connections, Direction: tc.Upload, Count: 5}}
	_, hash := y.plan("s1", kerneltest.Session4, p)
	y.applied("s1", hash)
	y.lab.Session.Sink(t, kerneltest.Session4+":4000")
	y.lab.Node.Send(t, kerneltest.Flow{From: "0.0.0.0:0", To: kerneltest.Session4 + ":4000", Rate: 10 * tc.Mbit})
	for deadline := time.After(patience); ; {
		select {
		case s := <-heard:
			if len(s.Limits) == 2 && s.Limits[0].Limit == "packet_rate" && s.Limits[0].Direction == "download" && s.Limits[0].Packets > 50 && s.Limits[1].Packets == 0 {
				return
			}
		case <-deadline:
			t.Fatal("nobody says what the limit caught")
		}
	}
}
