package sessions_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
)

func TestLifecycle(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")

	t.Run("delete ends everything and may be repeated", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
		pid := y.runnerPID(s.ID)
		got, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: s.ID})
		if err != nil || got.State != api.StateStopping {
			t.Fatalf("%+v, %v", got, err)
		}
		got = y.reaches(ana, s.ID, api.StateTerminated)
		if got.EndedAt == nil || alive(pid) {
			t.Errorf("ended at %v, runner alive: %v", got.EndedAt, alive(pid))
		}
		if _, err := os.Stat(filepath.Join(y.dir, "sessions", s.ID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the workspace is still there: %v", err)
		}
		got, err = rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: s.ID})
		if err != nil || got.State != api.StateTerminated {
			t.Errorf("again: %+v, %v", got, err)
		}
		for name, call := range map[string]func() error{
			"send": func() error {
				_, err := rpc.Call(ana, y.client, api.SendMessage, api.SendMessageRequest{ID: s.ID, Content: "x"})
				return err
			},
			"pause": func() error {
				_, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID})
				return err
			},
			"resume": func() error {
				_, err := rpc.Call(ana, y.client, api.ResumeSession, api.SessionRef{ID: s.ID})
				return err
			},
			"interrupt": func() error {
				_, err := rpc.Call(ana, y.client, api.InterruptSession, api.SessionRef{ID: s.ID})
				return err
			},
		} {
			if err := call(); api.CodeOf(err) != api.CodeConflict {
				t.Errorf("%s of an ended session: %v", name, err)
			}
		}
	})
	t.Run("delete before it runs", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{})
		if _, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, s.ID, api.StateTerminated)
	})
	t.Run("pause keeps the workspace and the conversation, and a message resumes", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
		first := y.send(ana, s.ID, "write note.txt\nkept")
		y.answer(ana, s.ID, first.ID)
		pid := y.runnerPID(s.ID)
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, s.ID, api.StatePaused)
		if alive(pid) {
			t.Error("the runner of a paused session runs")
		}
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Errorf("pausing again: %v", err)
		}
		second := y.send(ana, s.ID, "read note.txt")
		if got := y.answer(ana, s.ID, second.ID); !strings.Contains(got, "kept") {
			t.Errorf("answered %q", got)
		}
		if got := y.get(ana, s.ID); got.State != api.StateRunning || got.Reason != "" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("history tells every change", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
		_, _ = rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: s.ID})
		y.reaches(ana, s.ID, api.StateTerminated)
		var verbs []string
		cursor := ""
		for {
			page, err := rpc.Call(ana, y.client, api.SessionHistory, api.HistoryRequest{ID: s.ID, List: api.List{Limit: 2, Cursor: cursor}})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range page.Items {
				if c.State.ID != s.ID || c.State.Rev != c.Rev || c.At.IsZero() {
					t.Errorf("%+v", c)
				}
				if c.Verb != "report" {
					verbs = append(verbs, c.Verb+" "+string(c.State.State))
				}
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if got := strings.Join(verbs, ", "); got != "create pending, start starting, run running, delete stopping, terminate terminated" {
			t.Error(got)
		}
		evs, _, err := y.log.Read(t.Context(), s.Tenant, s.ID, api.WriterUser, 0, 100)
		var told []string
		for _, ev := range evs {
			told = append(told, string(ev.State))
		}
		if got := strings.Join(told, " "); err != nil || got != "pending starting running stopping terminated" {
			t.Errorf("the log tells %q, %v", got, err)
		}
	})
	t.Run("update merges and honours If-Match", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Title: "old", Labels: map[string]string{"a": "1", "b": "2"}, Wait: "running"})
		y.eventually("it is quiet", func() bool { return y.get(ana, s.ID).Activity == api.ActivityIdle })
		title, ttl := "new", api.Duration(time.Hour)
		now := y.get(ana, s.ID)
		got, err := rpc.Call(ana, y.client, api.UpdateSession, api.UpdateSessionRequest{
			ID: s.ID, IfMatch: now.Rev, Title: &title, TTL: &ttl, Labels: &map[string]string{"b": "", "c": "3"},
		})
		if err != nil || got.Title != "new" || got.TTL != ttl || fmt.Sprint(got.Labels) != "map[a:1 c:3]" || got.Rev <= now.Rev {
			t.Errorf("%+v, %v", got, err)
		}
		_, err = rpc.Call(ana, y.client, api.UpdateSession, api.UpdateSessionRequest{ID: s.ID, IfMatch: now.Rev, Title: &title})
		wantCode(t, err, api.CodeConflict, "")
		_, err = rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: s.ID, IfMatch: now.Rev})
		wantCode(t, err, api.CodeConflict, "")
		for _, same := range []api.UpdateSessionRequest{{}, {Title: &title, TTL: &ttl, Labels: &map[string]string{"b": "", "c": "3"}}} {
			same.ID = s.ID
			if again, err := rpc.Call(ana, y.client, api.UpdateSession, same); err != nil || again.Rev != got.Rev {
				t.Errorf("what changes nothing is revision %d after %d, %v", again.Rev, got.Rev, err)
			}
		}
		long := strings.Repeat("x", 300)
		_, err = rpc.Call(ana, y.client, api.UpdateSession, api.UpdateSessionRequest{ID: s.ID, Title: &long, Labels: &map[string]string{"agentyard.dev/q": "1"}})
		if e := api.Redact(err); e.Code != api.CodeInvalid || len(e.Fields) != 2 {
			t.Errorf("%v", err)
		}
	})
}

