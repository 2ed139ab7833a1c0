package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/services/sessions/runner/acp"
)

const (
	maxOutput = 64 << 10  // of a command or a file that an answer shows
	maxChunks = 1_000_000 // of one stream
	killWait  = 2 * time.Second
)

// turn carries out one instruction.
type turn struct {
	demo   *demo
	talk   *talk
	ctx    context.Context
	answer strings.Builder // what was said, up to maxOutput
	usage  *acp.Usage
	tools  int
	err    error // the client is gone
}

// instructions is every word that begins one, with what it does with the rest.
func instructions() map[string]func(*turn, string) {
	return map[string]func(*turn, string){
		"echo":   (*turn).say,
		"stream": (*turn).stream,
		"run":    (*turn).run,
		"list":   (*turn).list,
		"read":   (*turn).read,
		"write":  (*turn).write,
		"sleep":  (*turn).sleep,
		"ask":    (*turn).ask,
		"spend":  (*turn).spend,
		"crash":  (*turn).crash,
		"serve":  (*turn).serve,
	}
}

// do carries out said. What is not an instruction is echoed.
func (t *turn) do(said string) {
	word, rest := said, ""
	if i := strings.IndexAny(said, " \n"); i >= 0 {
		word, rest = said[:i], said[i+1:]
	}
	if f, ok := instructions()[word]; ok {
		f(t, rest)
		return
	}
	t.say(said)
}

func (t *turn) say(text string) {
	if text == "" || t.err != nil {
		return
	}
	if t.answer.Len() < maxOutput {
		t.answer.WriteString(text)
	}
	t.err = t.demo.update(t.talk.id, acp.Update{Kind: acp.UpdateMessageChunk, Content: textBlock(text)})
}

func (t *turn) sayf(format string, args ...any) { t.say(fmt.Sprintf(format, args...)) }

func (t *turn) stream(rest string) {
	n, err := strconv.Atoi(strings.TrimSpace(rest))
	if err != nil || n < 0 || n > maxChunks {
		t.sayf("stream needs a number from 0 to %d", maxChunks)
		return
	}
	for i := 1; i <= n && t.err == nil && t.ctx.Err() == nil; i++ {
		t.sayf("chunk %d", i)
	}
}

// tool reports a tool call and returns what ends it.
func (t *turn) tool(kind, title string, input any) (end func(output string, err error)) {
	t.tools++
	id := fmt.Sprintf("call-%d", t.tools)
	raw, _ := json.Marshal(input)
	t.err = t.demo.update(t.talk.id, acp.Update{
		Kind: acp.UpdateToolCall, ToolCallID: id, Title: title, ToolKind: kind, Status: "in_progress", RawInput: raw,
	})
	return func(output string, err error) {
		status := "completed"
		if err != nil {
			status = "failed"
			output += err.Error()
		}
		content, _ := json.Marshal([]acp.ToolContent{{Type: "content", Content: &acp.Content{Type: "text", Text: output}}})
		if t.err == nil {
			t.err = t.demo.update(t.talk.id, acp.Update{Kind: acp.UpdateToolUpdate, ToolCallID: id, Title: title, ToolKind: kind, Status: status, Content: content})
		}
	}
}

