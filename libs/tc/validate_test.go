package tc_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"agentyard.dev/libs/tc"
)

// valid is what TestValidate spoils, one thing at a time.
const valid = `
name: p
link: {download: {ceiling: 50Mbit, burst: 64KiB}, upload: {ceiling: 20Mbit}}
classes:
  - {name: a, guarantee: 10Mbit, ceiling: 15Mbit, priority: 7, latency_target: 20ms, match: [{cidr: 192.0.2.0/24, ports: [443]}]}
  - {name: b, guarantee: 10Mbit, match: [{protocol: udp, direction: upload}]}
  - {name: c, default: true}
schedule:
  timezone: UTC
  outside: base
  windows:
    - {from: "08:00", to: "18:00", link: {download: {ceiling: 40Mbit}}}
`

func TestValidate(t *testing.T) {
	if _, err := tc.Parse([]byte(valid)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		old, new string
		pointer  string
		rule     tc.Rule
	}{
		{"name: p", "name: ''", "/name", tc.RuleName},
		{"name: p", "name: P", "/name", tc.RuleName},
		{"name: p", "priority: 1001\nname: p", "/priority", tc.RuleValue},
		{"ceiling: 50Mbit,", "ceiling: 1kbit,", "/link/download/ceiling", tc.RuleValue},
		{"ceiling: 50Mbit,", "ceiling: 2Tbit,", "/link/download/ceiling", tc.RuleValue},
		{"64KiB", "1000B", "/link/download/burst", tc.RuleBurst},
		{"64KiB", "6249B", "/link/download/burst", tc.RuleBurst}, // 50 Mbit/s send 6250 B in a tick
		{"64KiB", "2GiB", "/link/download/burst", tc.RuleBurst},
		{"64KiB", "900MiB", "/link/download/burst", tc.RuleBurst},
		{"upload: {ceiling: 20Mbit}", "upload: {burst: 64KiB}", "/link/upload/burst", tc.RuleBurst},
		// Guarantees: 10 + 10 up, 10 down, and 10 down in the window.
		{"upload: {ceiling: 20Mbit}", "upload: {ceiling: 19Mbit}", "/classes", tc.RuleSum},
		{"download: {ceiling: 40Mbit}", "download: {ceiling: 15Mbit}, upload: {ceiling: 16Mbit}", "/schedule/windows/0/link", tc.RuleSum},
		{"download: {ceiling: 40Mbit}", "download: {ceiling: 12Mbit}, upload: {ceiling: 13Mbit}", "/schedule/windows/0/link", tc.RuleCeiling},
		{`link: {download: {ceiling: 40Mbit}}`, `classes: [{name: a, guarantee: 21Mbit, default: true}]`, "/schedule/windows/0/classes", tc.RuleSum},
		{"guarantee: 10Mbit, ceiling: 15Mbit", "guarantee: 16Mbit, ceiling: 15Mbit", "/classes/0/guarantee", tc.RuleCeiling},
		{"ceiling: 15Mbit", "ceiling: 51Mbit", "/classes/0/ceiling", tc.RuleCeiling},
		{"priority: 7", "priority: 8", "/classes/0/priority", tc.RuleValue},
		{"priority: 7", "priority: -1", "/classes/0/priority", tc.RuleValue},
		{"priority: 7", "priority: 1.5", "/classes/0/priority", tc.RuleUnit},
		{"priority: 7", "priority: 0x7", "/classes/0/priority", tc.RuleUnit},
		{"latency_target: 20ms", "latency_target: 1200us", "/classes/0/latency_target", tc.RuleLatency}, // 10 Mbit/s take 1212 us for a packet
		{"latency_target: 20ms", "latency_target: 11s", "/classes/0/latency_target", tc.RuleLatency},
		{"latency_target: 20ms", "latency_target: 20", "/classes/0/latency_target", tc.RuleUnit},
		{"default: true", "default: false", "/classes", tc.RuleDefault},
		{"default: true", "default: yes", "/classes/2/default", tc.RuleUnit},
		{"name: b,", "name: b, default: true,", "/classes/2/default", tc.RuleDefault},
		{"name: b,", "name: a,", "/classes/1/name", tc.RuleName},
		{"name: b,", "name: bé,", "/classes/1/name", tc.RuleName},
		{"name: b,", "name: b, colour: red,", "/classes/1/colour", tc.RuleUnknown},
		{"{protocol: udp, direction: upload}", "{direction: upload}", "/classes/1/match/0", tc.RuleEmptyMatch},
		{"{protocol: udp, direction: upload}", "{}", "/classes/1/match/0", tc.RuleEmptyMatch},
		{"match: [{protocol: udp, direction: upload}]", "match: []", "/classes/1/match", tc.RuleEmptyMatch},
		{"protocol: udp", "protocol: UDP", "/classes/1/match/0/protocol", tc.RuleValue},
		{"protocol: udp", "dscp: af44", "/classes/1/match/0/dscp", tc.RuleValue},
		{"protocol: udp", "dscp: 64", "/classes/1/match/0/dscp", tc.RuleValue},
		{"protocol: udp", "protocol: icmp, ports: [1]", "/classes/1/match/0/ports", tc.RuleValue},
		{"protocol: udp", "protocol: icmp, cidr: '2001:db8::/32'", "/classes/1/match/0/protocol", tc.RuleValue},
		{"protocol: udp", "cidr: 192.0.2.0/25, protocol: tcp, ports: [443]", "/classes/1/match", tc.RuleReach},
		{"direction: upload", "direction: up", "/classes/1/match/0/direction", tc.RuleValue},
		{"192.0.2.0/24", "192.0.2.1/24", "/classes/0/match/0/cidr", tc.RuleValue},
		{"192.0.2.0/24", "192.0.2.0", "/classes/0/match/0/cidr", tc.RuleUnit},
		{"192.0.2.0/24", "'::ffff:192.0.2.0/120'", "/classes/0/match/0/cidr", tc.RuleValue},
		{"ports: [443]", "ports: [0]", "/classes/0/match/0/ports/0", tc.RuleUnit},
		{"ports: [443]", "ports: [9-8]", "/classes/0/match/0/ports/0", tc.RuleUnit},
		{"ports: [443]", "ports: 443", "/classes/0/match/0/ports", tc.RuleSyntax},
		{"ports: [443]", "ports: [" + strings.Repeat("1-65534,", 35) + "]", "/classes", tc.RuleCount},
		{"ports: [443]", "ports: [" + strings.Repeat("1,", 65) + "]", "/classes/0/match/0/ports", tc.RuleCount},
		{"timezone: UTC", "timezone: Mars", "/schedule/timezone", tc.RuleSchedule},
		{"timezone: UTC", "timezone: Local", "/schedule/timezone", tc.RuleSchedule},
		{"timezone: UTC", "timezone: ''", "/schedule/timezone", tc.RuleSchedule},
		{"outside: base", "outside: of", "/schedule/outside", tc.RuleValue},
		{`from: "08:00"`, `from: "24:00"`, "/schedule/windows/0/from", tc.RuleSchedule},
		{`from: "08:00"`, `from: "08:60"`, "/schedule/windows/0/from", tc.RuleUnit},
		{`from: "08:00"`, `from: "08:00", days: [mo]`, "/schedule/windows/0/days/0", tc.RuleSchedule},
		{"name: p", "name: p\nlimits: {upload: {connections: 4000000000}}", "/limits/upload/connections", tc.RuleValue},
		{"name: p", "name: p\nlimits: {upload: {connections: -1}}", "/limits/upload/connections", tc.RuleUnit},
		{"name: p", "name: p\nlimits: {upload: {connections: 5000000000}}", "/limits/upload/connections", tc.RuleUnit},
		{"name: p", "name: p\napplies_to: {users: ['']}", "/applies_to/users/0", tc.RuleName},
		{"name: p", "name: p\nname: q", "/name", tc.RuleSyntax},
		{"name: p", "name: &x p", "/name", tc.RuleSyntax},
		{"name: p", "name: p\nlink: [", "", tc.RuleSyntax},
	} {
		t.Run(tt.old+" → "+clip(tt.new), func(t *testing.T) {
			if !strings.Contains(valid, tt.old) {
				t.Fatalf("%q is not in the document", tt.old)
			}
			_, err := tc.Parse([]byte(strings.Replace(valid, tt.old, tt.new, 1)))
			var problems tc.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v", err)
			}
			if !slices.ContainsFunc(problems, func(p tc.Problem) bool { return p.Pointer == tt.pointer && p.Rule == tt.rule }) {
				t.Errorf("want %s at %s, got:\n%v", tt.rule, tt.pointer, err)
			}
			for _, p := range problems {
				if p.Line == 0 || p.Detail == "" || p.Remedy == "" {
					t.Errorf("%+v leaves something out", p)
				}
			}
		})
	}
}

