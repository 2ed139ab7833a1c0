package declare

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

func TestAccounts(t *testing.T) {
	user := api.DeriveID(api.KindUser, "a")
	for text, want := range map[string]map[string]account{
		"":                                     {},
		"team-a=acme/" + user:                  {"team-a": {"acme", user}},
		" a=x/" + user + " , b=y/" + user:      {"a": {"x", user}, "b": {"y", user}},
		"a=x/" + user + ",a=y/" + user:         nil,
		"a=x":                                  nil,
		"a=x/ann":                              nil,
		"a=/" + user:                           nil,
		"A=x/" + user:                          nil,
		"a=x/y/" + user:                        nil,
		"=x/" + user:                           nil,
		"a=x/" + user + "=b":                   nil,
		strings.Repeat("a", 64) + "=x/" + user: nil,
	} {
		got, err := Config{Namespaces: text}.accounts()
		if (err == nil) != (want != nil) || err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if c, err := New(Config{}, nil, nil); c != nil || err != nil {
		t.Errorf("without namespaces: %v, %v", c, err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add("a=x/" + api.DeriveID(api.KindUser, "a") + ",b=y/u")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Config{Namespaces: text}.accounts()
		for namespace, a := range got {
			if err == nil && (namespace == "" || !api.ValidName(a.tenant) || !api.ValidID(api.KindUser, a.user)) {
				t.Errorf("%q: %q is %v", text, namespace, a)
			}
		}
	})
}

func TestDecode(t *testing.T) {
	profile, err := decode[api.Profile](map[string]any{
		"agent": map[string]any{"kind": "demo"}, "idleTimeout": "90s", "env": map[string]any{"someName": "camelCase", "OTHER_NAME": "x"},
		"mcpServers": []any{map[string]any{"name": "docs", "headers": map[string]any{"X-Some_Key": "v"}}},
		"pod": map[string]any{
			"nodeSelector": map[string]any{"diskType": "ssd"}, "runtimeClass": "gvisor", "writableRoot": true,
			"requests": map[string]any{"memoryBytes": int64(1 << 30)}, "volume": map[string]any{"bytes": int64(1 << 20), "storageClass": "fast"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := api.Profile{
		Agent: api.Agent{Kind: "demo"}, IdleTimeout: api.Duration(90 * time.Second), Env: map[string]string{"someName": "camelCase", "OTHER_NAME": "x"},
		MCPServers: []api.MCPServer{{Name: "docs", Headers: map[string]string{"X-Some_Key": "v"}}},
		Pod: api.Pod{
			NodeSelector: map[string]string{"diskType": "ssd"}, RuntimeClass: "gvisor", WritableRoot: true,
			Requests: api.Resources{MemoryBytes: 1 << 30}, Volume: &api.Volume{Bytes: 1 << 20, StorageClass: "fast"},
		},
	}
	if !reflect.DeepEqual(profile, want) {
		t.Errorf("got %+v, want %+v", profile, want)
	}
	for _, spec := range []any{
		map[string]any{"unknown": "x"}, map[string]any{"ttl": "soon"}, map[string]any{"agent": "demo"}, []any{"x"}, "text",
	} {
		if _, err := decode[api.CreateSessionRequest](spec); err == nil {
			t.Errorf("%v was taken", spec)
		}
	}
	if req, err := decode[api.CreateSessionRequest](nil); err != nil || !reflect.DeepEqual(req, api.CreateSessionRequest{}) {
		t.Errorf("an empty spec: %+v, %v", req, err)
	}
}

func TestConditions(t *testing.T) {
	s := status{ObservedGeneration: 1}
	s.refused(api.Invalid("/env", "is wrong"))
	if c := s.Conditions[0]; len(s.Conditions) != 1 || c.Status != "False" || c.Reason != "Invalid" || s.Reason != "/env: is wrong" {
		t.Errorf("%+v", s)
	}
	s.Conditions[0].LastTransitionTime.Time = time.Unix(1, 0)
	s.refused(api.Errorf(api.CodeNotFound, "there is none"))
	if c := s.Conditions[0]; c.Reason != "NotFound" || c.LastTransitionTime.Unix() != 1 {
		t.Errorf("the status did not change, and so not its time: %+v", c)
	}
	s.set(accepted, true, asIs, "")
	if c := s.Conditions[0]; c.Status != "True" || c.LastTransitionTime.Unix() == 1 {
		t.Errorf("%+v", c)
	}
	s.refused(api.Errorf(api.CodeInternal, "the password is 42"))
	if strings.Contains(s.Reason, "42") {
		t.Errorf("an internal error left the process: %q", s.Reason)
	}
}
