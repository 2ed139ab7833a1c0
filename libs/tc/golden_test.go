package tc_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
)

var update = flag.Bool("update", false, "write the golden files")

// noon is a Monday in summer.
var noon = time.Date(2026, time.June, 1, 12, 0, 0, 0, time.UTC)

// able is a node that can do everything; plain is the least that shapes.
var (
	able = tc.Capabilities{
		HTB: true, FQCodel: true, SFQ: true, BFIFO: true, IFB: true, Peer: true, U32: true, BPF: true,
		NetdevIngress: true, NetdevEgress: true, ConnLimit: true, TicksPerSecond: 1_000_000_000,
	}
	plain = tc.Capabilities{HTB: true, BFIFO: true, Peer: true, U32: true, TicksPerSecond: 250}
)

var devices = tc.Devices{Host: "veth0", IFB: "ifb0", Peer: "eth0", Namespace: "session"}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; go test -update writes it anew. Got:\n%s", path, got)
	}
}

func parsed(t testing.TB, name string) tc.Policy {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := tc.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ofAcme is a session of alice's.
var ofAcme = tc.Session{ID: "sabc", Tenant: "acme", User: "alice", Node: "n1", Labels: map[string]string{"team": "blue", "tier": "gold"}}

// TestGolden holds what plans are, byte for byte: a change here changes the kernels of every node.
func TestGolden(t *testing.T) {
	for _, tt := range []struct {
		name     string
		policies []tc.Policy
		can      tc.Capabilities
		hash     string
	}{
		{"team", []tc.Policy{parsed(t, "team.yaml")}, able, "3a3bf369fb20c716bc0c31b1911874c875975fa771c465e65b55cf5c60e522cd"},
		{"team-plain", []tc.Policy{parsed(t, "team.yaml")}, plain, "910acbd94cb5bced94d982f7c74db59d7d6a7da0f9b98670ace9ea49a51420e7"},
		{"night", []tc.Policy{parsed(t, "team.yaml"), parsed(t, "night.yaml")}, able, "4894c7a3bbfe4ac9fda78832573e7e9a8e16d26c0b086c4bb1a02547ea0bd725"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan, effective, err := tc.Compile(tt.policies, ofAcme, tt.can, noon)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name+".plan", string(indented(t, plan)))
			golden(t, tt.name+".commands", plan.Commands(devices).String())
			golden(t, tt.name+".effective", string(indented(t, effective)))
			if plan.Hash() != tt.hash {
				t.Errorf("hash %s, want %s", plan.Hash(), tt.hash)
			}
		})
	}
}

// TestReadme compiles the policy that the README shows.
func TestReadme(t *testing.T) {
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	p, err := tc.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, _, err := tc.Compile([]tc.Policy{p}, tc.Session{Tenant: "acme", User: "bob", Node: "node-1", Labels: map[string]string{"team": "blue"}}, able, noon)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Mode != tc.Enforce || len(plan.Limits) != 3 || len(plan.Download.Leaves) != 2 {
		t.Errorf("%s", plan.Bytes())
	}
}

// TestProblems holds what a person reads who got everything wrong.
func TestProblems(t *testing.T) {
	data, err := os.ReadFile("testdata/wrong.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = tc.Parse(data)
	var problems tc.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	golden(t, "wrong.problems", problems.Error()+"\n")
}
