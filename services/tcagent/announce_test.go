package tcagent

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

// TestEncodeNews: news are written as encoding/json writes them, with what there is to say mostly and with what is not.
func TestEncodeNews(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's
	texts := []string{"", "applied", "s1", "local", `a"b`, `\`, "<b>", "naïve", "\n", "&"}
	at := func() time.Time { return time.Unix(r.Int64N(2e9), r.Int64N(3)*r.Int64N(1e9)).UTC() }
	for range 2000 {
		text := func(often string) string {
			if r.IntN(10) > 0 {
				return often
			}
			return texts[r.IntN(len(texts))]
		}
		news := api.TrafficCounters{Node: text("node-1"), At: at(), Applied: map[string]api.TrafficPlanApplied{}}
		for range r.IntN(4) {
			news.Applied[text("s"+string(rune('a'+r.IntN(26))))] = api.TrafficPlanApplied{
				Rev: r.Uint64N(1e6), Hash: text("0123abcd"), State: text(stateApplied), Detail: text(""), At: at(), TookMS: float64(r.IntN(100)*r.IntN(100000)) / 1000, Fault: text(""),
			}
		}
		want, err := json.Marshal(news)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encodeNews(news); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %+v is written as\n%s, it should be\n%s (%v)", seed, news, got, want, err)
		}
	}
	usual := api.TrafficCounters{Node: "n1", At: at(), Applied: map[string]api.TrafficPlanApplied{
		"s1": {Rev: 7, Hash: "0123abcd", State: stateApplied, At: at(), TookMS: 0.25},
	}}
	if _, ok := appendNews(nil, usual); !ok {
		t.Error("what is said mostly is the library's affair: this costs ten times as much")
	}
}
