package modeltest

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func post(t *testing.T, url, body string) string {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, err %v: %s", resp.StatusCode, err, data)
	}
	return string(data)
}

func TestScript(t *testing.T) {
	steps := []Step{{Tool: "Bash", Input: map[string]any{"command": "true"}}, {Text: "did %s"}}
	const tools = `"tools":[{"name":"Bash","function":{"name":"Bash"}}]`
	tests := []struct{ name, path, body, want string }{
		{
			"messages asks for a tool first", "/v1/messages",
			`{"stream":true,"messages":[{"role":"user","content":"work"}],` + tools + `}`, `"name":"Bash"`,
		},
		{
			"messages answers after the tool result", "/v1/messages",
			`{"stream":true,"messages":[{"role":"user","content":"work"},{"role":"assistant","content":"x"},
			  {"role":"user","content":[{"type":"tool_result"}]}],` + tools + `}`, `"text":"work"`,
		},
		{
			"completions asks for a tool first", "/v1/chat/completions",
			`{"messages":[{"role":"user","content":"work"}],` + tools + `}`, `"name":"Bash"`,
		},
		{
			"a request without tools wants a title", "/v1/messages",
			`{"messages":[{"role":"user","content":"work"}]}`, `A short title`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := New(t, steps...)
			if got := post(t, s.URL+tt.path, tt.body); !strings.Contains(got, tt.want) {
				t.Errorf("answer lacks %s:\n%s", tt.want, got)
			}
		})
	}
}