func TestOwnership(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Prompt: "echo private"})
	title := "taken"
	calls := map[string]func(c *yard, who string, roles ...api.Role) error{}
	add := func(name string, call func(y *yard, who string, roles ...api.Role) error) { calls[name] = call }
	add("get", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.GetSession, api.SessionRef{ID: s.ID})
		return err
	})
	add("history", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.SessionHistory, api.HistoryRequest{ID: s.ID})
		return err
	})
	add("messages", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.ListMessages, api.ListMessagesRequest{ID: s.ID})
		return err
	})
	reads := len(calls)
	add("update", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.UpdateSession, api.UpdateSessionRequest{ID: s.ID, Title: &title})
		return err
	})
	add("send", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.SendMessage, api.SendMessageRequest{ID: s.ID, Content: "echo x"})
		return err
	})
	add("interrupt", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.InterruptSession, api.SessionRef{ID: s.ID})
		return err
	})
	add("approve", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.AnswerApproval, api.AnswerApprovalRequest{ID: s.ID, ApprovalID: "a", Option: "yes"})
		return err
	})
	add("pause", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.PauseSession, api.SessionRef{ID: s.ID})
		return err
	})
	add("resume", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.ResumeSession, api.SessionRef{ID: s.ID})
		return err
	})
	add("delete", func(y *yard, who string, roles ...api.Role) error {
		_, err := rpc.Call(y.as(who, roles...), y.client, api.DeleteSession, api.SessionRef{ID: s.ID})
		return err
	})
	readable := map[string]bool{"get": true, "history": true, "messages": true}
	if len(readable) != reads {
		t.Fatal("the table of reads is wrong")
	}
	y.reaches(ana, s.ID, api.StateRunning)
	for name, call := range calls {
		for who, roles := range map[string][]api.Role{"ben": {api.RoleMember}, "other/ana": {api.RoleAdmin}, "mach": {api.RoleService}} {
			if err := call(y, who, roles...); api.CodeOf(err) != api.CodeNotFound {
				t.Errorf("%s by %s: %v, want not_found", name, who, err)
			}
		}
		err := call(y, "vic", api.RoleViewer)
		if readable[name] && err != nil || !readable[name] && api.CodeOf(err) != api.CodeDenied {
			t.Errorf("%s by a viewer: %v", name, err)
		}
	}
	if now := y.get(ana, s.ID); now.Title == title || now.State != api.StateRunning {
		t.Errorf("a stranger changed it: %+v", now)
	}
	for _, id := range []string{"", "s", "../" + s.ID, strings.ToUpper(s.ID), s.ID + ".x", api.NewID(api.KindSession)} {
		if _, err := rpc.Call(ana, y.client, api.GetSession, api.SessionRef{ID: id}); api.CodeOf(err) != api.CodeNotFound && api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := calls["update"](y, "boss", api.RoleAdmin); err != nil { // an admin may
		t.Errorf("update by an admin: %v", err)
	}
}

