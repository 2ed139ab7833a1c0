package tc_test

import (
	"testing"

	"agentyard.dev/libs/tc"
)

// BenchmarkCompile is what a session costs when a policy changes that touches it: three classes each way, two policies, one with a schedule.
func BenchmarkCompile(b *testing.B) {
	set, err := tc.NewSet([]tc.Policy{parsed(b, "team.yaml"), parsed(b, "night.yaml")})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		plan, _ := set.Compile(ofAcme, able, noon)
		_ = plan.Hash()
	}
}

func BenchmarkParse(b *testing.B) {
	text, err := parsed(b, "team.yaml").YAML()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tc.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
