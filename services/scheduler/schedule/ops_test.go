package schedule

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	if err == nil || api.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestOperations(t *testing.T) {
	y := newYard(t, noon)
	r := y.start()
	eve := api.Principal{ID: "ueve", Tenant: "acme", Roles: []api.Role{api.RoleMember}}
	admin := api.Principal{ID: "uadmin", Tenant: "acme", Roles: []api.Role{api.RoleAdmin}}
	other := api.Principal{ID: "uada", Tenant: "other", Roles: []api.Role{api.RoleAdmin}}

	t.Run("create refuses what could not fire, and says where", func(t *testing.T) {
		deadline := time.Now()
		for pointer, change := range map[string]func(*api.ScheduleSpec){
			"/cron":            func(s *api.ScheduleSpec) { s.Cron = "0 0 30 2 *" },
			"/timezone":        func(s *api.ScheduleSpec) { s.Timezone = "Mars/Olympus" },
			"/overlap":         func(s *api.ScheduleSpec) { s.Overlap = "sometimes" },
			"/catch_up":        func(s *api.ScheduleSpec) { s.CatchUp = api.Duration(1000 * time.Hour) },
			"/jitter":          func(s *api.ScheduleSpec) { s.Jitter = -1 },
			"/pause_after":     func(s *api.ScheduleSpec) { s.PauseAfter = 1000 },
			"/title":           func(s *api.ScheduleSpec) { s.Title = strings.Repeat("x", 201) },
			"/task/deadline":   func(s *api.ScheduleSpec) { s.Task.Deadline = &deadline },
			"/task/not_before": func(s *api.ScheduleSpec) { s.Task.NotBefore = &deadline },
			"/task/depends_on": func(s *api.ScheduleSpec) { s.Task.DependsOn = []string{"x"} },
			"/task/prompt":     func(s *api.ScheduleSpec) { s.Task.Command = "" },
		} {
			sp := spec("@daily")
			change(&sp)
			_, err := r.create(as(ada), api.CreateScheduleRequest{ScheduleSpec: sp})
			wantCode(t, err, api.CodeInvalid)
			if e := api.Redact(err); len(e.Fields) != 1 || e.Fields[0].Pointer != pointer {
				t.Errorf("%s: blames %+v", pointer, e.Fields)
			}
		}
	})
	t.Run("a repeated create is one schedule", func(t *testing.T) {
		req := api.CreateScheduleRequest{ScheduleSpec: spec("@daily"), IdempotencyKey: "k"}
		a, err := r.create(as(ada), req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.create(as(ada), req)
		if err != nil || a.ID != b.ID {
			t.Errorf("%s and %s, %v", a.ID, b.ID, err)
		}
		req.Cron = "@hourly"
		_, err = r.create(as(ada), req)
		wantCode(t, err, api.CodeConflict)
		if _, err := r.delete(as(ada), api.ScheduleRef{ID: a.ID}); err != nil {
			t.Fatal(err)
		}
	})
	sp := spec("30 2 * * *")
	sp.Timezone, sp.Title, sp.Task.Env = "Europe/Berlin", "nightly", map[string]string{"TOKEN": "secret"}
	made := r.make(t, sp)
	t.Run("it is shown with its next five times, without its environment", func(t *testing.T) {
		got, err := r.get(as(ada), api.ScheduleRef{ID: made.ID})
		if err != nil || len(got.Next) != 5 || got.Task.Env != nil || got.Rev == 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		if at := got.Next[0].Format(time.RFC3339); at != "2026-05-05T00:30:00Z" {
			t.Errorf("next: %s", at)
		}
		h, err := r.history(as(ada), api.HistoryRequest{ID: made.ID})
		if err != nil || len(h.Items) != 1 || h.Items[0].Verb != "create" || h.Items[0].State.Task.Env != nil {
			t.Errorf("history %+v, %v", h, err)
		}
	})
	t.Run("only its owner and admins of the tenant see it", func(t *testing.T) {
		for _, p := range []api.Principal{eve, other} {
			_, err := r.get(as(p), api.ScheduleRef{ID: made.ID})
			wantCode(t, err, api.CodeNotFound)
			_, err = r.delete(as(p), api.ScheduleRef{ID: made.ID})
			wantCode(t, err, api.CodeNotFound)
			_, err = r.run(as(p), api.RunScheduleRequest{ID: made.ID})
			wantCode(t, err, api.CodeNotFound)
			if l, err := r.list(as(p), api.ListSchedulesRequest{}); err != nil || len(l.Items) != 0 {
				t.Errorf("%s lists %+v, %v", p.ID, l, err)
			}
			if l, err := r.list(as(p), api.ListSchedulesRequest{Owner: ada.ID}); err != nil || len(l.Items) != 0 {
				t.Errorf("%s lists %+v, %v", p.ID, l, err)
			}
		}
		if _, err := r.get(as(admin), api.ScheduleRef{ID: made.ID}); err != nil {
			t.Error(err)
		}
	})
	t.Run("lists page by page", func(t *testing.T) {
		second := r.make(t, spec("@hourly"))
		var got []string
		req := api.ListSchedulesRequest{List: api.List{Limit: 1}}
		for {
			page, err := r.list(as(admin), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range page.Items {
				got = append(got, s.ID)
			}
			if req.Cursor = page.NextCursor; req.Cursor == "" {
				break
			}
		}
		if !slices.Equal(got, []string{second.ID, made.ID}) {
			t.Errorf("got %v", got)
		}
		if l, err := r.list(as(ada), api.ListSchedulesRequest{Query: "NIGHT"}); err != nil || len(l.Items) != 1 || l.Items[0].ID != made.ID {
			t.Errorf("search: %+v, %v", l, err)
		}
		_, err := r.list(as(ada), api.ListSchedulesRequest{List: api.List{Cursor: "!"}})
		wantCode(t, err, api.CodeInvalid)
	})
	t.Run("an update keeps what it does not name, the environment too", func(t *testing.T) {
		task := made.Task
		task.Env, task.Title = nil, "new"
		expr := "0 4 * * *"
		got, err := r.update(as(ada), api.UpdateScheduleRequest{ID: made.ID, Cron: &expr, Task: &task})
		if err != nil || got.Title != "nightly" || got.Next[0].Format(time.TimeOnly) != "02:00:00" {
			t.Fatalf("%+v, %v", got, err)
		}
		e, _ := r.view.Get(keyOf(made))
		if e.State.Task.Env["TOKEN"] != "secret" || e.State.Task.Title != "new" {
			t.Errorf("task %+v", e.State.Task)
		}
		bad := "x"
		_, err = r.update(as(ada), api.UpdateScheduleRequest{ID: made.ID, Cron: &bad})
		wantCode(t, err, api.CodeInvalid)
		_, err = r.update(as(ada), api.UpdateScheduleRequest{ID: made.ID, IfMatch: 1, Title: &bad})
		wantCode(t, err, api.CodeConflict)
	})
	t.Run("runs now, once for one idempotency key, paused or not", func(t *testing.T) {
		if s, err := r.pause(as(ada), api.ScheduleRef{ID: made.ID}); err != nil || !s.Paused || s.Next != nil {
			t.Fatalf("%+v, %v", s, err)
		}
		req := api.RunScheduleRequest{ID: made.ID, IdempotencyKey: "once"}
		a, err := r.run(as(admin), req)
		if err != nil || a.Owner != ada.ID || a.Schedule != made.ID {
			t.Fatalf("%+v, %v", a, err)
		}
		b, err := r.run(as(admin), req)
		if err != nil || a.ID != b.ID {
			t.Errorf("%s and %s, %v", a.ID, b.ID, err)
		}
	})
	t.Run("tells times", func(t *testing.T) {
		got, err := r.next(as(ada), api.NextTimesRequest{ID: made.ID, Count: 2})
		if err != nil || len(got.Items) != 2 || got.Items[1].Sub(got.Items[0]) != 24*time.Hour {
			t.Errorf("%+v, %v", got, err)
		}
		at := time.Date(2026, 3, 7, 0, 0, 0, 0, time.UTC)
		got, err = r.preview(as(ada), api.PreviewScheduleRequest{Cron: "30 2 * * *", Timezone: "America/New_York", Count: 2, After: at})
		if err != nil || got.Items[1].Format(time.RFC3339) != "2026-03-08T07:00:00Z" {
			t.Errorf("%+v, %v", got, err)
		}
		_, err = r.preview(as(ada), api.PreviewScheduleRequest{Cron: "@daily", Count: 101})
		wantCode(t, err, api.CodeInvalid)
	})
	t.Run("what is deleted fires no more", func(t *testing.T) {
		s := r.make(t, spec("* * * * *"))
		keep := r.make(t, spec("* * * * *"))
		if _, err := r.delete(as(ada), api.ScheduleRef{ID: s.ID}); err != nil {
			t.Fatal(err)
		}
		y.clock.Move(time.Minute)
		r.state(t, keep.ID, "a fire", fired(1))
		if ids := r.ids(t, s.ID); len(ids) != 0 {
			t.Errorf("it made %v", ids)
		}
	})
}

func TestOwnerGone(t *testing.T) {
	y := newYard(t, noon)
	r := y.start(func(d *Deps) {
		d.Allowed = func(_ context.Context, o Owner) error { return api.Errorf(api.CodeDenied, "%s is disabled", o.ID) }
	})
	s := r.make(t, spec("* * * * *"))
	y.clock.Move(time.Minute)
	if now := r.state(t, s.ID, "the pause", func(s api.Schedule) bool { return s.Paused }); !strings.Contains(now.PausedReason, "uada is disabled") || now.Fires != 0 {
		t.Errorf("%+v", now)
	}
}

func TestPlan(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 30, 0, time.UTC)
	of := func(expr string, catchUp, jitter time.Duration) plan {
		p, err := planOf(api.Schedule{ID: "cx", CreatedAt: now, ScheduleSpec: api.ScheduleSpec{Cron: expr, CatchUp: api.Duration(catchUp), Jitter: api.Duration(jitter)}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("jitter is the same each time, within its bound, and not the same for all", func(t *testing.T) {
		p, seen := of("* * * * *", 0, time.Minute), map[time.Duration]bool{}
		for _, at := range p.times.NextN(now, 50) {
			d := p.due(at).Sub(at)
			if d < 0 || d >= time.Minute || p.due(at).Sub(at) != d {
				t.Errorf("%v later", d)
			}
			seen[d] = true
		}
		if len(seen) < 40 {
			t.Errorf("only %d different ones", len(seen))
		}
	})
	t.Run("of a long absence the latest are made up for", func(t *testing.T) {
		p := of("* * * * *", 7*24*time.Hour, 0)
		fires, passed, missed := p.overdue(now.Add(-24*time.Hour), now)
		if len(fires) != api.MaxCatchUpFires || missed != 24*60-api.MaxCatchUpFires || !fires[0].Equal(passed.Add(time.Minute)) || !fires[99].Equal(now.Truncate(time.Minute)) {
			t.Errorf("%d fires from %v to %v, %d missed up to %v", len(fires), fires[0], fires[99], missed, passed)
		}
	})
	t.Run("of a very long one not each is counted", func(t *testing.T) {
		fires, passed, missed := of("* * * * * *", 0, 0).overdue(now.AddDate(-1, 0, 0), now)
		if len(fires) != api.MaxCatchUpFires || !fires[99].Equal(now) || !passed.Equal(fires[0].Add(-time.Second)) || missed < mostCounted {
			t.Errorf("%d fires, %d missed up to %v", len(fires), missed, passed)
		}
	})
	t.Run("nothing is due when time goes back", func(t *testing.T) {
		if fires, _, missed := of("* * * * *", 0, 0).overdue(now, now.Add(-time.Hour)); len(fires) != 0 || missed != 0 {
			t.Errorf("%v, %d", fires, missed)
		}
	})
}
