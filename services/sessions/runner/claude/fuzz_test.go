package claude

import (
	"encoding/json"
	"testing"
)

func FuzzLine(f *testing.F) {
	for _, s := range []string{
		`{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}}`,
		`{"type":"assistant","message":{"id":"m","content":[{"type":"tool_use","id":"t","name":"TodoWrite","input":{"todos":[]}}]}}`,
		`{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":"x","is_error":true}]}}`,
		`{"type":"assistant","message":{"content":"text"}}`, `{"type":"system","message":"x"}`, `[]`, `{"type":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var l line
		if err := json.Unmarshal(data, &l); err != nil && l.Type == "" {
			return
		}
		turn := &turn{tools: map[string]tool{}}
		for _, ev := range turn.events(l) {
			if _, err := json.Marshal(ev); err != nil {
				t.Fatalf("an event that the log cannot hold: %v", err)
			}
		}
	})
}
