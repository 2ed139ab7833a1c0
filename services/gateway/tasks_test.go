package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

// board is the scheduler's part of a yard.
type board struct {
	y     *yard
	tasks *bus.Ledger[api.TaskRecord]
	blobs *bus.Blobs
}

func (y *yard) board() *board {
	y.t.Helper()
	conn := bustest.Connect(y.t, y.srv, y.ring, "scheduler")
	b := &board{y: y}
	var err error
	b.tasks, err = bus.OpenLedger[api.TaskRecord](timeout(y.t), conn, bus.LedgerConfig{Noun: "tasks", History: 16})
	must(y.t, err)
	b.blobs, err = bus.OpenBlobs(timeout(y.t), conn, bus.BlobsConfig{})
	must(y.t, err)
	store := trust.New(conn, quiet)
	start(y.t, store.Run)
	server := rpc.NewServer(conn, rpc.ServerConfig{Service: "scheduler", Auth: token.NewVerifier(store, store, nil), Logger: quiet})
	rpc.Handle(server, api.GetTask, func(ctx context.Context, req api.TaskRef) (api.Task, error) {
		p, _ := api.PrincipalFrom(ctx)
		e, err := b.tasks.Get(ctx, bus.Key{Tenant: p.Tenant, ID: req.ID})
		if err != nil || !p.CanOn(api.TaskRead, e.Key.Tenant, e.State.Owner) {
			return api.Task{}, api.Errorf(api.CodeNotFound, "there is no such task")
		}
		return e.State.Task, nil
	})
	start(y.t, server.Run)
	must(y.t, server.Ready(timeout(y.t)))
	return b
}

// task makes a queued task of owner's.
func (b *board) task(owner string) (key bus.Key, rev uint64) {
	b.y.t.Helper()
	p := b.y.keys[owner]
	key = bus.Key{Tenant: p.Tenant, ID: api.NewID(api.KindTask)}
	rec := api.TaskRecord{Task: api.Task{ID: key.ID, Tenant: key.Tenant, Owner: p.ID, State: api.TaskQueued}}
	rec.Env = map[string]string{"TOKEN": "hidden"}
	e, err := b.tasks.Create(timeout(b.y.t), key, bus.Meta{Actor: p.ID, Verb: "create"}, rec)
	must(b.y.t, err)
	return key, e.Rev
}

func (b *board) change(key bus.Key, f func(*api.TaskRecord)) {
	b.y.t.Helper()
	_, err := b.tasks.Update(timeout(b.y.t), key, bus.Meta{Actor: "test", Verb: "change"}, func(r api.TaskRecord) (api.TaskRecord, error) {
		f(&r)
		return r, nil
	})
	must(b.y.t, err)
}

// told is a stream's events in short: the state of a task's change, the content of a session's message.
func told(t *testing.T, evs []sseEvent) (short []string) {
	t.Helper()
	for _, ev := range evs {
		if ev.event != "task" {
			short = append(short, ev.decode(t).Content)
			continue
		}
		_, rest, _ := strings.Cut(ev.data, `"state":"`)
		state, _, _ := strings.Cut(rest, `"`)
		short = append(short, state)
	}
	return short
}