func clip(s string) string { return s[:min(len(s), 40)] }

// TestEmpty refuses what demands nothing, and takes a policy that is off.
func TestEmpty(t *testing.T) {
	if _, err := tc.Parse([]byte("name: p")); err == nil {
		t.Error("a policy without a demand is taken")
	}
	if _, err := tc.Parse([]byte("name: p\nmode: off")); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "---", "# nothing", "null", "[]", "3", "---\nname: p\nmode: off\n---\nname: q\nmode: off"} {
		if _, err := tc.Parse([]byte(text)); err == nil {
			t.Errorf("%q is taken as one policy", text)
		}
	}
}

func TestCounts(t *testing.T) {
	p := tc.Policy{Name: "p"}
	for i := range tc.MaxClasses + 1 {
		p.Classes = append(p.Classes, tc.Class{Name: fmt.Sprintf("c%d", i), Default: i == 0, Match: []tc.Match{{Ports: []tc.PortRange{tc.Port(uint16(i + 1))}}}})
	}
	if problems := p.Validate(); len(problems) != 1 || problems[0].Rule != tc.RuleCount {
		t.Errorf("%v", problems)
	}
	p.Classes = p.Classes[:tc.MaxClasses]
	if problems := p.Validate(); len(problems) != 0 {
		t.Errorf("%v", problems)
	}
}