func TestMessages(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	t.Run("a repeated message is one", func(t *testing.T) {
		req := api.SendMessageRequest{ID: s.ID, Content: "echo once", IdempotencyKey: "k"}
		a, err := rpc.Call(ana, y.client, api.SendMessage, req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := rpc.Call(ana, y.client, api.SendMessage, req)
		if err != nil || a != b || a.Seq == 0 {
			t.Errorf("%+v, %+v, %v", a, b, err)
		}
		req.Content = "echo twice"
		_, err = rpc.Call(ana, y.client, api.SendMessage, req)
		wantCode(t, err, api.CodeConflict, "another message")
		req.Content, req.Attachments, req.IdempotencyKey = "echo files", []api.Attachment{{Name: "a", Type: "text/plain", Data: []byte("one")}}, "f"
		if _, err = rpc.Call(ana, y.client, api.SendMessage, req); err != nil {
			t.Fatal(err)
		}
		req.Attachments = []api.Attachment{{Name: "a", Type: "text/plain", Data: []byte("two")}}
		_, err = rpc.Call(ana, y.client, api.SendMessage, req)
		wantCode(t, err, api.CodeConflict, "another message")
		y.answer(ana, s.ID, a.ID)
	})
	t.Run("bounds", func(t *testing.T) {
		for _, req := range []api.SendMessageRequest{
			{}, {Content: strings.Repeat("m", 1<<20+1)}, {Content: "x", Attachments: []api.Attachment{{Name: "f", Data: make([]byte, 900<<10)}}},
			{Content: "x", Attachments: []api.Attachment{{Data: []byte("of no name")}}}, {Content: "x", Attachments: []api.Attachment{{Name: "two\nlines"}}},
			{Content: "x", IdempotencyKey: strings.Repeat("k", 300)},
		} {
			req.ID = s.ID
			if _, err := rpc.Call(ana, y.client, api.SendMessage, req); api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("%d bytes: %v", len(req.Content), err)
			}
		}
		big := y.send(ana, s.ID, "echo "+strings.Repeat("b", 1<<20-5))
		y.answer(ana, s.ID, big.ID)
	})
	t.Run("the first answer to a question counts", func(t *testing.T) {
		ask := y.send(ana, s.ID, "ask proceed?")
		var question api.Event
		y.eventually("a question", func() bool {
			evs, _, err := y.log.Read(t.Context(), s.Tenant, s.ID, api.WriterAgent, ask.Seq, 100)
			for _, ev := range evs {
				if ev.Type == api.EventApprovalRequest {
					question = ev
				}
			}
			return err == nil && question.ApprovalID != ""
		})
		y.eventually("it is told that the session waits", func() bool { return y.get(ana, s.ID).Activity == api.ActivityApproval })
		req := api.AnswerApprovalRequest{ID: s.ID, ApprovalID: question.ApprovalID, Option: "perhaps"}
		_, err := rpc.Call(ana, y.client, api.AnswerApproval, req)
		wantCode(t, err, api.CodeInvalid, "yes, no") // and the question is still open
		req.ApprovalID, req.Option = "a-question", "yes"
		_, err = rpc.Call(ana, y.client, api.AnswerApproval, req)
		wantCode(t, err, api.CodeNotFound, "a-question")
		req.ApprovalID = question.ApprovalID
		a, err := rpc.Call(ana, y.client, api.AnswerApproval, req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := rpc.Call(ana, y.client, api.AnswerApproval, req); err != nil || b.Seq != a.Seq {
			t.Errorf("again: %+v, %v", b, err)
		}
		req.Option = "no"
		_, err = rpc.Call(ana, y.client, api.AnswerApproval, req)
		wantCode(t, err, api.CodeConflict, "answered already")
		if got := y.answer(ana, s.ID, ask.ID); !strings.Contains(got, "yes") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("interrupt ends a turn", func(t *testing.T) {
		long := y.send(ana, s.ID, "sleep 1h")
		y.eventually("it works", func() bool { return y.get(ana, s.ID).Activity == api.ActivityWorking })
		if _, err := rpc.Call(ana, y.client, api.InterruptSession, api.SessionRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.answer(ana, s.ID, long.ID)
	})
	t.Run("pages hold each message once, in order", func(t *testing.T) {
		all, err := rpc.Call(ana, y.client, api.ListMessages, api.ListMessagesRequest{ID: s.ID, List: api.List{Limit: 500}})
		if err != nil || len(all.Items) < 8 || all.NextCursor != "" {
			t.Fatalf("%d messages, %v", len(all.Items), err)
		}
		var got []api.Message
		for cursor := ""; ; {
			page, err := rpc.Call(ana, y.client, api.ListMessages, api.ListMessagesRequest{ID: s.ID, List: api.List{Limit: 3, Cursor: cursor}})
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page.Items...)
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if len(got) != len(all.Items) {
			t.Fatalf("%d by pages, %d at once", len(got), len(all.Items))
		}
		for i := range got {
			if got[i].Seq != all.Items[i].Seq || i > 0 && got[i].Seq <= got[i-1].Seq {
				t.Errorf("message %d: %d, %d", i, got[i].Seq, all.Items[i].Seq)
			}
		}
	})
	t.Run("usage adds up over incarnations", func(t *testing.T) {
		y.answer(ana, s.ID, y.send(ana, s.ID, "spend 100 20").ID)
		y.eventually("usage", func() bool { return y.get(ana, s.ID).Usage.InputTokens == 100 })
		_, _ = rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID})
		y.reaches(ana, s.ID, api.StatePaused)
		y.answer(ana, s.ID, y.send(ana, s.ID, "spend 1 2").ID)
		y.eventually("usage", func() bool { u := y.get(ana, s.ID).Usage; return u.InputTokens == 101 && u.OutputTokens == 22 })
	})
}

func TestProfiles(t *testing.T) {
	y := newYard(t, nil)
	boss, ana := y.as("boss", api.RoleAdmin), y.as("ana")
	page, err := rpc.Call(ana, y.client, api.ListProfiles, api.List{})
	if err != nil || len(page.Items) != 1 || page.Items[0].Name != "default" || page.Items[0].Agent.Kind != "demo" {
		t.Fatalf("%+v, %v", page, err)
	}
	p := api.Profile{
		Name: "strict", Agent: api.Agent{Kind: "demo"}, Env: map[string]string{"FROM": "profile", "BOTH": "profile"}, TTL: api.Duration(time.Hour),
		Isolation: []string{"mount", "pid"}, Roles: []api.Role{api.RoleMember},
	}
	made, err := rpc.Call(boss, y.client, api.CreateProfile, p)
	if err != nil || made.Rev == 0 {
		t.Fatalf("%+v, %v", made, err)
	}
	_, err = rpc.Call(boss, y.client, api.CreateProfile, p)
	wantCode(t, err, api.CodeConflict, "")
	_, err = rpc.Call(ana, y.client, api.CreateProfile, p)
	wantCode(t, err, api.CodeDenied, "")
	_, err = rpc.Call(y.as("mach", api.RoleService), y.client, api.CreateSession, api.CreateSessionRequest{Profile: "strict"})
	wantCode(t, err, api.CodeDenied, "member only")
	s := y.create(ana, api.CreateSessionRequest{Profile: "strict", Env: map[string]string{"BOTH": "request"}, Wait: "running"})
	if s.TTL != p.TTL || s.State != api.StateRunning {
		t.Errorf("%+v", s)
	}
	run := y.send(ana, s.ID, "run echo $FROM $BOTH")
	if got := y.answer(ana, s.ID, run.ID); !strings.Contains(got, "profile request") {
		t.Errorf("answered %q", got)
	}
	for pointer, bad := range map[string]api.Profile{
		"/name": {Name: "No Name", Agent: p.Agent}, "/agent/kind": {Name: "x"}, "/agent/command": {Name: "x", Agent: api.Agent{Kind: "acp"}},
		"/isolation": {Name: "x", Agent: p.Agent, Isolation: []string{"moon"}},
		"/roles":     {Name: "x", Agent: p.Agent, Roles: []api.Role{"king"}}, "/env/LD_X": {Name: "x", Agent: p.Agent, Env: map[string]string{"LD_X": "1"}},
		"/resources/memory_bytes": {Name: "x", Agent: p.Agent, Resources: api.Resources{MemoryBytes: 1}}, "/ttl": {Name: "x", Agent: p.Agent, TTL: -1},
	} {
		_, err := rpc.Call(boss, y.client, api.CreateProfile, bad)
		if e := api.Redact(err); len(e.Fields) != 1 || e.Fields[0].Pointer != pointer {
			t.Errorf("%s: %v", pointer, err)
		}
	}
	// The built-in one can be replaced and comes back.
	other := api.Profile{Agent: api.Agent{Kind: "bash"}}
	if got, err := rpc.Call(boss, y.client, api.UpdateProfile, api.UpdateProfileRequest{Name: "default", Profile: other}); err != nil || got.Agent.Kind != "bash" || got.Name != "default" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = rpc.Call(boss, y.client, api.UpdateProfile, api.UpdateProfileRequest{Name: "strict", IfMatch: made.Rev + 1000, Profile: other})
	wantCode(t, err, api.CodeConflict, "")
	if _, err := rpc.Call(boss, y.client, api.DeleteProfile, api.NameRef{Name: "default"}); err != nil {
		t.Error(err)
	}
	if got, err := rpc.Call(ana, y.client, api.GetProfile, api.NameRef{Name: "default"}); err != nil || got.Agent.Kind != "demo" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := rpc.Call(y.as("other/x", api.RoleAdmin), y.client, api.GetProfile, api.NameRef{Name: "strict"}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("another tenant's profile: %v", err)
	}
}

func TestList(t *testing.T) {
	y := newYard(t, func(c *sessions.Config) { c.IdleTimeout = 0 })
	// 50,000 ended sessions of others, written as the ledger keeps them.
	conn := sessionsConn(y)
	ledger, err := bus.OpenLedger[api.SessionRecord](t.Context(), conn, bus.LedgerConfig{Noun: "sessions"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, ledger, 2000)
	ana := y.as("ana")
	var ids []string
	for i := range 5 {
		s := y.create(ana, api.CreateSessionRequest{Title: fmt.Sprintf("Title %d", i), Labels: map[string]string{"n": fmt.Sprint(i % 2), "all": "yes"}})
		ids = append([]string{s.ID}, ids...)
	}
	list := func(req api.ListSessionsRequest, who ...string) []string {
		t.Helper()
		ctx := ana
		if len(who) > 0 {
			ctx = y.as(who[0], api.RoleAdmin)
		}
		var got []string
		for {
			page, err := rpc.Call(ctx, y.client, api.ListSessions, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range page.Items {
				got = append(got, s.ID)
			}
			if req.Cursor = page.NextCursor; req.Cursor == "" {
				return got
			}
		}
	}
	for name, c := range map[string]struct {
		req  api.ListSessionsRequest
		want []string
	}{
		"newest first":                 {api.ListSessionsRequest{}, ids},
		"by pages":                     {api.ListSessionsRequest{List: api.List{Limit: 2}}, ids},
		"by label":                     {api.ListSessionsRequest{Label: []string{"n=1", "all=yes"}}, []string{ids[1], ids[3]}},
		"by a label that does not fit": {api.ListSessionsRequest{Label: []string{"n=1", "n=0"}}, nil},
		"by title":                     {api.ListSessionsRequest{Query: "tITLE 3"}, []string{ids[1]}},
		"by id":                        {api.ListSessionsRequest{Query: ids[2]}, []string{ids[2]}},
		"by owner":                     {api.ListSessionsRequest{Owner: userID("ana")}, ids},
		"another's":                    {api.ListSessionsRequest{Owner: userID("u1")}, nil},
		"by a state":                   {api.ListSessionsRequest{State: api.StatePaused}, nil},
	} {
		if got := list(c.req); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := list(api.ListSessionsRequest{List: api.List{Limit: 500}}, "boss"); len(got) != 2005 {
		t.Errorf("an admin sees %d", len(got))
	}
	if got := list(api.ListSessionsRequest{}, "other/boss"); len(got) != 0 {
		t.Errorf("another tenant's admin sees %d", len(got))
	}
	for _, req := range []api.ListSessionsRequest{
		{List: api.List{Limit: 501}}, {List: api.List{Cursor: "x"}}, {List: api.List{Cursor: "AWgB"}}, {State: "dead"}, {Label: []string{"nokey"}},
	} {
		if _, err := rpc.Call(ana, y.client, api.ListSessions, req); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