func TestTaskEvents(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	key, rev := b.task("alice-key")
	path := "/api/v1/tasks/" + key.ID + "/events"
	wants := func(what string, s *sse, want ...string) []sseEvent {
		t.Helper()
		evs := s.want(len(want))
		if got := told(t, evs); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		return evs
	}
	ends := func(what string, s *sse) {
		t.Helper()
		if ev, more := s.next(); more {
			t.Errorf("%s goes on with %+v", what, ev)
		}
	}
	s := openSSE(t, g, "alice-key", path)
	first := wants("a task that waits", s, "queued")[0]
	if first.id != fmt.Sprintf("%d.0", rev) || strings.Contains(first.data, "hidden") {
		t.Errorf("%+v", first)
	}
	sid := y.session(g, "alice-key", "")
	y.say("alice-key", sid, 0, 2)
	b.change(key, func(r *api.TaskRecord) { r.State, r.SessionID = api.TaskAssigned, sid })
	evs := wants("a task that runs", s, "assigned", "m0", "m1")
	y.say("alice-key", sid, 2, 1)
	wants("what its session says", s, "m2")
	y.say("alice-key", sid, 3, 1)
	b.change(key, func(r *api.TaskRecord) { r.State = api.TaskSucceeded })
	wants("its end, after all that was said", s, "m3", "succeeded")
	ends("the stream of a task that has ended", s)

	for id, want := range map[string][]string{
		first.id:  {"assigned", "m0", "m1", "m2", "m3", "succeeded"},
		evs[1].id: {"m1", "m2", "m3", "succeeded"},
	} {
		r := openSSE(t, g, "alice-key", path, "Last-Event-ID", id)
		wants("resumed after "+id, r, want...)
		ends("the resumed stream", r)
	}
	for who, want := range map[string]int{"bob-key": http.StatusNotFound, "evil-key": http.StatusNotFound, "": http.StatusUnauthorized} {
		if resp, _ := call(t, g, who, "GET", path, nil); resp.StatusCode != want {
			t.Errorf("%q gets status %d", who, resp.StatusCode)
		}
	}
	if resp, _ := call(t, g, "alice-key", "GET", path+"?after=x", nil); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a bad start: status %d", resp.StatusCode)
	}
}

// TestTaskEventsOfASharedSession: a task's events are its own part of its session's log, whatever else the session was, is and will be used for.
func TestTaskEventsOfASharedSession(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	sid := y.session(g, "alice-key", "")
	says := func(evs ...api.Event) {
		t.Helper()
		for _, ev := range evs {
			ev.At = time.Now()
			_, _, err := y.log.AppendUser(timeout(t), y.keys["alice-key"].Tenant, sid, "", ev)
			must(t, err)
		}
	}
	sent := func(id string) api.Event {
		return api.Event{Type: api.EventUserMessage, MessageID: id, Content: id + " is sent"}
	}
	begins := func(id string) api.Event {
		return api.Event{Type: api.EventStatus, Activity: api.ActivityWorking, ReplyTo: id, Content: id + " begins"}
	}
	does := func(id string) api.Event {
		return api.Event{Type: api.EventToolCall, ReplyTo: id, Content: id + " does"}
	}
	ends := func(id string) api.Event {
		return api.Event{Type: api.EventStatus, Activity: api.ActivityIdle, ReplyTo: id, Content: id + " ends"}
	}
	aside := func(what string) api.Event { return api.Event{Type: api.EventStatus, Content: what} }

	run := func(message string, shared bool) string {
		t.Helper()
		key, _ := b.task("alice-key")
		b.change(key, func(r *api.TaskRecord) {
			r.State, r.SessionID, r.Message, r.SessionShared = api.TaskAssigned, sid, message, shared
		})
		return "/api/v1/tasks/" + key.ID + "/events"
	}
	check := func(what, path string, want ...string) []sseEvent {
		t.Helper()
		s := openSSE(t, g, "alice-key", path+"?follow=false")
		evs := s.want(len(want))
		if got := told(t, evs); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		if ev, more := s.next(); more {
			t.Errorf("%s goes on with %+v", what, ev)
		}
		return evs
	}
	first, second, third := run("one", false), run("two", true), run("three", true)
	live := openSSE(t, g, "alice-key", second)
	says(aside("it starts"), sent("one"), begins("one"), sent("two"), does("one"), aside("it restarts"), begins("one"), ends("one"))
	check("what is under way", second, "queued", "assigned", "two is sent", "it restarts")
	says(begins("two"), sent("a person's"), does("two"), sent("three"), ends("two"), aside("it rests"), begins("a person's"), does("a person's"), ends("a person's"), begins("three"), does("three"))
	check("the session's own", first, "queued", "assigned", "it starts", "one is sent", "one begins", "one does", "it restarts", "one begins", "one ends")
	part := []string{"queued", "assigned", "two is sent", "it restarts", "two begins", "two does", "two ends"}
	evs := check("one between others", second, part...)
	if got := told(t, live.want(len(part))); !slices.Equal(got, part) {
		t.Errorf("live: %q, want %q", got, part)
	}
	for i := 2; i < len(evs); i++ {
		r := openSSE(t, g, "alice-key", second+"?follow=false", "Last-Event-ID", evs[i].id)
		if got := told(t, r.want(len(part)-1-i)); !slices.Equal(got, part[i+1:]) {
			t.Errorf("resumed after %q: %q, want %q", part[i], got, part[i+1:])
		}
		if ev, more := r.next(); more {
			t.Errorf("resumed after %q it goes on with %+v", part[i], ev)
		}
	}
	check("one that goes on", third, "queued", "assigned", "three is sent", "it rests", "three begins", "three does")
}

