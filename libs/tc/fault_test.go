package tc_test

import (
	"strings"
	"testing"

	"agentyard.dev/libs/tc"
)

func TestPortion(t *testing.T) {
	for text, want := range map[string]tc.Portion{"0%": 0, "1%": 10_000, "0.05%": 500, "100%": tc.All, "12.3456%": 123_456, "0.0001%": 1} {
		got, err := tc.ParsePortion(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %d %v, which is %s", text, got, err, got)
		}
	}
	for _, text := range []string{"", "%", "1", "-1%", "+1%", "101%", "1.%", ".5%", "0.00001%", "1e1%", "1 %", "99999999999%", "1_0%"} {
		if got, err := tc.ParsePortion(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}

func FuzzParsePortion(f *testing.F) {
	for _, s := range []string{"1%", "0.05%", "100%", "1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := tc.ParsePortion(s)
		if err != nil {
			return
		}
		if again, err := tc.ParsePortion(p.String()); err != nil || again != p || p > tc.All {
			t.Errorf("%q is %d, which is %s, which is %d %v", s, p, p, again, err)
		}
	})
}

func TestFaultValidate(t *testing.T) {
	if p := (tc.Fault{Delay: 100 * tc.Millisecond, Jitter: 20 * tc.Millisecond, Loss: 10_000, Duplicate: tc.All, Rate: tc.Mbit, Direction: tc.Upload}).Validate(); len(p) > 0 {
		t.Errorf("got %v", p)
	}
	wrong := tc.Fault{Direction: "sideways", Delay: tc.MaxFaultDelay + 1, Jitter: 2 * tc.MaxFaultDelay, Loss: tc.All + 1, Duplicate: tc.All + 1, Rate: 1}
	if p := wrong.Validate(); len(p) != 6 {
		t.Errorf("six things are wrong, and it says %v", p)
	}
	if p := (tc.Fault{Direction: tc.Upload}).Validate(); len(p) != 1 || !strings.Contains(p[0].Detail, "does nothing") {
		t.Errorf("got %v", p)
	}
}

// TestWithFault: the fault is in the tree beside what the plan has, and nowhere else.
func TestWithFault(t *testing.T) {
	can := able
	can.Faults, can.Netem = true, true
	base, _, err := tc.Compile([]tc.Policy{parsed(t, "team.yaml")}, ofAcme, can, noon)
	if err != nil {
		t.Fatal(err)
	}
	before := string(base.Bytes())
	off := &tc.Plan{Format: tc.PlanFormat, Session: "s", Mode: tc.Off}
	f := tc.Fault{Direction: tc.Upload, Delay: 100 * tc.Millisecond, Loss: 500_000, Duplicate: 10_000, Rate: tc.Mbit}
	t.Run("with netem", func(t *testing.T) {
		for _, p := range []*tc.Plan{base, off} {
			got, missing := p.WithFault(f, 42, can)
			tree := got.Upload
			if len(missing) != 0 || tree.Fault == nil || tree.Fault.Until != 42 || tree.Fault.Loss != 0 || got.Download != p.Download || got.Mode == tc.Off {
				t.Fatalf("got %s, missing %v", got.Bytes(), missing)
			}
			l := tree.Leaves[0]
			if l.Minor != tc.FaultMinor || l.Rate != tc.Mbit || l.Ceiling != tc.Mbit || l.Queue.Kind != tc.Netem || l.Queue.Delay != f.Delay || l.Queue.Loss != f.Loss {
				t.Errorf("the fault's class is %+v", l)
			}
			if tree.Default != tc.DefaultMinor || tree.Leaves[len(tree.Leaves)-1].Minor < tc.DefaultMinor {
				t.Errorf("the plan's own classes are %+v", tree.Leaves)
			}
		}
	})
	t.Run("without netem", func(t *testing.T) {
		can := can
		can.Netem = false
		got, missing := base.WithFault(f, 42, can)
		if len(missing) != 2 || !strings.Contains(missing[0], "delay") || !strings.Contains(missing[1], "duplicate") {
			t.Errorf("missing %v", missing)
		}
		tree := got.Upload
		if tree.Fault.Loss != 1<<31 || tree.Leaves[0].Minor != tc.LostMinor || tree.Leaves[1].Minor != tc.FaultMinor || tree.Leaves[1].Rate != tc.Mbit {
			t.Errorf("got %s", got.Bytes())
		}
		if got, missing := base.WithFault(tc.Fault{Delay: tc.Second}, 42, can); got != base || len(missing) != 1 {
			t.Errorf("nothing of it can be done, and the plan is %s, missing %v", got.Bytes(), missing)
		}
	})
	t.Run("with a relay in netem's place", func(t *testing.T) {
		can := can
		can.Netem, can.Relay = false, true
		got, missing := base.WithFault(f, 42, can)
		if len(missing) != 0 || !f.Relayed(can) || got.Upload.Leaves[0].Minor != tc.LostMinor || got.Upload.Leaves[1].Queue.Kind == tc.Netem {
			t.Errorf("got %s, missing %v", got.Bytes(), missing)
		}
		if got, missing := base.WithFault(tc.Fault{Delay: tc.Second}, 42, can); got != base || len(missing) != 0 {
			t.Errorf("all of it is the relay's, and the plan is %s, missing %v", got.Bytes(), missing)
		}
	})
	t.Run("without a clock in the kernel", func(t *testing.T) {
		if got, missing := base.WithFault(f, 42, able); got != base || len(missing) != 1 {
			t.Errorf("got %s, missing %v", got.Bytes(), missing)
		}
	})
	if string(base.Bytes()) != before {
		t.Error("the plan itself was changed")
	}
}
