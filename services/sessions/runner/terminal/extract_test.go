package terminal

import (
	"strings"
	"testing"
)

func TestExtract(t *testing.T) {
	lines := func(s string) []string { return strings.Split(s, "\n") }
	tests := []struct{ name, before, after, input, want string }{
		{"a shell", "$", "$ ls\na\nb\n$", "ls", "a\nb"},
		{"after earlier output", "$ x\ny\n$", "$ x\ny\n$ ls\na\n$", "ls", "a"},
		{"a prompt with a path", "me@h:~$", "me@h:~$ pwd\n/home\nme@h:~$", "pwd", "/home"},
		{"a box at the end", "hello\n\n╭──╮\n│ >│\n╰──╯", "hello\n\n> hi\n\nanswer\n\n╭──╮\n│ >│\n╰──╯", "hi", "answer"},
		{"no echo", "> ", "> \nanswer\n> ", "hi", "answer"},
		{"nothing new", "$", "$", "", ""},
		{"a redrawn screen", "title\na\nb\n>", "title\na\nb\nnew\n>", "x", "new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := extract(lines(tt.before), lines(tt.after), tt.input); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func FuzzScreen(f *testing.F) {
	f.Add([]byte("hello\r\n\x1b[2J\x1b[10;10Hx\x1b[?1049h\x1b[5L\x1b[999M\x1b[6n\x1b[c"))
	f.Add([]byte("日本\x1b[?2004h\x1b]0;t\x07\x1bPq\x1b\\\xff\xfe\x1b[1;1000r\n\n\x1bM\x1b[99999999999999d"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, stop := newScreen(discard{})
		defer stop()
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		for _, l := range s.lines() {
			if len(l) > columns*maxCell {
				t.Fatalf("a line of %d bytes", len(l))
			}
		}
	})
}