// TestTaskEventsOfOneWhoMayNoMore: a stream ends when its credential, asked for again, does not allow the task any more.
func TestTaskEventsOfOneWhoMayNoMore(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	y.key("chief-key", api.Principal{ID: id("u", "chief"), Tenant: "acme", Roles: []api.Role{api.RoleAdmin}, Key: id("k", "chief")})
	key, _ := b.task("alice-key")
	s := openSSE(t, g, "chief-key", "/api/v1/tasks/"+key.ID+"/events")
	s.want(1)
	for _, st := range g.streams.snapshot() { // as ask does
		less := *st.who.Load()
		less.Roles = []api.Role{api.RoleMember}
		st.who.Store(&less)
	}
	b.change(key, func(r *api.TaskRecord) { r.Title = "a secret" })
	if ev, ok := s.next(); !ok || ev.event != "error" || !strings.Contains(ev.data, string(api.CodeNotFound)) {
		t.Errorf("%+v %t", ev, ok)
	}
}

func TestArtifacts(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	key, _ := b.task("alice-key")
	content := strings.Repeat("0123456789abcdef", 100_000) // of several parts
	blob, err := b.blobs.Put(timeout(t), key.Tenant, key.ID, strings.NewReader(content), 1<<30)
	must(t, err)
	file := api.TaskArtifact{Path: "reports/a ü.txt", Size: blob.Size, SHA256: blob.SHA256, Blob: blob.ID}
	longer, foreign := file, file
	longer.Path, longer.Size = "longer", file.Size+1
	b.change(key, func(r *api.TaskRecord) {
		r.State, r.Result = api.TaskSucceeded, &api.TaskResult{Artifacts: []api.TaskArtifact{file, longer}}
	})
	// Another tenant's task that names the blob: its record cannot be written by who asks, and would not help.
	evil, _ := b.task("evil-key")
	b.change(evil, func(r *api.TaskRecord) { r.Result = &api.TaskResult{Artifacts: []api.TaskArtifact{foreign}} })
	base := "/api/v1/tasks/" + key.ID + "/artifacts/"
	const name = "reports/a%20%C3%BC.txt"

	resp, body := call(t, g, "alice-key", "GET", base+name, nil)
	if resp.StatusCode != http.StatusOK || body != content {
		t.Fatalf("status %d, %d bytes", resp.StatusCode, len(body))
	}
	for header, want := range map[string]string{
		"Content-Type": "application/octet-stream", "Content-Disposition": "attachment; filename*=UTF-8''a%20%C3%BC.txt",
		"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff",
	} {
		if got := resp.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if again, body := call(t, g, "alice-key", "GET", base+name, nil, "If-None-Match", resp.Header.Get("ETag")); again.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("what the client has: status %d, %d bytes", again.StatusCode, len(body))
	}
	if head, _ := call(t, g, "alice-key", "HEAD", base+name, nil); head.StatusCode != http.StatusOK || head.ContentLength != file.Size {
		t.Errorf("HEAD: status %d, length %d", head.StatusCode, head.ContentLength)
	}
	for _, c := range []struct {
		who, path string
		want      int
	}{
		{"alice-key", base + "reports/other.txt", http.StatusNotFound},
		{"alice-key", base + blob.ID, http.StatusNotFound},
		{"bob-key", base + name, http.StatusNotFound},
		{"evil-key", base + name, http.StatusNotFound},
		{"evil-key", "/api/v1/tasks/" + evil.ID + "/artifacts/" + name, http.StatusNotFound},
		{"", base + name, http.StatusUnauthorized},
	} {
		if resp, body := call(t, g, c.who, "GET", c.path, nil); resp.StatusCode != c.want || strings.Contains(body, content[:16]) || resp.Header.Get("Etag") != "" {
			t.Errorf("%q gets %s: status %d, %v", c.who, c.path, resp.StatusCode, resp.Header)
		}
	}
	t.Run("a file that is not what was kept is not taken for whole", func(t *testing.T) {
		req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, g.URL()+base+"longer", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer alice-key")
		resp, err := client.Do(req)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("its end came as if all were well")
		}
	})
}

