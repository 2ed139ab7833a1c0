package runner

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"agentyard.dev/libs/api"
)

func FuzzMessage(f *testing.F) {
	for _, s := range []string{`{"content":"x","type":"user"}`, `{"content":"\u001b","type":"raw"}`, `{"content":null}`, `[]`, `{"type":1}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		content, raw, err := decodeMessage(data)
		switch {
		case err != nil && api.CodeOf(err) != api.CodeInvalid:
			t.Fatalf("%q: %v, want invalid", data, err)
		case err == nil && content == "":
			t.Fatalf("%q is a message without content", data)
		case err == nil && !raw && strings.TrimSpace(content) == "":
			t.Fatalf("%q is an empty message", data)
		}
	})
}

func FuzzPort(f *testing.F) {
	for _, s := range []string{"8080/x", "0", "65536/", "80%2f/x", "8080//a%2Fb?q", "+1", "1@x/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		u, err := url.ParseRequestURI(portsPrefix + rest)
		if err != nil {
			return
		}
		port, to, err := cutPort(u)
		if err != nil {
			return
		}
		if port == 0 || !strings.HasPrefix(to.Path, "/") || to.Host != "" || to.Scheme != "" {
			t.Fatalf("%q leads to port %d, %+v", rest, port, to)
		}
	})
}

func TestText(t *testing.T) {
	for _, piece := range []string{"a", "word ", "\x00", "é", "日", strings.Repeat("z", 50_000), "\"\\\n"} {
		var m text
		all := 0
		for all < 3<<20 {
			m.add(piece)
			all += len(piece)
			if len(m.head)+len(m.tail) > maxHead+3*maxTail+len(piece) {
				t.Fatalf("%q: holds %d bytes", piece[:1], len(m.head)+len(m.tail))
			}
		}
		got := m.String()
		if len(got) > maxHead+maxTail+100 || !utf8.ValidString(got) || !strings.Contains(got, "left out") || !strings.HasSuffix(got, piece[len(piece)-1:]) {
			t.Errorf("%q: %d bytes, valid %v", piece[:1], len(got), utf8.ValidString(got))
		}
	}
	var short text
	short.add("one ")
	short.add("two")
	if short.String() != "one two" {
		t.Errorf("%q", short.String())
	}
	for _, s := range []string{"", "a", strings.Repeat("日本", 50_000)} {
		if got := strings.Join(pieces(s), ""); got != s {
			t.Errorf("pieces lose something of %d bytes", len(s))
		}
		for _, p := range pieces(s) {
			if len(p) > maxDelta || !utf8.ValidString(p) {
				t.Errorf("a piece of %d bytes", len(p))
			}
		}
	}
}
