package terminal_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/agent/agenttest"
	"agentyard.dev/services/sessions/runner/terminal"
)

func suite(t *testing.T) agenttest.Suite {
	return agenttest.Suite{
		Start: terminal.Start, Argv: []string{"bash", "--noprofile", "--norc"},
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PS1=$ "},
		Say: "echo $((40+2)) is it", Answer: "42 is it", Slow: "sleep 600",
	}
}

// TestConformance runs a real shell in a real PTY.
func TestConformance(t *testing.T) { agenttest.Run(t, suite(t)) }

func TestBash(t *testing.T) {
	r := suite(t).New(t, t.TempDir(), "")
	tests := []struct{ name, say, want string }{
		{"the answer is without echo and prompt", "echo one; echo two", "one\ntwo"},
		{"a silent command has no answer", "true", ""},
		{"a long line wraps and is dropped as echo", "echo " + strings.Repeat("word ", 40) + "| wc -w", "40"},
		{"several lines are one paste", "for i in 1 2 3\ndo\necho line $i\ndone", "line 1\nline 2\nline 3"},
		{"it waits for a command that shows nothing", "sleep 1; echo late", "late"},
		{"control characters are not typed", "echo a\x03b\x1b[A", "ab[A"},
		{"wide characters stay whole", "echo 日本語 é", "日本語 é"},
		{"more than the screen holds keeps the end", "seq 1 5000", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := agenttest.Text(r.Turn(t, tt.say))
			if tt.want == "" && strings.HasPrefix(tt.say, "seq") {
				if !strings.HasSuffix(got, "4999\n5000") {
					t.Errorf("the answer ends in %q", got[max(0, len(got)-30):])
				}
				return
			}
			if got != tt.want {
				t.Errorf("answered %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("raw keys are typed", func(t *testing.T) {
		typist, ok := r.Agent.(agent.Typist)
		if !ok {
			t.Fatal("it takes no keys")
		}
		if err := typist.Type(t.Context(), []byte("touch typed\r")); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for {
			if _, err := os.Stat(filepath.Join(r.Dir, "typed")); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("nothing was typed")
			}
			r.Turn(t, "true")
		}
	})
	t.Run("the output is in the log as it is", func(t *testing.T) {
		if err := r.Prompt(t.Context(), agent.Prompt{MessageID: "m1", Content: "printf '\\033[31mred\\033[0m\\n'"}); err != nil {
			t.Fatal(err)
		}
		var raw strings.Builder // it may come in pieces, and after the turn
		seen := 0
		r.Sink.UntilAll(t, func(evs []api.Event) bool {
			for _, ev := range evs[seen:] {
				raw.Write(ev.Data)
			}
			seen = len(evs)
			return strings.Contains(raw.String(), "\x1b[31mred\x1b[0m")
		})
	})
	t.Run("a program that ends is dead", func(t *testing.T) {
		err := r.Prompt(context.Background(), agent.Prompt{Content: "exit 5"})
		if detail, died := agent.Died(err); !died || !strings.Contains(detail, "5") {
			t.Errorf("exit: %v", err)
		}
	})
}

func TestPrintsWithoutEnd(t *testing.T) {
	cfg := suite(t)
	r := cfg.New(t, t.TempDir(), "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := r.Prompt(ctx, agent.Prompt{MessageID: "m1", Content: "yes"})
	if err == nil {
		t.Error("the turn ended")
	}
	if err := r.Interrupt(t.Context()); err != nil {
		t.Error(err)
	}
}