func TestFeedOfTasks(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	mine, _ := b.task("alice-key")
	theirs, _ := b.task("bob-key")
	_, last := b.task("evil-key")
	y.session(g, "bob-key", "")
	until(t, "the gateway knows the tasks", func() bool { return g.tasks.head.Load() >= last })
	f := openSSE(t, g, "alice-key", "/sse?after=0")
	all := openSSE(t, g, "view-key", "/sse?after=0")
	if ev := f.want(1)[0]; ev.event != "task" || !strings.Contains(ev.data, mine.ID) || strings.Contains(ev.data, "hidden") {
		t.Errorf("%+v", ev)
	}
	if evs := all.want(3); evs[0].event != "session" || !strings.Contains(evs[1].data, mine.ID) || !strings.Contains(evs[2].data, theirs.ID) {
		t.Errorf("%+v", evs)
	}
	b.change(theirs, func(r *api.TaskRecord) { r.Title = "theirs" })
	b.change(mine, func(r *api.TaskRecord) { r.Title = "changed" })
	ev := f.want(1)[0]
	if !strings.Contains(ev.data, "changed") {
		t.Errorf("%+v", ev)
	}
	r := openSSE(t, g, "alice-key", "/sse?follow=false", "Last-Event-ID", ev.id)
	if ev, more := r.next(); more {
		t.Errorf("nothing has changed since, but %+v", ev)
	}
	t.Run("who may see their own visits nothing else", func(t *testing.T) {
		for who, want := range map[string][2]int{"alice-key": {0, 1}, "bob-key": {1, 1}, "view-key": {1, 2}} {
			p := y.keys[who]
			index, value := among(p, api.SessionRead)
			sessions := g.table.view.Len(index, value)
			index, value = among(p, api.TaskRead)
			if got := [2]int{sessions, g.tasks.view.Len(index, value)}; got != want {
				t.Errorf("%s visits %v sessions and tasks, want %v", who, got, want)
			}
		}
	})
	t.Run("a change is told to its tenant's readers only, and nobody is remembered who left", func(t *testing.T) {
		feed := newFeed()
		ours, others := feed.join("acme"), feed.join("evil")
		feed.notify(mine)
		if keys, _ := ours.take(); !slices.Equal(keys, []bus.Key{mine}) {
			t.Errorf("told %v", keys)
		}
		if keys, _ := others.take(); len(keys) != 0 {
			t.Errorf("another tenant is told %v", keys)
		}
		feed.leave(ours)
		feed.leave(others)
		if len(feed.readers) != 0 {
			t.Errorf("remembered: %v", feed.readers)
		}
	})
}
