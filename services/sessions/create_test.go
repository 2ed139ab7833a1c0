package sessions_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
)

func TestCreate(t *testing.T) {
	y := newYard(t, nil)
	ana := y.as("ana")

	t.Run("runs and answers its prompt", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Prompt: "echo hello", Title: "first", Labels: map[string]string{"team": "red"}, Wait: "running"})
		if s.State != api.StateRunning || s.Owner != userID("ana") || s.Profile != "default" || s.Agent.Kind != "demo" || s.StartedAt == nil || s.Rev == 0 || s.Runtime != "process" {
			t.Errorf("%+v", s)
		}
		message := api.DeriveID(api.KindMessage, s.Tenant, s.ID, "prompt")
		if got := y.answer(ana, s.ID, message); !strings.Contains(got, "hello") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("the same request again is the same session", func(t *testing.T) {
		req := api.CreateSessionRequest{Title: "once", Prompt: "echo 1", IdempotencyKey: "k1"}
		var wg sync.WaitGroup
		ids := make([]string, 4)
		for i := range ids {
			wg.Go(func() {
				s, err := rpc.Call(ana, y.client, api.CreateSession, req)
				if err != nil {
					t.Error(err)
				}
				ids[i] = s.ID
			})
		}
		wg.Wait()
		if ids = slices.Compact(ids); len(ids) != 1 {
			t.Fatalf("made %v", ids)
		}
		req.Wait = "running"
		if s := y.create(ana, req); s.ID != ids[0] || s.State != api.StateRunning {
			t.Errorf("%+v", s)
		}
		page, err := rpc.Call(ana, y.client, api.ListMessages, api.ListMessagesRequest{ID: ids[0]})
		users := 0
		for _, m := range page.Items {
			if m.Role == "user" {
				users++
			}
		}
		if err != nil || users != 1 {
			t.Errorf("%d prompts, %v", users, err)
		}
		// Whatever becomes of the session, a repeat tells what the first request was told.
		req = api.CreateSessionRequest{Title: "again", IdempotencyKey: "k2"}
		first := y.create(ana, req)
		waits := req
		waits.Wait = "running"
		ran := y.create(ana, waits)
		if _, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: first.ID}); err != nil {
			t.Fatal(err)
		}
		if s := y.create(ana, req); s.State != api.StatePending || s.Rev != first.Rev || !s.CreatedAt.Equal(first.CreatedAt) {
			t.Errorf("first %+v, then %+v", first, s)
		}
		if s := y.create(ana, waits); s.State != api.StateRunning || s.Rev > ran.Rev {
			t.Errorf("first %+v, then %+v", ran, s)
		}
		other := y.create(y.as("ben"), api.CreateSessionRequest{Title: "once", IdempotencyKey: "k1"})
		if other.ID == ids[0] {
			t.Error("another's key met this session")
		}
		req = api.CreateSessionRequest{Title: "twice", Prompt: "echo 1", IdempotencyKey: "k1"}
		_, err = rpc.Call(ana, y.client, api.CreateSession, req)
		wantCode(t, err, api.CodeConflict, "another request")
	})
	t.Run("blames every field that is wrong", func(t *testing.T) {
		many := map[string]string{}
		for i := range 33 {
			many[fmt.Sprint("l", i)] = ""
		}
		for _, c := range []struct {
			pointer string
			req     api.CreateSessionRequest
		}{
			{"/title", api.CreateSessionRequest{Title: strings.Repeat("t", 201)}},
			{"/title", api.CreateSessionRequest{Title: "two\nlines"}},
			{"/prompt", api.CreateSessionRequest{Prompt: strings.Repeat("p", 1<<20+1)}},
			{"/labels", api.CreateSessionRequest{Labels: many}},
			{"/labels/agentyard.dev~1x", api.CreateSessionRequest{Labels: map[string]string{"agentyard.dev/x": "1"}}},
			{"/labels/sp ace", api.CreateSessionRequest{Labels: map[string]string{"sp ace": "1"}}},
			{"/labels/k", api.CreateSessionRequest{Labels: map[string]string{"k": strings.Repeat("v", 256)}}},
			{"/env/LD_PRELOAD", api.CreateSessionRequest{Env: map[string]string{"LD_PRELOAD": "/tmp/x.so"}}},
			{"/env/ld_audit", api.CreateSessionRequest{Env: map[string]string{"ld_audit": "x"}}},
			{"/env/AGENTYARD_KEY", api.CreateSessionRequest{Env: map[string]string{"AGENTYARD_KEY": "x"}}},
			{"/env/1A", api.CreateSessionRequest{Env: map[string]string{"1A": "x"}}},
			{"/env/A=B", api.CreateSessionRequest{Env: map[string]string{"A=B": "x"}}},
			{"/env", api.CreateSessionRequest{Env: map[string]string{"A": strings.Repeat("v", 33<<10)}}},
			{"/agent/kind", api.CreateSessionRequest{Agent: &api.Agent{Kind: "moon"}}},
			{"/agent/command", api.CreateSessionRequest{Agent: &api.Agent{Kind: "acp"}}},
			{"/agent/command", api.CreateSessionRequest{Agent: &api.Agent{Kind: "custom"}, Wait: "running"}},
			{"/agent/args/0", api.CreateSessionRequest{Agent: &api.Agent{Args: []string{"a\x00b"}}}},
			{"/profile", api.CreateSessionRequest{Profile: "none"}},
			{"/profile", api.CreateSessionRequest{Profile: "../default"}},
			{"/repository/url", api.CreateSessionRequest{Repository: &api.Repository{}}},
			{"/repository/url", api.CreateSessionRequest{Repository: &api.Repository{URL: "ext::sh -c id"}}},
			{"/repository/ref", api.CreateSessionRequest{Repository: &api.Repository{URL: "https://example.com/a.git", Ref: "--upload-pack=x"}}},
			{"/repository/depth", api.CreateSessionRequest{Repository: &api.Repository{URL: "https://example.com/a.git", Depth: -2}}},
			{"/ttl", api.CreateSessionRequest{TTL: -1}},
			{"/idle_timeout", api.CreateSessionRequest{IdleTimeout: api.Duration(time.Millisecond)}},
			{"/wait", api.CreateSessionRequest{Wait: "forever"}},
		} {
			c.req.Title += "" // each is wrong in one place
			_, err := rpc.Call(ana, y.client, api.CreateSession, c.req)
			e := api.Redact(err)
			if e.Code != api.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Pointer != c.pointer {
				t.Errorf("%s: %v %+v", c.pointer, err, e.Fields)
			}
		}
		_, err := rpc.Call(ana, y.client, api.CreateSession, api.CreateSessionRequest{Title: "a\nb", Wait: "x", TTL: -1})
		if e := api.Redact(err); len(e.Fields) != 3 {
			t.Errorf("three faults, told of %+v", e.Fields)
		}
	})
	t.Run("needs the permission", func(t *testing.T) {
		_, err := rpc.Call(y.as("vic", api.RoleViewer), y.client, api.CreateSession, api.CreateSessionRequest{})
		wantCode(t, err, api.CodeDenied, "")
		_, err = rpc.Call(t.Context(), y.client, api.CreateSession, api.CreateSessionRequest{})
		wantCode(t, err, api.CodeUnauthenticated, "")
	})
	t.Run("the answer holds no secrets", func(t *testing.T) {
		s := y.create(ana, api.CreateSessionRequest{Env: map[string]string{"TOKEN": "hush"}, Wait: "running"})
		page, err := rpc.Call(ana, y.client, api.SessionHistory, api.HistoryRequest{ID: s.ID})
		if text := fmt.Sprintf("%+v %+v", s, page); err != nil || strings.Contains(text, "hush") || strings.Contains(text, "unix:") {
			t.Errorf("%v: %s", err, text)
		}
		run := y.send(ana, s.ID, "run echo it is $TOKEN; echo ld $LD_PRELOAD")
		if got := y.answer(ana, s.ID, run.ID); !strings.Contains(got, "it is hush") {
			t.Errorf("the agent's environment lacks it: %q", got)
		}
	})
}