func (t *turn) run(command string) {
	end := t.tool("execute", command, map[string]string{"command": command})
	cmd := exec.CommandContext(t.ctx, "sh", "-c", command)
	cmd.Dir = t.talk.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	out := &head{limit: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	text := out.String()
	var exit *exec.ExitError
	switch {
	case t.ctx.Err() != nil:
		end(text, errors.New("interrupted"))
		t.say(lines(text) + "interrupted")
	case err == nil || errors.As(err, &exit):
		end(text, nil)
		t.sayf("%sexit %d", lines(text), cmd.ProcessState.ExitCode())
	default:
		end(text, err)
		t.say(err.Error())
	}
}

// lines returns text with a newline at its end, unless it is empty.
func lines(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// inside returns the workspace, out of which no path leads.
func (t *turn) inside(f func(root *os.Root) (string, error)) (string, error) {
	root, err := os.OpenRoot(t.talk.dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return f(root)
}

func (t *turn) list(rest string) {
	name := path.Clean(strings.TrimSpace(rest))
	end := t.tool("read", "list "+name, map[string]string{"path": name})
	text, err := t.inside(func(root *os.Root) (string, error) {
		entries, err := fs.ReadDir(root.FS(), name)
		var b strings.Builder
		for _, e := range entries {
			b.WriteString(e.Name())
			if e.IsDir() {
				b.WriteByte('/')
			}
			b.WriteByte('\n')
		}
		return cut(b.String()), err
	})
	t.finish(end, text, err)
}

func (t *turn) read(rest string) {
	name := strings.TrimSpace(rest)
	end := t.tool("read", "read "+name, map[string]string{"path": name})
	text, err := t.inside(func(root *os.Root) (string, error) {
		f, err := root.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxOutput+1))
		return cut(strings.ToValidUTF8(string(data), "\uFFFD")), err
	})
	t.finish(end, text, err)
}

func (t *turn) write(rest string) {
	name, content, _ := strings.Cut(rest, "\n")
	name = strings.TrimSpace(name)
	end := t.tool("edit", "write "+name, map[string]string{"path": name})
	text, err := t.inside(func(root *os.Root) (string, error) {
		if dir := path.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return "", err
			}
		}
		err := root.WriteFile(name, []byte(content), 0o644)
		return fmt.Sprintf("wrote %d bytes to %s", len(content), name), err
	})
	t.finish(end, text, err)
}

// finish ends a tool call and says what it brought.
func (t *turn) finish(end func(string, error), text string, err error) {
	if err != nil {
		end("", err)
		t.say(err.Error())
		return
	}
	end(text, nil)
	t.say(text)
}

func (t *turn) sleep(rest string) {
	d, err := time.ParseDuration(strings.TrimSpace(rest))
	if err != nil {
		t.sayf("sleep needs a duration such as 2s")
		return
	}
	begun := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		t.sayf("slept %s", d)
	case <-t.ctx.Done():
		t.sayf("interrupted after %s", time.Since(begun).Round(time.Millisecond))
	}
}

func (t *turn) ask(question string) {
	req := acp.PermissionRequest{
		SessionID: t.talk.id,
		ToolCall:  acp.Update{Kind: acp.UpdateToolCall, ToolCallID: "ask", Title: question},
		Options: []acp.PermissionOption{
			{OptionID: "yes", Name: "Yes", Kind: "allow_once"},
			{OptionID: "no", Name: "No", Kind: "reject_once"},
		},
	}
	var res acp.PermissionResponse
	err := t.demo.peer.Call(t.ctx, acp.MethodRequestPermission, req, &res)
	switch {
	case errors.Is(err, context.Canceled) || res.Outcome.Outcome == "cancelled":
		t.say("not answered")
	case err != nil:
		t.say(err.Error())
	default:
		t.say(res.Outcome.OptionID)
	}
}

func (t *turn) spend(rest string) {
	var in, out int64
	if _, err := fmt.Sscan(rest, &in, &out); err != nil || in < 0 || out < 0 {
		t.say("spend needs two numbers: input and output tokens")
		return
	}
	t.usage = &acp.Usage{InputTokens: in, OutputTokens: out, TotalTokens: in + out}
	t.sayf("spent %d input and %d output tokens", in, out)
}

func (t *turn) crash(string) {
	t.demo.crash()
	select {} // the process ends now; nothing more may be said
}

func (t *turn) serve(rest string) {
	port := strings.TrimSpace(rest)
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		t.say("serve needs a port number")
		return
	}
	addr, err := t.demo.serve(t.ctx, port)
	if err != nil {
		t.say(err.Error())
		return
	}
	t.say("serving on " + addr)
}

func cut(text string) string {
	if len(text) <= maxOutput {
		return text
	}
	return strings.ToValidUTF8(text[:maxOutput], "") + "\n… (cut)\n"
}

// head keeps the first bytes that are written to it and counts the rest.
type head struct {
	buf   bytes.Buffer
	limit int
	left  int64
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.limit-h.buf.Len())
	h.buf.Write(p[:n])
	h.left += int64(len(p) - n)
	return len(p), nil
}

func (h *head) String() string {
	text := strings.ToValidUTF8(h.buf.String(), "\uFFFD")
	if h.left > 0 {
		text = lines(text) + fmt.Sprintf("… (%d more bytes)\n", h.left)
	}
	return text
}
