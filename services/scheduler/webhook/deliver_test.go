package webhook

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/scheduler/schedule"
)

func TestDelivery(t *testing.T) {
	y := newYard(t)
	r := y.start()
	named := api.TaskSpec{
		Prompt: "a secret prompt", Env: map[string]string{"TOKEN": "a secret value"}, Title: "fix it",
		Notify: []api.TaskNotify{{Webhook: "named"}},
	}
	t.Run("a task's end goes to the webhook that it names, signed, without what was asked", func(t *testing.T) {
		to := newReceiver(t)
		secret := r.hook(t, ada, "named", to.URL)
		id := y.task(named, ada.ID, api.TaskAssigned, api.TaskRunning, api.TaskRunning, api.TaskSucceeded, api.TaskSucceeded)
		g := to.takes(t, 1)[0]
		if err := Verify(g.header, g.body, []string{secret}, y.clock.Now(), time.Minute); err != nil {
			t.Error(err)
		}
		n := g.notice
		if n.Type != "task.succeeded" || n.ID == "" || n.At.IsZero() || n.Tenant != "acme" || n.Task.ID != id || n.Task.Title != "fix it" {
			t.Errorf("notice %+v", n)
		}
		if strings.Contains(string(g.body), "secret") {
			t.Errorf("it says too much: %s", g.body)
		}
		d := r.delivery(t, ada, "named", "its end", in(api.DeliveryDelivered))
		if d.Attempts != 1 || d.Status != http.StatusNoContent || d.EventID != n.ID || g.header.Get(DeliveryHeader) != d.ID || g.header.Get(EventHeader) != n.Type {
			t.Errorf("delivery %+v, headers %v", d, g.header)
		}
		y.task(api.TaskSpec{Notify: []api.TaskNotify{{Webhook: "named", On: []api.TaskState{api.TaskRunning}}}}, ada.ID, api.TaskRunning, api.TaskFailed)
		if g := to.takes(t, 2); len(g) != 2 || g[1].notice.Type != "task.running" {
			t.Errorf("%d requests, the last %s", len(g), g[len(g)-1].notice.Type)
		}
	})
	t.Run("a webhook with events hears of its owner's tasks, an admin's of all", func(t *testing.T) {
		own, all := newReceiver(t), newReceiver(t)
		r.hook(t, ada, "own", own.URL, "task.failed")
		r.hook(t, admin, "all", all.URL, "task.*")
		theirs := y.task(api.TaskSpec{}, "ueve", api.TaskRunning, api.TaskFailed)
		mine := y.task(api.TaskSpec{}, ada.ID, api.TaskFailed)
		var types []string
		for _, g := range all.takes(t, 5) {
			types = append(types, g.notice.Task.ID+" "+g.notice.Type)
		}
		slices.Sort(types)
		want := []string{theirs + " task.failed", theirs + " task.queued", theirs + " task.running", mine + " task.failed", mine + " task.queued"}
		slices.Sort(want)
		if !slices.Equal(types, want) {
			t.Errorf("got %v, want %v", types, want)
		}
		if g := own.takes(t, 1); len(g) != 1 || g[0].notice.Task.ID != mine {
			t.Errorf("the owner's heard %+v", g)
		}
	})
	t.Run("one who is no admin any more hears of own tasks only", func(t *testing.T) {
		eve := api.Principal{ID: "uevil", Tenant: "acme", Roles: []api.Role{api.RoleAdmin}}
		key := bus.Key{Tenant: eve.Tenant, ID: eve.ID}
		if _, err := y.users.Create(t.Context(), key, bus.Meta{Verb: "create"}, trust.Account{Roles: eve.Roles}); err != nil {
			t.Fatal(err)
		}
		to := newReceiver(t)
		r.hook(t, eve, "before", to.URL, "task.failed")
		heard := y.task(api.TaskSpec{}, ada.ID, api.TaskFailed)
		if g := to.takes(t, 1); g[0].notice.Task.ID != heard {
			t.Fatalf("heard %+v", g)
		}
		for n, is := range []trust.Account{{Roles: []api.Role{api.RoleMember}}, {Roles: eve.Roles, Disabled: true}, {Roles: eve.Roles, Deleted: true}} {
			if _, err := y.users.Update(t.Context(), key, bus.Meta{Verb: "update"}, func(trust.Account) (trust.Account, error) { return is, nil }); err != nil {
				t.Fatal(err)
			}
			y.task(api.TaskSpec{}, ada.ID, api.TaskFailed)
			own := y.task(api.TaskSpec{}, eve.ID, api.TaskFailed) // after that
			if g := to.takes(t, n+2); len(g) != n+2 || g[n+1].notice.Task.ID != own {
				t.Errorf("%+v: heard %d, the last of %s", is, len(g), g[len(g)-1].notice.Task.Owner)
			}
		}
	})
	t.Run("a schedule that pauses itself is told", func(t *testing.T) {
		to := newReceiver(t)
		r.hook(t, ada, "paused", to.URL, "schedule.paused")
		ledger := bus.ReadLedger[api.Schedule](r.conn, "schedules")
		key := bus.Key{Tenant: "acme", ID: api.NewID(api.KindSchedule)}
		st := api.Schedule{ID: key.ID, Tenant: "acme", Owner: ada.ID, ScheduleSpec: api.ScheduleSpec{Task: named}}
		if _, err := ledger.Create(t.Context(), key, bus.Meta{Verb: "create"}, st); err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.Update(t.Context(), key, bus.Meta{Verb: schedule.VerbAutoPause}, func(s api.Schedule) (api.Schedule, error) {
			s.Paused, s.PausedReason = true, "it broke"
			return s, nil
		}); err != nil {
			t.Fatal(err)
		}
		r.Changed()
		g := to.takes(t, 1)[0]
		if g.notice.Type != "schedule.paused" || g.notice.Schedule.PausedReason != "it broke" || strings.Contains(string(g.body), "secret") {
			t.Errorf("%s", g.body)
		}
	})
	t.Run("a redirection is not followed", func(t *testing.T) {
		to, elsewhere := newReceiver(t), newReceiver(t)
		to.answer(http.StatusTemporaryRedirect, "Location", elsewhere.URL)
		r.hook(t, ada, "redirects", to.URL)
		if _, err := r.ping(as(ada), api.NameRef{Name: "redirects"}); err != nil {
			t.Fatal(err)
		}
		d := r.delivery(t, ada, "redirects", "an attempt", func(d api.Delivery) bool { return d.Attempts > 0 })
		if d.State != api.DeliveryPending || !strings.Contains(d.Problem, "redirects (307)") || len(elsewhere.requests()) > 0 {
			t.Errorf("%+v", d)
		}
	})
	t.Run("both secrets sign until the old one's time is over", func(t *testing.T) {
		to := newReceiver(t)
		old := r.hook(t, ada, "rotated", to.URL)
		w, err := r.rotate(as(ada), api.RotateWebhookRequest{Name: "rotated"})
		if err != nil || len(w.Secrets) != 2 || !strings.HasPrefix(w.Secret, w.Secrets[0].Prefix) {
			t.Fatalf("%+v, %v", w, err)
		}
		for _, c := range []struct {
			secret string
			want   bool
		}{{old, true}, {w.Secret, true}} {
			checkPing(t, y, r, to, "rotated", c.secret, c.want)
		}
		y.clock.Move(25 * time.Hour)
		checkPing(t, y, r, to, "rotated", old, false)
		checkPing(t, y, r, to, "rotated", w.Secret, true)
	})
	t.Run("what waits for a deleted or disabled webhook is given up", func(t *testing.T) {
		to := newReceiver(t)
		to.answer(http.StatusInternalServerError)
		r.hook(t, ada, "off", to.URL)
		if _, err := r.ping(as(ada), api.NameRef{Name: "off"}); err != nil {
			t.Fatal(err)
		}
		r.delivery(t, ada, "off", "an attempt", func(d api.Delivery) bool { return d.Attempts == 1 })
		yes := true
		if _, err := r.update(as(ada), api.UpdateWebhookRequest{Name: "off", Disabled: &yes}); err != nil {
			t.Fatal(err)
		}
		y.clock.Move(time.Minute)
		if d := r.delivery(t, ada, "off", "its end", in(api.DeliveryFailed)); !strings.Contains(d.Problem, "disabled") || len(to.requests()) != 1 {
			t.Errorf("%+v, %d requests", d, len(to.requests()))
		}
	})
}

