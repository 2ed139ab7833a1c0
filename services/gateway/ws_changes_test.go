package gateway

import (
	"slices"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

// change returns the next frame, which must be a change.
func (w *ws) change() changeFrame {
	w.t.Helper()
	f := w.next()
	if f.Change == nil {
		w.t.Fatalf("not a change: %+v", f)
	}
	return *f.Change
}

// quiet checks that nothing has come before the answer to a ping.
func (w *ws) quiet(why string) {
	w.t.Helper()
	w.send(`{"op":"ping"}`)
	if f := w.next(); f.Pong == nil {
		w.t.Errorf("%s: %+v %s", why, f, f.Change)
	}
}

func TestFeedOnWebSocket(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	mine, _ := b.task("alice-key")
	theirs, _ := b.task("bob-key")
	_, last := b.task("evil-key")
	sid := y.session(g, "bob-key", "")
	until(t, "the gateway knows the tasks", func() bool { return g.tasks.head.Load() >= last })

	w, all := openWS(t, g, "alice-key"), openWS(t, g, "view-key")
	w.send(`{"op":"subscribe","feed":"tasks","ref":"r"}`)
	if f := w.next(); f.Ack == nil || f.Ack.Feed != "tasks" || f.Ack.Ref != "r" {
		t.Fatalf("first is %+v", f)
	}
	w.quiet("nothing has changed")
	all.send(`{"op":"subscribe","feed":"all","cursor":"0.0"}`)
	all.next()
	for i, want := range []string{sid, mine.ID, theirs.ID} { // of one tenant, whoever's
		if c := all.change(); !strings.Contains(string(c.Data), want) || c.Feed != "all" {
			t.Errorf("%d is %+v %s", i, c, c.Data)
		}
	}
	b.change(theirs, func(r *api.TaskRecord) { r.Title = "theirs" })
	b.change(mine, func(r *api.TaskRecord) { r.Title = "first" })
	first := w.change()
	if first.Type != "task" || first.Feed != "tasks" || !strings.Contains(string(first.Data), `"first"`) || strings.Contains(string(first.Data), "hidden") {
		t.Errorf("%+v %s", first, first.Data)
	}
	w.send(`{"op":"unsubscribe","feed":"tasks"}`)
	if f := w.next(); f.Ack == nil {
		t.Fatalf("%+v", f)
	}
	b.change(mine, func(r *api.TaskRecord) { r.Title = "second" })
	until(t, "the other one has all changes", func() bool { return strings.Contains(string(all.change().Data), `"second"`) })
	w.quiet("unsubscribed")

	t.Run("goes on after a cursor, on another connection", func(t *testing.T) {
		again := openWS(t, g, "alice-key")
		again.send(`{"op":"subscribe","feed":"tasks","cursor":%q}`, first.Cursor)
		again.next()
		c := again.change()
		if !strings.Contains(string(c.Data), `"second"`) {
			t.Errorf("%s", c.Data)
		}
		third := openWS(t, g, "alice-key")
		third.send(`{"op":"subscribe","feed":"tasks","cursor":%q}`, c.Cursor)
		third.next()
		third.quiet("nothing has changed since")
	})
	t.Run("sessions only", func(t *testing.T) {
		s := openWS(t, g, "view-key")
		s.send(`{"op":"subscribe","feed":"sessions","cursor":"0"}`)
		s.next()
		if c := s.change(); c.Type != "session" || !strings.Contains(string(c.Data), sid) {
			t.Errorf("%+v %s", c, c.Data)
		}
		s.quiet("there are no other sessions")
	})
	t.Run("refuses what is no feed", func(t *testing.T) {
		w := openWS(t, g, "alice-key")
		for _, frame := range []string{
			`{"op":"subscribe","feed":"users"}`, `{"op":"message","feed":"tasks","content":"x"}`, `{"op":"subscribe","feed":"tasks","after":1}`,
			`{"op":"subscribe","feed":"tasks","cursor":"x"}`, `{"op":"subscribe","feed":"tasks","task":"` + mine.ID + `"}`, `{"op":"subscribe","cursor":"1"}`,
			`{"op":"subscribe","task":"tasks"}`, `{"op":"subscribe","feed":"all","session":"` + sid + `"}`,
		} {
			w.send("%s", frame)
			if f := w.next(); f.Error == nil || f.Error.Code != api.CodeInvalid {
				t.Errorf("%s: %+v", frame, f)
			}
		}
		w.send(`{"op":"subscribe","feed":"tasks"}`)
		w.next()
		w.send(`{"op":"subscribe","feed":"tasks"}`)
		if f := w.next(); f.Error == nil || f.Error.Code != api.CodeConflict {
			t.Errorf("a second time: %+v", f)
		}
	})
}

func TestTaskOnWebSocket(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	key, _ := b.task("alice-key")
	sid := y.session(g, "alice-key", "")
	y.say("alice-key", sid, 0, 2)
	w := openWS(t, g, "alice-key")
	w.send(`{"op":"subscribe","task":%q}`, key.ID)
	if f := w.next(); f.Ack == nil || f.Ack.Task != key.ID {
		t.Fatalf("%+v", f)
	}
	short := func(w *ws, n int) (cursor string, got []string) {
		for range n {
			c := w.change()
			if c.Task != key.ID {
				t.Errorf("%+v", c)
			}
			got = append(got, told(t, []sseEvent{{event: string(c.Type), data: string(c.Data)}})...)
			cursor = c.Cursor
		}
		return cursor, got
	}
	if _, got := short(w, 1); !slices.Equal(got, []string{"queued"}) {
		t.Errorf("%v", got)
	}
	g.feed.mu.Lock()
	if n := len(g.feed.readers); n != 0 { // each of which remembers the keys of all that changes in the tenant
		t.Errorf("who follows one task reads the feeds of %d tenants", n)
	}
	g.feed.mu.Unlock()
	b.change(key, func(r *api.TaskRecord) { r.State, r.SessionID = api.TaskAssigned, sid })
	cursor, got := short(w, 2)
	if !slices.Equal(got, []string{"assigned", "m0"}) {
		t.Errorf("%v", got)
	}
	b.change(key, func(r *api.TaskRecord) { r.State = api.TaskSucceeded })
	if _, got := short(w, 2); !slices.Equal(got, []string{"m1", "succeeded"}) {
		t.Errorf("%v", got)
	}
	if f := w.next(); f.End == nil || f.End.Task != key.ID {
		t.Errorf("after its end: %+v", f)
	}
	again := openWS(t, g, "alice-key")
	again.send(`{"op":"subscribe","task":%q,"cursor":%q}`, key.ID, cursor)
	again.next()
	if _, got := short(again, 2); !slices.Equal(got, []string{"m1", "succeeded"}) {
		t.Errorf("resumed: %v", got)
	}
	for who, frame := range map[string]string{"bob-key": key.ID, "evil-key": key.ID} {
		other := openWS(t, g, who)
		other.send(`{"op":"subscribe","task":%q}`, frame)
		if f := other.next(); f.Error == nil || f.Error.Code != api.CodeNotFound {
			t.Errorf("%s: %+v", who, f)
		}
	}
}

// TestTaskOnWebSocketOfOneWhoMayNoMore: a subscription ends with the access, and the connection stays.
func TestTaskOnWebSocketOfOneWhoMayNoMore(t *testing.T) {
	y := newYard(t)
	b := y.board()
	g := y.gateway()
	y.key("chief-key", api.Principal{ID: id("u", "chief"), Tenant: "acme", Roles: []api.Role{api.RoleAdmin}, Key: id("k", "chief")})
	key, _ := b.task("alice-key")
	w := openWS(t, g, "chief-key")
	w.send(`{"op":"subscribe","task":%q}`, key.ID)
	w.next()
	w.change()
	until(t, "the gateway knows whose it is", func() bool { _, ok := g.tasks.view.Get(key); return ok })
	for _, st := range g.streams.snapshot() { // as ask does
		less := *st.who.Load()
		less.Roles = []api.Role{api.RoleMember}
		st.who.Store(&less)
		st.checkAccess(&less)
	}
	if f := w.next(); f.Error == nil || f.Error.Code != api.CodeNotFound || f.Error.Task != key.ID {
		t.Errorf("%+v", f)
	}
	w.quiet("it is over")
}
