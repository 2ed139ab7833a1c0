package cli

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

func TestParseProfiles(t *testing.T) {
	got, err := parseProfiles([]byte(`
name: careful
description: "little room"
agent: {kind: claude, args: [--model, opus]}
env: {A: "1"}
resources: {cpus: 1.5, memory_bytes: 2147483648}
isolation: [user, pid]
ttl: 4h
---
---
{"name": "json", "agent": {"kind": "demo"}, "rev": 7}
`))
	want := []api.Profile{
		{
			Name: "careful", Description: "little room", Agent: api.Agent{Kind: "claude", Args: []string{"--model", "opus"}},
			Env: map[string]string{"A": "1"}, Resources: api.Resources{CPUs: 1.5, MemoryBytes: 2 << 30},
			Isolation: []string{"user", "pid"}, TTL: api.Duration(4 * time.Hour),
		},
		{Name: "json", Agent: api.Agent{Kind: "demo"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for text, says := range map[string]string{
		"":                                    "no profile",
		"name: Bad Name":                      "name:",
		"name: a\nagnet: {kind: x}":           "agnet",
		"name: a\nttl: 4":                     "duration",
		"name: a\nenv: {A: 5}":                "document 1: env: want text; put a number into quotes",
		"name: a\nisolation: pid":             "isolation: string is not what it takes",
		"name: a\n---\nname: a":               "twice",
		"- name: a":                           "document 1",
		"name: a\nenv: {1: x}":                "document 1",
		"name: [a":                            "document 1",
		"a: &a [x]\nb: *a\nname: y":           "unknown field",
		strings.Repeat("#", maxProfileFile):   "no profile",
		strings.Repeat("#", maxProfileFile+1): "longer",
	} {
		if _, err := parseProfiles([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: %v, want something about %q", text, err, says)
		}
	}
}

func FuzzProfiles(f *testing.F) {
	f.Add([]byte("name: a\nagent: {kind: demo}\nttl: 90s\nenv: {A: \"x: y\", B: |\n  two\n  lines\n}\n"))
	f.Add([]byte(`{"name":"a","roles":["admin"],"resources":{"cpus":0.5}}`))
	f.Add([]byte("a: &a [*a]\nname: &n x\n<<: *n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		profiles, err := parseProfiles(data)
		if err != nil {
			return
		}
		// What was read can be written and read again.
		var text bytes.Buffer
		for _, p := range profiles {
			part, err := formatProfile(p)
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString("---\n")
			text.Write(part)
		}
		again, err := parseProfiles(text.Bytes())
		if err != nil || len(again) != len(profiles) {
			t.Fatalf("%+v became %+v, %v, through\n%s", profiles, again, err, &text)
		}
		var second bytes.Buffer
		for _, p := range again {
			part, _ := formatProfile(p)
			second.WriteString("---\n")
			second.Write(part)
		}
		if second.String() != text.String() {
			t.Fatalf("%s became\n%s", &text, &second)
		}
	})
}
