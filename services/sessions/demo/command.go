package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"unicode/utf8"

	"agentyard.dev/services/sessions/runner/acp"
)

// maxStreamed bounds what one command's answer holds of its output.
const maxStreamed = 8 << 20

// command runs a whole message by sh in the workspace. Its output is the answer, as it comes; its exit status is in the tool call's end,
// {"exit_code": n}, and of a command that a signal ended 128 and the signal's number. A command that was interrupted has none.
func (t *turn) command(said string) {
	end := t.tool("execute", title(said), map[string]string{"command": said})
	cmd := exec.CommandContext(t.ctx, "sh", "-c", said)
	cmd.Dir = t.talk.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	out := &streamed{turn: t}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	out.flush()
	var exit *exec.ExitError
	switch {
	case t.ctx.Err() != nil:
		end("", errors.New("interrupted"))
	case err == nil, errors.As(err, &exit), errors.Is(err, exec.ErrWaitDelay):
		code := cmd.ProcessState.ExitCode()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		t.exited(title(said), code)
	default:
		end("", err)
		t.say(err.Error())
	}
}

// exited ends the tool call with the command's exit status.
func (t *turn) exited(title string, code int) {
	status := "completed"
	if code != 0 {
		status = "failed"
	}
	raw, _ := json.Marshal(map[string]int{"exit_code": code})
	if t.err == nil {
		t.err = t.demo.update(t.talk.id, acp.Update{
			Kind: acp.UpdateToolUpdate, ToolCallID: fmt.Sprintf("call-%d", t.tools), Title: title, ToolKind: "execute", Status: status, RawInput: raw,
		})
	}
}

// title is a command's first line.
func title(said string) string {
	const most = 200
	for i, c := range said {
		if c == '\n' || i >= most {
			return said[:i] + " …"
		}
	}
	return said
}

// streamed says what is written to it, whole characters at a time.
type streamed struct {
	turn *turn
	rest []byte // of a character
	said int
	left int64
}

func (s *streamed) Write(p []byte) (int, error) {
	text := append(s.rest, p...)
	whole := len(text)
	for back := 1; back < utf8.UTFMax && back <= len(text); back++ {
		if start := len(text) - back; utf8.RuneStart(text[start]) {
			if !utf8.FullRune(text[start:]) {
				whole = start
			}
			break
		}
	}
	s.rest = append([]byte(nil), text[whole:]...)
	s.say(text[:whole])
	return len(p), nil
}

func (s *streamed) say(text []byte) {
	n := min(len(text), maxStreamed-s.said)
	s.said += n
	s.left += int64(len(text) - n)
	s.turn.say(string(text[:n]))
}

func (s *streamed) flush() {
	s.say(s.rest)
	s.rest = nil
	if s.left > 0 {
		s.turn.sayf("\n… (%d more bytes)\n", s.left)
	}
}
