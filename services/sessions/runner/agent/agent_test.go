package agent

import (
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestReadLines(t *testing.T) {
	const limit = 100_000
	long, over := strings.Repeat("l", limit), strings.Repeat("o", limit+1)
	var lines []string
	var skipped []int
	err := readLines(strings.NewReader("a\n\n"+long+"\n"+over+"\nb\n"+over+over+"\nend"), limit,
		func(line []byte) error { lines = append(lines, string(line)); return nil },
		func(n int) { skipped = append(skipped, n) })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "", long, "b", "end"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d", len(lines), len(want))
	}
	for i := range want {
		if lines[i] != want[i] {
			t.Errorf("line %d has %d bytes, want %d", i, len(lines[i]), len(want[i]))
		}
	}
	if len(skipped) != 2 || skipped[0] != limit+1 || skipped[1] != 2*(limit+1) {
		t.Errorf("skipped %v", skipped)
	}
}

func TestKinds(t *testing.T) {
	for _, k := range Kinds() {
		if a := (api.Agent{Kind: k.Name}); a.LacksCommand() != (len(k.Command("self", a.Command, a.Args)) == 0) {
			t.Errorf("%s: the contract and the table disagree on whether it needs a command", k.Name)
		}
		if k.Protocol == "" || k.Title == "" {
			t.Errorf("%s lacks a protocol or a title", k.Name)
		}
	}
	demo, _ := LookupKind("demo")
	if got := demo.Command("/bin/yard", nil, []string{"-x"}); strings.Join(got, " ") != "/bin/yard demo-agent -x" {
		t.Errorf("demo starts as %q", got)
	}
	if got := demo.Command("/bin/yard", []string{"other"}, nil); strings.Join(got, " ") != "other" {
		t.Errorf("a replaced command starts as %q", got)
	}
	if _, ok := LookupKind("none"); ok {
		t.Error("there is a kind called none")
	}
	bash, _ := LookupKind("bash")
	if path, version := bash.Probe(t.Context(), ""); path == "" || !strings.HasPrefix(version, "5.") {
		t.Errorf("bash is at %q with version %q", path, version)
	}
}