// TestVocabulary holds that a policy is the same in YAML, in JSON and in Go.
func TestVocabulary(t *testing.T) {
	for _, name := range []string{"team.yaml", "night.yaml"} {
		p := parsed(t, name)
		asYAML, err := p.YAML()
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		for form, data := range map[string][]byte{"YAML": asYAML, "JSON": asJSON, "JSON with tabs": []byte(strings.ReplaceAll(string(asJSON), "  ", "\t"))} {
			back, err := tc.Parse(data)
			if err != nil {
				t.Fatalf("%s in %s: %v\n%s", name, form, err, data)
			}
			if again, _ := back.YAML(); string(again) != string(asYAML) {
				t.Errorf("%s in %s reads as\n%s\nand not as\n%s", name, form, again, asYAML)
			}
		}
	}
	_, err := tc.Parse([]byte("{\n\t\"name\": \"p\",\n\t\"description\": \"\\ud83d\\ude00\",\n\t\"link\": {\"upload\": {\"ceiling\": \"1Mbit\"}},\n\t\"mode\": \"no\"\n}"))
	if err == nil || err.Error() != `line 5: /mode: there is no mode "no"; write enforce, report or off (value)` {
		t.Errorf("JSON with tabs and a surrogate: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(`{"name":"p","link":{"upload":{"ceiling":"5Mbit"}},"classes":[{"name":"d","default":true,"match":[{"ports":["1-65535"],"dscp":46}]}]}`))
	f.Add([]byte("name: p\nmode: off\n---\nname: q\napplies_to: {sessions: {match_labels: {a: b}}}\nlimits: {upload: {connections: 5}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := tc.ParseAll(data)
		if err != nil {
			var problems tc.Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("%#v is no list of problems", err)
			}
			return
		}
		for _, p := range all {
			written, err := p.YAML()
			if err != nil {
				t.Fatal(err)
			}
			back, err := tc.Parse(written)
			if err != nil {
				t.Fatalf("%v\nin what was written:\n%s", err, written)
			}
			if again, _ := back.YAML(); string(again) != string(written) {
				t.Errorf("written\n%s\nread and written\n%s", written, again)
			}
			plan, _, err := tc.Compile([]tc.Policy{p}, ofAcme, able, noon)
			if err != nil {
				t.Fatal(err)
			}
			invariants(t, plan)
		}
	})
}

func TestProblem(t *testing.T) {
	for want, p := range map[string]tc.Problem{
		"line 3: /classes/0: is wrong; mend it (empty)": {Pointer: "/classes/0", Line: 3, Rule: tc.RuleEmpty, Detail: "is wrong", Remedy: "mend it"},
		"/classes/0: is wrong; mend it (empty)":         {Pointer: "/classes/0", Rule: tc.RuleEmpty, Detail: "is wrong", Remedy: "mend it"},
		"line 1: is wrong; mend it (empty)":             {Line: 1, Rule: tc.RuleEmpty, Detail: "is wrong", Remedy: "mend it"},
		"is wrong; mend it (empty)":                     {Rule: tc.RuleEmpty, Detail: "is wrong", Remedy: "mend it"},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
