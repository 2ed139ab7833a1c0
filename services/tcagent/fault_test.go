package tcagent

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
)

// TestFaultOfClockAhead: a fault whose end a controller's clock has put far away ends on the node in the longest time that faults have: it is taken away
// then, and the agent has nothing more to do about it.
func TestFaultOfClockAhead(t *testing.T) {
	can := tc.Capabilities{HTB: true, BFIFO: true, BPF: true, Faults: true}
	s := New(Config{Node: "n1"}, Deps{Rehearsal: &Rehearsal{Capabilities: can}})
	plan, n := &tc.Plan{Format: tc.PlanFormat, Session: "s1", Mode: tc.Off}, &session{}
	n.Record.Fault = &api.TrafficFaultRecord{
		TrafficFaultSpec: api.TrafficFaultSpec{Direction: "download", Loss: "1%"}, Until: time.Now().Add(48 * time.Hour),
	}
	got, f, said := s.diverted("s1", n, plan)
	if f == nil || said != faultInForce || got.Download == nil || got.Download.Fault == nil {
		t.Fatalf("got %s: %q", got.Bytes(), said)
	}
	if most := time.Now().Add(tc.MaxFaultTime); f.until.After(most) || !s.faults["s1"].Equal(f.until) {
		t.Errorf("it ends at %s, want at most %s", f.until, most)
	}
	f.until = time.Now() // its time has gone by
	for range 2 {
		if got, f, said := s.diverted("s1", n, plan); got != plan || f != nil || said != "" {
			t.Errorf("after its end: %s, %+v, %q", got.Bytes(), f, said)
		}
	}
	if d := s.idle(); d != retryMost {
		t.Errorf("the agent wakes up again in %s", d)
	}
	n.Record.Fault = &api.TrafficFaultRecord{TrafficFaultSpec: n.Record.Fault.TrafficFaultSpec, Until: time.Now().Add(time.Minute)}
	if _, f, said := s.diverted("s1", n, plan); f == nil || said != faultInForce {
		t.Errorf("another fault after it: %q", said)
	}
	n.Record.Fault = &api.TrafficFaultRecord{TrafficFaultSpec: api.TrafficFaultSpec{Loss: "everything"}, Until: time.Now().Add(time.Minute)}
	if got, f, said := s.diverted("s1", n, plan); got != plan || f != nil || said == "" {
		t.Errorf("one that cannot be read, in place of it: %s, %+v, %q", got.Bytes(), f, said)
	}
}
