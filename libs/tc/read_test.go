package tc_test

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"agentyard.dev/libs/tc"
)

// cut is CutPlan of a whole text.
func cut(text []byte) (*tc.Plan, bool) {
	p, rest, ok := tc.CutPlan(string(text))
	return p, ok && rest == ""
}

// readsAlike fails unless text is read as the library reads it.
func readsAlike(t testing.TB, text []byte) {
	t.Helper()
	want := &tc.Plan{}
	if err := json.Unmarshal(text, want); err != nil {
		if got, ok := cut(text); ok {
			t.Fatalf("%s is read as %+v; it is none: %v", text, got, err)
		}
		return
	}
	if got, ok := cut(text); ok && !reflect.DeepEqual(got, want) {
		t.Fatalf("%s is read as\n%s, it should be\n%s", text, got.Bytes(), want.Bytes())
	}
	got, err := tc.ReadPlan(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s is read as\n%s, it should be\n%s", text, got.Bytes(), want.Bytes())
	}
}

func TestReadPlan(t *testing.T) {
	t.Run("what Bytes writes of compiled plans is read without the library", func(t *testing.T) {
		seed := rand.Uint64()
		w := world{rand.New(rand.NewPCG(seed, 2))}
		for range 100 {
			var policies []tc.Policy
			for i := range 1 + w.IntN(5) {
				if p := w.policy(i); p.Name != "" {
					policies = append(policies, p)
				}
			}
			can := able
			can.FQCodel, can.SFQ, can.IFB = w.one(2), w.one(2), w.one(2)
			plan, _, err := tc.Compile(policies, ofAcme, can, noon)
			if err != nil {
				t.Fatal(err)
			}
			readsAlike(t, plan.Bytes())
			if _, ok := cut(plan.Bytes()); !ok && !strings.ContainsFunc(string(plan.Bytes()), strange) {
				t.Fatalf("seed %d: %s is not known", seed, plan.Bytes())
			}
		}
	})
	t.Run("every field", func(t *testing.T) {
		text := examplePlan().Bytes()
		readsAlike(t, text)
		if _, ok := cut(text); !ok {
			t.Errorf("%s is not known", text)
		}
	})
	t.Run("what follows is left", func(t *testing.T) {
		text := string(examplePlan().Bytes())
		if _, rest, ok := tc.CutPlan(text + `,"more":1}`); !ok || rest != `,"more":1}` {
			t.Errorf("%t, %q", ok, rest)
		}
	})
	t.Run("what is written otherwise is the library's affair", func(t *testing.T) {
		text := string(examplePlan().Bytes())
		for _, other := range []string{
			text + " ", strings.Replace(text, `"bulk"`, `"b\u0075lk"`, 1), strings.Replace(text, `{"format":1`, `{"new":[],"format":1`, 1),
			strings.Replace(text, `"mtu":1514`, `"mtu":01514`, 1), strings.Replace(text, `"priority":5`, `"priority":256`, 1), strings.Replace(text, "20Mbit", "20Mbps", 1),
			text[:len(text)-1], `{"format":2}`, `{"format":-1}`, `{"format":1,"limits":[]}`, `{"format":1,"download":{"place":"host","fault":{"until":1,"class":2}}}`, "", "null",
		} {
			readsAlike(t, []byte(other))
		}
	})
}

// strange is what a canonical text has in strings that are not read without the library.
func strange(c rune) bool { return c == '\\' || c > '~' }

// FuzzReadPlan: whatever it is, it is read as the library reads it, or not known.
func FuzzReadPlan(f *testing.F) {
	f.Add(examplePlan().Bytes())
	f.Add([]byte(`{"format":1,"session":"s","mode":"off","degraded":["a"]}`))
	f.Fuzz(func(t *testing.T, text []byte) { readsAlike(t, text) })
}

func BenchmarkReadPlan(b *testing.B) {
	text := examplePlan().Bytes()
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tc.ReadPlan(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(text, &tc.Plan{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