func checkPing(t *testing.T, y *yard, r *replica, to *receiver, name, secret string, want bool) {
	t.Helper()
	n := len(to.requests())
	if _, err := r.ping(as(ada), api.NameRef{Name: name}); err != nil {
		t.Fatal(err)
	}
	g := to.takes(t, n+1)[n]
	if err := Verify(g.header, g.body, []string{secret}, y.clock.Now(), time.Minute); (err == nil) != want {
		t.Errorf("verified: %v, want %v", err, want)
	}
}

func TestRetry(t *testing.T) {
	y := newYard(t)
	r := y.start()
	t.Run("until it is taken, the same each time, later each time", func(t *testing.T) {
		to := newReceiver(t)
		to.answer(http.StatusServiceUnavailable)
		r.hook(t, ada, "late", to.URL, "task.failed")
		y.task(api.TaskSpec{}, ada.ID, api.TaskFailed)
		for n := 1; n <= 4; n++ {
			d := r.delivery(t, ada, "late", "an attempt", func(d api.Delivery) bool { return d.Attempts == n })
			if wait := d.NextAt.Sub(y.clock.Now()); wait < backoffMin<<(n-1)/2 || wait > backoffMin<<(n-1)*3/2 || d.Status != 503 {
				t.Errorf("after attempt %d it waits %v: %+v", n, wait, d)
			}
			if n == 4 {
				to.answer(http.StatusOK)
			}
			y.clock.Move(d.NextAt.Sub(y.clock.Now()) + pauseMax)
		}
		if d := r.delivery(t, ada, "late", "its end", in(api.DeliveryDelivered)); d.Attempts != 5 || d.Problem != "" || d.NextAt != nil {
			t.Errorf("%+v", d)
		}
		all := to.takes(t, 5)
		for _, g := range all {
			if string(g.body) != string(all[0].body) || g.header.Get(DeliveryHeader) != all[0].header.Get(DeliveryHeader) {
				t.Error("an attempt differs")
			}
		}
		if all[0].header.Get(SignatureHeader) == all[4].header.Get(SignatureHeader) {
			t.Error("an attempt is not signed anew")
		}
	})
	t.Run("until it has had its attempts, and anew when asked", func(t *testing.T) {
		to := newReceiver(t)
		to.answer(http.StatusBadGateway)
		r.hook(t, ada, "never", to.URL)
		d, err := r.ping(as(ada), api.NameRef{Name: "never"})
		if err != nil {
			t.Fatal(err)
		}
		failed := func(d api.Delivery) bool {
			y.clock.Move(2 * backoffMax) // for each attempt
			return d.State == api.DeliveryFailed
		}
		if d := r.delivery(t, ada, "never", "its end", failed); d.Attempts != maxAttempts || d.EndedAt == nil {
			t.Errorf("%+v", d)
		}
		to.answer(http.StatusOK)
		if _, err := r.redeliver(as(ada), api.RedeliverRequest{Name: "never", ID: d.ID}); err != nil {
			t.Fatal(err)
		}
		r.delivery(t, ada, "never", "its good end", func(d api.Delivery) bool {
			y.clock.Move(time.Hour)
			return d.State == api.DeliveryDelivered
		})
		if _, err := r.redeliver(as(ada), api.RedeliverRequest{Name: "never", ID: d.ID}); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("what was delivered is sent again: %v", err)
		}
	})
	t.Run("as long as the receiver asks, not at all when it is gone", func(t *testing.T) {
		to := newReceiver(t)
		to.answer(http.StatusTooManyRequests, "Retry-After", "600")
		r.hook(t, ada, "busy", to.URL)
		if _, err := r.ping(as(ada), api.NameRef{Name: "busy"}); err != nil {
			t.Fatal(err)
		}
		d := r.delivery(t, ada, "busy", "an attempt", func(d api.Delivery) bool { return d.Attempts == 1 })
		if wait := d.NextAt.Sub(y.clock.Now()); wait != 10*time.Minute {
			t.Errorf("it waits %v", wait)
		}
		to.answer(http.StatusGone)
		y.clock.Move(11 * time.Minute)
		if d := r.delivery(t, ada, "busy", "its end", in(api.DeliveryFailed)); d.Attempts != 2 {
			t.Errorf("%+v", d)
		}
	})
}

