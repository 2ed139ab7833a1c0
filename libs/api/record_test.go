package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestSessionRecord(t *testing.T) {
	t.Run("keeps what a newer release wrote", func(t *testing.T) {
		const newer = `{"id":"s1","incarnation":3,"hibernated":{"disk":"d1"},"zone":"a","agent":{"kind":"demo"}}`
		var r api.SessionRecord
		if err := json.Unmarshal([]byte(newer), &r); err != nil {
			t.Fatal(err)
		}
		r.Incarnation++
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"hibernated":{"disk":"d1"}`, `"zone":"a"`, `"incarnation":4`} {
			if !strings.Contains(string(data), want) {
				t.Errorf("%s is not in %s", want, data)
			}
		}
		var again api.SessionRecord
		if err := json.Unmarshal(data, &again); err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%+v, before %+v, %v", again, r, err)
		}
	})
	t.Run("a known field is never in Rest", func(t *testing.T) {
		full, err := json.Marshal(api.SessionRecord{Session: api.Session{ID: "s1", Title: "t"}, Endpoint: "unix:/x", Report: 7})
		if err != nil {
			t.Fatal(err)
		}
		var r api.SessionRecord
		if err := json.Unmarshal(full, &r); err != nil || r.Rest != nil || r.Report != 7 || r.Title != "t" {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("refuses what is no record", func(t *testing.T) {
		for _, bad := range []string{`[]`, `"x"`, `{"incarnation":"one"}`} {
			if err := json.Unmarshal([]byte(bad), &api.SessionRecord{}); err == nil {
				t.Errorf("took %s", bad)
			}
		}
	})
}

// FuzzSessionRecord: what is not known survives, and equals what the standard decoder finds.
func FuzzSessionRecord(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, ` { "a" : [1,{"b":"}\\""}] , "id":"s" } `, `{"x\u0022y":{},"":0}`, `{"a":"\\"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r api.SessionRecord
		if json.Unmarshal(data, &r) != nil {
			return // no record
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(data, &all); err != nil {
			t.Fatal(err)
		}
		for name, value := range r.Rest {
			if string(all[name]) != string(value) {
				t.Errorf("%q is %s, not %s", name, value, all[name])
			}
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again api.SessionRecord
		if err := json.Unmarshal(out, &again); err != nil || len(again.Rest) != len(r.Rest) {
			t.Errorf("%s became %s: %v", data, out, err)
		}
	})
}

func BenchmarkSessionRecord(b *testing.B) {
	data, err := json.Marshal(api.SessionRecord{Session: api.Session{
		ID: "s1", Tenant: "default", Owner: "u1", Title: "some title", Profile: "default", State: api.StateRunning,
		Isolation: []string{"user", "mount", "pid"}, Labels: map[string]string{"a": "b"},
	}, Endpoint: "unix:/x", Env: map[string]string{"A": "B"}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var r api.SessionRecord
		if err := json.Unmarshal(data, &r); err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(r); err != nil {
			b.Fatal(err)
		}
	}
}