func TestQuota(t *testing.T) {
	y := newYard(t, func(c *sessions.Config) { c.MaxPerUser, c.MaxPerTenant = 3, 5 })
	ana, ben := y.as("ana"), y.as("ben")
	// More at once than there are places: exactly as many as there are get one.
	var mu sync.Mutex
	var made []string
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			s, err := rpc.Call(ana, y.client, api.CreateSession, api.CreateSessionRequest{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, s.ID)
			} else {
				wantCode(t, err, api.CodeExhausted, "3 sessions of yours")
			}
		})
	}
	wg.Wait()
	if len(made) != 3 {
		t.Fatalf("%d sessions", len(made))
	}
	for range 2 {
		y.create(ben, api.CreateSessionRequest{})
	}
	_, err := rpc.Call(ben, y.client, api.CreateSession, api.CreateSessionRequest{})
	wantCode(t, err, api.CodeExhausted, "of your organisation")
	y.create(y.as("other/zoe"), api.CreateSessionRequest{}) // another tenant's count is its own
	if _, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: made[0]}); err != nil {
		t.Fatal(err)
	}
	y.reaches(ana, made[0], api.StateTerminated)
	y.create(ana, api.CreateSessionRequest{}) // an ended session gives its place back
	if _, err := rpc.Call(y.as("other/zoe", api.RoleAdmin), y.client, api.ListSessions, api.ListSessionsRequest{}); err != nil {
		t.Fatal(err)
	}
	zoes, _ := rpc.Call(y.as("other/zoe"), y.client, api.ListSessions, api.ListSessionsRequest{})
	for _, s := range zoes.Items {
		_, _ = rpc.Call(y.as("other/zoe"), y.client, api.DeleteSession, api.SessionRef{ID: s.ID})
		y.reaches(y.as("other/zoe"), s.ID, api.StateTerminated)
	}
}