// TestDeadReceiver shows that a receiver that hangs delays nobody else.
func TestDeadReceiver(t *testing.T) {
	y := newYard(t)
	r := y.start()
	hang := make(chan struct{})
	begun := make(chan struct{}, 1000)
	dead := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		begun <- struct{}{}
		select {
		case <-hang:
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(dead.Close)
	t.Cleanup(func() { close(hang) })
	alive := newReceiver(t)
	start := time.Now()
	r.hook(t, admin, "dead", dead.URL, "task.failed")
	for range 50 {
		y.task(api.TaskSpec{}, ada.ID, api.TaskFailed)
	}
	<-begun // it holds what it was given
	r.hook(t, admin, "alive", alive.URL, "task.failed")
	for range 50 {
		y.task(api.TaskSpec{}, ada.ID, api.TaskFailed)
	}
	alive.takes(t, 50)
	took := time.Since(start) // others begin when the first are given up
	if n, most := len(begun)+1, perEndpoint*(1+int(took/attemptTimeout)); n > most {
		t.Errorf("the dead one was given %d deliveries in %s, want at most %d", n, took, most)
	}
}

// TestKills lets leaders die at random while tasks end and the receiver fails now and then: each event arrives.
func TestKills(t *testing.T) {
	const rounds, each = 4, 40
	y := newYard(t)
	to := newReceiver(t)
	current := y.start()
	current.hook(t, ada, "w", to.URL, "task.succeeded")
	var want []string
	for round := range rounds {
		current.leads(t)
		next := y.start()
		for i := range each {
			want = append(want, y.task(api.TaskSpec{}, ada.ID, api.TaskSucceeded))
			if i == each/4 {
				to.answer(http.StatusInternalServerError)
			}
			if i == each/2 {
				to.answer(http.StatusOK)
			}
			if i == each*(round+1)/(rounds+1) {
				current.die()
			}
		}
		current = next
	}
	slices.Sort(want)
	var heard []string
	until(t, "all events", func() bool {
		y.clock.Move(time.Minute)
		current.Changed()
		heard = heard[:0]
		for _, g := range to.requests() {
			heard = append(heard, g.notice.Task.ID)
		}
		slices.Sort(heard)
		heard = slices.Compact(heard)
		return len(heard) == len(want)
	})
	if !slices.Equal(heard, want) {
		t.Error("other events than those that happened")
	}
	events := map[string]string{}
	for _, g := range to.requests() {
		if id, known := events[g.notice.Task.ID]; known && id != g.notice.ID {
			t.Errorf("task %s ended in two events", g.notice.Task.ID)
		}
		events[g.notice.Task.ID] = g.notice.ID
	}
	until(t, "an empty queue", func() bool {
		y.clock.Move(time.Minute)
		return current.view.Len(pending, webhookValue("acme", "w")) == 0
	})
}

func TestOperations(t *testing.T) {
	y := newYard(t)
	r := y.start()
	other := api.Principal{ID: "uada", Tenant: "other", Roles: []api.Role{api.RoleAdmin}}
	eve := api.Principal{ID: "ueve", Tenant: "acme", Roles: []api.Role{api.RoleMember}}
	secret := r.hook(t, ada, "mine", "http://127.0.0.1:9/hook", "task.*")

	t.Run("create refuses what is wrong, and says where", func(t *testing.T) {
		for pointer, req := range map[string]api.CreateWebhookRequest{
			"/name":     {Name: "Not a name", URL: "https://example.org"},
			"/url":      {Name: "x", URL: "ftp://example.org"},
			"/events/1": {Name: "x", URL: "https://example.org", Events: []string{"task.failed", "task.lost"}},
		} {
			_, err := r.create(as(ada), req)
			if e := api.Redact(err); err == nil || e.Code != api.CodeInvalid || e.Fields[0].Pointer != pointer {
				t.Errorf("%s: %v", pointer, err)
			}
		}
		_, err := r.create(as(ada), api.CreateWebhookRequest{Name: "mine", URL: "https://example.org"})
		if api.CodeOf(err) != api.CodeConflict {
			t.Errorf("twice: %v", err)
		}
	})
	t.Run("only its owner and admins of the tenant see it, and nobody its secret", func(t *testing.T) {
		for _, p := range []api.Principal{eve, other} {
			if _, err := r.get(as(p), api.NameRef{Name: "mine"}); api.CodeOf(err) != api.CodeNotFound {
				t.Errorf("%s gets it: %v", p.ID, err)
			}
			if _, err := r.rotate(as(p), api.RotateWebhookRequest{Name: "mine"}); api.CodeOf(err) != api.CodeNotFound {
				t.Errorf("%s rotates it: %v", p.ID, err)
			}
			if l, err := r.list(as(p), api.List{}); err != nil || len(l.Items) > 0 {
				t.Errorf("%s lists %+v, %v", p.ID, l, err)
			}
		}
		l, err := r.list(as(admin), api.List{})
		if err != nil || len(l.Items) != 1 || strings.Contains(fmt.Sprintf("%+v", l), secret) {
			t.Errorf("%+v, %v", l, err)
		}
	})
	t.Run("is gone when it was deleted", func(t *testing.T) {
		if _, err := r.delete(as(ada), api.NameRef{Name: "mine"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.get(as(ada), api.NameRef{Name: "mine"}); api.CodeOf(err) != api.CodeNotFound || r.Exists("acme", "mine") {
			t.Errorf("%v", err)
		}
	})
	t.Run("an absent deadline ends an operation", func(t *testing.T) {
		ctx, cancel := context.WithCancel(as(ada))
		cancel()
		if _, err := r.create(ctx, api.CreateWebhookRequest{Name: "late", URL: "https://example.org"}); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("%v", err)
		}
	})
}
