package runner_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

func TestTurns(t *testing.T) {
	y := newYard(t)
	s := y.session(nil)
	s.start()
	s.running()

	t.Run("a message is answered once, with its end in the same commit", func(t *testing.T) {
		id := s.send("echo hello")
		if got, want := s.answer(id), "hello\n[done "+id+"]"; got != want {
			t.Errorf("answered %q, want %q", got, want)
		}
		evs := s.events()
		i := slices.IndexFunc(evs, func(ev api.Event) bool { return ev.Final && ev.ReplyTo == id })
		if i+1 >= len(evs) || evs[i+1].Type != api.EventStatus || evs[i+1].Activity != api.ActivityIdle || evs[i+1].ReplyTo != id {
			t.Fatalf("after the final message comes %+v", evs[i+1:])
		}
		var mark api.RunnerMark
		if err := json.Unmarshal(evs[i+1].Raw, &mark); err != nil || mark.DoneSeq == 0 || mark.AgentSession == "" {
			t.Errorf("the mark is %s, %v", evs[i+1].Raw, err)
		}
	})
	t.Run("chunks come before their message and share its id", func(t *testing.T) {
		id := s.send("stream 20")
		s.answer(id)
		var chunks []api.Event
		for _, ev := range s.events() {
			switch {
			case ev.ReplyTo != id:
			case ev.Type == api.EventAgentMessageChunk:
				chunks = append(chunks, ev)
			case ev.Type == api.EventAgentMessage && (len(chunks) != 20 || chunks[0].MessageID != ev.MessageID || chunks[0].Delta != "chunk 1"):
				t.Errorf("%d chunks %+v before the message %s", len(chunks), chunks, ev.MessageID)
			}
		}
	})
	t.Run("a tool call is in the log", func(t *testing.T) {
		id := s.send("run echo out; exit 3")
		if got := s.answer(id); !strings.HasPrefix(got, "out\nexit 3\n") {
			t.Errorf("answered %q", got)
		}
		s.until("a completed tool call", func(ev api.Event) bool {
			return ev.Type == api.EventToolCall && ev.ReplyTo == id && ev.Status == "completed" && ev.Content == "out\n"
		})
	})
	t.Run("messages queue and are answered in order", func(t *testing.T) {
		var ids []string
		for i := range 10 {
			ids = append(ids, s.send(fmt.Sprintf("echo %d", i)))
		}
		s.answer(ids[9])
		var order []string
		for _, ev := range s.events() {
			if ev.Final && slices.Contains(ids, ev.ReplyTo) {
				order = append(order, ev.ReplyTo)
			}
		}
		if !slices.Equal(order, ids) {
			t.Errorf("answered in the order %v, sent in %v", order, ids)
		}
	})
	t.Run("an interrupt ends the turn, and only that", func(t *testing.T) {
		id := s.send("sleep 10m")
		s.until("working", func(ev api.Event) bool { return ev.Activity == api.ActivityWorking && ev.ReplyTo == id })
		s.append(api.Event{Type: api.EventInterrupt})
		if got := s.answer(id); !strings.HasPrefix(got, "interrupted after") {
			t.Errorf("answered %q", got)
		}
		if got := s.answer(s.send("echo next")); !strings.HasPrefix(got, "next") {
			t.Errorf("the next is answered %q", got)
		}
	})
	t.Run("a question waits for its answer", func(t *testing.T) {
		id := s.send("ask May I?")
		q := s.until("the question", func(ev api.Event) bool { return ev.Type == api.EventApprovalRequest && ev.ReplyTo == id })
		if q.Title != "May I?" || len(q.Options) != 2 || q.Options[0].Option != "yes" {
			t.Errorf("asked %+v", q)
		}
		s.report("waiting for approval", func(r api.RunnerReportRequest) bool { return r.Activity == api.ActivityApproval })
		s.append(api.Event{Type: api.EventApprovalAnswer, ApprovalID: q.ApprovalID, Option: "no such option"})
		s.append(api.Event{Type: api.EventApprovalAnswer, ApprovalID: q.ApprovalID, Option: "no"})
		if got := s.answer(id); !strings.HasPrefix(got, "no\n") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("an interrupt ends a question", func(t *testing.T) {
		id := s.send("ask Again?")
		s.until("the question", func(ev api.Event) bool { return ev.Type == api.EventApprovalRequest && ev.ReplyTo == id })
		s.append(api.Event{Type: api.EventInterrupt})
		if got := s.answer(id); !strings.HasPrefix(got, "not answered") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("usage is in the log and summed in reports", func(t *testing.T) {
		s.answer(s.send("spend 100 20"))
		id := s.send("spend 1 2")
		s.answer(id)
		s.until("usage", func(ev api.Event) bool {
			return ev.Type == api.EventUsage && ev.ReplyTo == id && ev.Usage.InputTokens == 1 && ev.Usage.OutputTokens == 2
		})
		s.report("usage", func(r api.RunnerReportRequest) bool { return r.Usage.InputTokens == 101 && r.Usage.OutputTokens == 22 })
	})
	t.Run("a crash is answered, once, and the agent is there again", func(t *testing.T) {
		id := s.send("crash")
		if got := s.answer(id); !strings.Contains(got, "died") || !strings.Contains(got, "was restarted") || !strings.HasSuffix(got, "[done "+id+"]") {
			t.Errorf("answered %q", got)
		}
		s.until("the error", func(ev api.Event) bool {
			return ev.Type == api.EventError && ev.ReplyTo == id && ev.Code == api.CodeUnavailable && strings.Contains(ev.Detail, "exit status 3")
		})
		if got := s.answer(s.send("echo back")); !strings.HasPrefix(got, "back") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("a very long answer is one message that fits", func(t *testing.T) {
		id := s.send("echo " + strings.Repeat("word ", 90_000))
		got := s.answer(id)
		if len(got) > 400<<10 || !strings.HasPrefix(got, "word word ") || !strings.Contains(got, "left out") || !strings.HasSuffix(got, "word \n[done "+id+"]") {
			t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-60):])
		}
	})
	if code := s.end(); code != 0 {
		t.Errorf("SIGTERM ends the runner with %d", code)
	}
	once(t, s)
}

// once fails unless every user message of the session has exactly one final answer and
// one message at all.
func once(t *testing.T, s *session) {
	t.Helper()
	finals, all := map[string]int{}, map[string]int{}
	var asked []string
	for _, ev := range s.events() {
		switch {
		case ev.Type == api.EventUserMessage:
			asked = append(asked, ev.MessageID)
		case ev.Type == api.EventAgentMessage && ev.Final:
			finals[ev.ReplyTo]++
			fallthrough
		case ev.Type == api.EventAgentMessage:
			all[ev.ReplyTo]++
		}
	}
	for _, id := range asked {
		if finals[id] != 1 || all[id] != 1 {
			t.Errorf("message %s has %d final answers and %d in all", id, finals[id], all[id])
		}
	}
}

func TestKilled(t *testing.T) {
	y := newYard(t)
	s := y.session(nil)
	s.start()
	s.running()
	first := s.send("echo first")
	s.answer(first)
	slow := s.send("sleep 300ms")
	s.until("working", func(ev api.Event) bool { return ev.ReplyTo == slow && ev.Activity == api.ActivityWorking })
	waiting := s.send("echo waiting")
	s.kill()
	down := s.send("echo sent while nobody ran")
	s.start()
	if got := s.answer(slow); !strings.HasPrefix(got, "slept 300ms") {
		t.Errorf("the interrupted message is answered %q", got)
	}
	s.answer(waiting)
	s.answer(down)
	once(t, s)
	t.Run("the conversation was loaded again", func(t *testing.T) {
		names := map[string]bool{}
		for _, ev := range s.events() {
			var mark api.RunnerMark
			if ev.Type == api.EventStatus && json.Unmarshal(ev.Raw, &mark) == nil && mark.AgentSession != "" {
				names[mark.AgentSession] = true
			}
		}
		if len(names) != 1 {
			t.Errorf("the agent's conversations are %v, want one", names)
		}
	})
	t.Run("an answer given in between counts", func(t *testing.T) {
		id := s.send("ask Sure?")
		isQuestion := func(ev api.Event) bool { return ev.Type == api.EventApprovalRequest && ev.ReplyTo == id }
		q := s.until("the question", isQuestion)
		s.kill()
		s.append(api.Event{Type: api.EventApprovalAnswer, ApprovalID: q.ApprovalID, Option: "yes"})
		s.start()
		if got := s.answer(id); !strings.HasPrefix(got, "yes\n") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("an old interrupt meets no new turn", func(t *testing.T) {
		id := s.send("sleep 10m")
		s.until("working", func(ev api.Event) bool { return ev.ReplyTo == id && ev.Activity == api.ActivityWorking })
		next := s.send("sleep 1s")
		s.append(api.Event{Type: api.EventInterrupt})
		s.answer(id)
		s.kill()
		s.start()
		if got := s.answer(next); !strings.HasPrefix(got, "slept 1s") {
			t.Errorf("answered %q", got)
		}
	})
}

// TestKilledAtRandom kills the runner at random moments under a stream of messages.
func TestKilledAtRandom(t *testing.T) {
	y := newYard(t)
	s := y.session(nil)
	s.start()
	var ids []string
	for i := range 40 {
		say := fmt.Sprintf("echo %d", i)
		switch i % 4 {
		case 1:
			say = "stream 200"
		case 2:
			say = "run sleep 0.05; echo ran"
		case 3:
			say = "sleep 30ms"
		}
		ids = append(ids, s.send(say))
		if i%5 == 4 {
			<-time.After(time.Duration(rand.IntN(250)) * time.Millisecond) // the random moment
			s.kill()
			s.start()
		}
	}
	for _, id := range ids {
		s.answer(id)
	}
	if code := s.end(); code != 0 {
		t.Errorf("the runner ended with %d", code)
	}
	once(t, s)
}

func TestBusAway(t *testing.T) {
	y := newYard(t)
	s := y.session(nil)
	s.start()
	s.running()
	s.answer(s.send("echo before"))
	id := s.send("sleep 2s")
	s.until("working", func(ev api.Event) bool { return ev.ReplyTo == id && ev.Activity == api.ActivityWorking })
	y.restart()
	s.answer(id)
	s.answer(s.send("echo after"))
	once(t, s)
}

func TestSuperseded(t *testing.T) {
	y := newYard(t)
	s := y.session(nil)
	s.start()
	s.running()
	s.answer(s.send("echo old"))
	old, oldExited := s.cmd, s.exited
	y.mu.Lock()
	y.stop[s.launch.Session] = 2
	y.mu.Unlock()
	s.launch.Listen += "2"
	s.start()
	s.running()
	s.answer(s.send("echo new"))
	select {
	case <-oldExited:
	case <-time.After(patience):
		t.Fatal("the old runner lives on")
	}
	if code := old.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the old runner ended with %d", code)
	}
	once(t, s)
}

func TestFailure(t *testing.T) {
	y := newYard(t)
	tests := []struct {
		name string
		edit func(*launch.Launch)
		want string
	}{
		{"no such program", func(l *launch.Launch) { l.Agent = api.Agent{Kind: "custom", Command: []string{"/nonexistent/agent"}} }, "/nonexistent/agent"},
		{"no command", func(l *launch.Launch) { l.Agent = api.Agent{Kind: "custom"} }, "has no command"},
		{"a program that is no agent", func(l *launch.Launch) {
			l.Agent = api.Agent{Kind: "acp", Command: []string{"sh", "-c", "echo this is not ACP >&2; exit 4"}}
		}, "this is not ACP"},
		{"a repository that may not be cloned", func(l *launch.Launch) { l.Repository = &api.Repository{URL: "https://127.0.0.1/x"} }, "not public"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := y.session(tt.edit)
			s.start()
			r := s.report("failed", func(r api.RunnerReportRequest) bool { return r.State == api.StateFailed })
			if !strings.Contains(r.Reason, tt.want) {
				t.Errorf("failed because %q, want %q in it", r.Reason, tt.want)
			}
			<-s.exited
			if code := s.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("ended with %d", code)
			}
		})
	}
}

func TestWorkspace(t *testing.T) {
	y := newYard(t)
	origin := t.TempDir()
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x"}} {
		if args[0] == "add" {
			if err := os.WriteFile(filepath.Join(origin, "README"), []byte("from git\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		runGit(t, origin, args...)
	}
	s := y.session(func(l *launch.Launch) {
		l.Repository = &api.Repository{URL: "file://" + origin}
		l.RepositoryPolicy = launch.RepositoryPolicy{AllowPrivate: true}
		l.Env = map[string]string{"GIVEN": "yes"}
	})
	s.start()
	if got := s.answer(s.send("read README")); !strings.HasPrefix(got, "from git\n") {
		t.Errorf("the clone holds %q", got)
	}
	env := s.answer(s.send("run env; cat /proc/$PPID/environ | tr '\\0' '\\n'; ls /proc/*/environ | wc -l"))
	for _, want := range []string{"GIVEN=yes", "HOME=" + filepath.Join(s.launch.Dir, "home"), "AGENTYARD_SESSION=" + s.launch.Session} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("the agent's environment lacks %s", want)
		}
	}
	if strings.Contains(env, "SECRET_OF_THE_SERVER") {
		t.Error("the server's environment reached the agent")
	}
	s.answer(s.send("write mine.txt\nkept"))
	s.kill()
	s.start()
	if got := s.answer(s.send("read mine.txt")); !strings.HasPrefix(got, "kept") {
		t.Errorf("after a restart the workspace holds %q", got)
	}
}

func TestTerminalAgent(t *testing.T) {
	y := newYard(t)
	s := y.session(func(l *launch.Launch) { l.Agent = api.Agent{Kind: "bash"} })
	s.start()
	if got := s.answer(s.send("echo $((6*7))")); got != "42" {
		t.Errorf("answered %q", got)
	}
	s.until("terminal output", func(ev api.Event) bool {
		return ev.Type == api.EventTerminal && strings.Contains(string(ev.Data), "42")
	})
	if code, body, _ := s.do("POST", "/message", `{"content":"touch raw\r","type":"raw"}`); code != 200 {
		t.Errorf("raw keys: %d %s", code, body)
	}
	s.answer(s.send("true"))
	if _, err := os.Stat(filepath.Join(s.launch.Dir, "workspace", "raw")); err != nil {
		t.Errorf("raw keys were not typed: %v", err)
	}
}
