package auth

import (
	"context"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// records lists all audit records that c sees, page by page, newest first.
func records(t *testing.T, c *caller, req api.ListAuditRequest) []api.AuditRecord {
	t.Helper()
	req.Limit = 3
	var all []api.AuditRecord
	for {
		p := must(t, c, api.ListAudit, req)
		if len(p.Items) > req.Limit {
			t.Fatalf("%d items, asked for %d", len(p.Items), req.Limit)
		}
		all = append(all, p.Items...)
		if req.Cursor = p.NextCursor; req.Cursor == "" {
			break
		}
	}
	for i := range all {
		if all[i].Tenant != c.Tenant || all[i].Seq == 0 || all[i].At.IsZero() {
			t.Errorf("shows %+v", all[i])
		}
		if i > 0 && all[i].Seq >= all[i-1].Seq {
			t.Errorf("record %d is not older than the one before", i)
		}
	}
	return all
}

func TestAudit(t *testing.T) {
	y := newYard(t)
	r := y.start(y.config())
	admin := y.as(y.adminKey())
	member := admin.user(t, "mia")
	acme := admin.tenant(t, "acme")
	has := func(t *testing.T, c *caller, req api.ListAuditRequest, want api.AuditRecord) {
		t.Helper()
		until(t, want.Action+" "+want.Outcome+" is recorded", func() bool {
			for _, rec := range records(t, c, req) {
				if rec.Action == want.Action && rec.Actor == want.Actor && rec.Outcome == want.Outcome &&
					rec.Object == want.Object && strings.Contains(rec.Detail, want.Detail) {
					return true
				}
			}
			return false
		})
	}

	t.Run("records what administrators do", func(t *testing.T) {
		has(t, admin, api.ListAuditRequest{}, api.AuditRecord{Action: actBootstrap, Actor: "service:auth", Object: admin.ID, Outcome: "ok"})
		has(t, admin, api.ListAuditRequest{Actor: admin.ID}, api.AuditRecord{Action: "auth.user-create", Actor: admin.ID, Object: member.ID, Outcome: "ok", Detail: "mia as member"})
		has(t, admin, api.ListAuditRequest{Action: "auth.key-create"}, api.AuditRecord{Action: "auth.key-create", Actor: admin.ID, Object: member.Key, Outcome: "ok"})
		has(t, admin, api.ListAuditRequest{Actor: admin.ID, Action: "auth.tenant-create"}, api.AuditRecord{Action: "auth.tenant-create", Actor: admin.ID, Object: "acme", Outcome: "ok"})
	})
	t.Run("records sign-ins once an hour", func(t *testing.T) {
		for range 5 {
			y.as(member.key)
		}
		has(t, admin, api.ListAuditRequest{}, api.AuditRecord{Action: actSignIn, Actor: member.ID, Object: member.Key, Outcome: "ok"})
		if n := len(records(t, admin, api.ListAuditRequest{Actor: member.ID, Action: actSignIn})); n != 1 {
			t.Errorf("%d records of six sign-ins", n)
		}
	})
	t.Run("records failed sign-ins with the reason", func(t *testing.T) {
		k := must(t, member, api.CreateKey, api.CreateKeyRequest{Name: "old"})
		must(t, member, api.RevokeKey, api.IDRef{ID: k.ID})
		for key, want := range map[string]api.AuditRecord{
			k.Secret:            {Object: k.ID, Detail: "key revoked"},
			string(newAPIKey()): {Detail: "unknown key"},
			"nonsense":          {Detail: "not an API key"},
		} {
			_, err := y.exchange(key)
			wantCode(t, err, api.CodeUnauthenticated)
			want.Action, want.Outcome = actSignIn, "unauthenticated"
			has(t, admin, api.ListAuditRequest{Action: actSignIn}, want)
		}
		for _, rec := range records(t, admin, api.ListAuditRequest{}) {
			if strings.Contains(rec.Detail, "nonsense") || strings.Contains(rec.Detail+rec.Object, keyScheme) {
				t.Errorf("a credential is in %+v", rec)
			}
		}
	})
	t.Run("records denials, a flood of them as two", func(t *testing.T) {
		for range 10 {
			_, err := ask(member, api.CreateUser, api.CreateUserRequest{Name: "x"})
			wantCode(t, err, api.CodeDenied)
		}
		denied := api.AuditRecord{Action: "auth.user-create", Actor: member.ID, Outcome: "denied"}
		has(t, admin, api.ListAuditRequest{}, denied)
		y.clock.advance(2 * floodWindow)
		denied.Detail = "9 times more"
		has(t, admin, api.ListAuditRequest{}, denied)
		if n := len(records(t, admin, api.ListAuditRequest{Actor: member.ID, Action: "auth.user-create"})); n != 2 {
			t.Errorf("%d records", n)
		}
	})
	t.Run("records what other services deny", func(t *testing.T) {
		must(t, member, api.RecordDenial, api.RecordDenialRequest{Action: "sessions.delete", Detail: "no"})
		has(t, admin, api.ListAuditRequest{Actor: member.ID}, api.AuditRecord{Action: "sessions.delete", Actor: member.ID, Outcome: "denied", Detail: "no"})
		must(t, member, api.RecordDenial, api.RecordDenialRequest{Action: "sessions.secret-put", Object: "TOKEN", Done: true})
		has(t, admin, api.ListAuditRequest{Actor: member.ID}, api.AuditRecord{Action: "sessions.secret-put", Actor: member.ID, Object: "TOKEN", Outcome: "ok"})
		for _, action := range []string{"auth.user-create", "sessions", "", ".", "sessions.*", "a/b.c"} {
			_, err := ask(member, api.RecordDenial, api.RecordDenialRequest{Action: action})
			wantCode(t, err, api.CodeInvalid)
		}
	})
	t.Run("filters", func(t *testing.T) {
		for _, rec := range records(t, admin, api.ListAuditRequest{Actor: admin.ID, Action: "auth.user-create"}) {
			if rec.Actor != admin.ID || rec.Action != "auth.user-create" {
				t.Errorf("shows %+v", rec)
			}
		}
		// A filter is a value, not a path through the index.
		if got := records(t, admin, api.ListAuditRequest{Actor: admin.ID + "/auth.user-create"}); len(got) != 0 {
			t.Errorf("shows %+v", got)
		}
	})
	t.Run("shows nobody another tenant's records", func(t *testing.T) {
		for _, req := range []api.ListAuditRequest{{}, {Actor: admin.ID}, {Action: "auth.user-create"}, {Actor: admin.ID, Action: "auth.user-create"}} {
			for _, rec := range records(t, acme, req) {
				if rec.Actor == admin.ID {
					t.Errorf("shows %+v", rec)
				}
			}
		}
		p := must(t, admin, api.ListAudit, api.ListAuditRequest{List: api.List{Limit: 1}})
		for _, rec := range must(t, acme, api.ListAudit, api.ListAuditRequest{List: api.List{Cursor: p.NextCursor}}).Items {
			if rec.Tenant != "acme" {
				t.Errorf("another's cursor shows %+v", rec)
			}
		}
	})
	t.Run("needs the permission", func(t *testing.T) {
		_, err := ask(member, api.ListAudit, api.ListAuditRequest{})
		wantCode(t, err, api.CodeDenied)
	})
	t.Run("is written to the end", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := rpc.Call(ctx, y.client, api.Exchange, api.ExchangeRequest{Key: "last", RemoteIP: "203.0.113.9"}); err == nil {
			t.Fatal("signed in")
		}
		r.stop(t)
		y.start(y.config())
		found := false
		for _, rec := range records(t, y.as(admin.key), api.ListAuditRequest{Action: actSignIn}) {
			found = found || rec.RemoteIP == "203.0.113.9"
		}
		if !found {
			t.Error("the last failed sign-in is not recorded")
		}
	})
}

// What an outsider can send without end is bounded in memory and in the ledger.
func TestAuditFlood(t *testing.T) {
	y := newYard(t)
	r := y.start(y.config())
	admin := y.as(y.adminKey())
	for i := range 3 * auditQueue {
		r.audit.signInFailed(t.Context(), &refusal{reason: "unknown key"}, "2001:db8::"+strings.Repeat("1", i%4+1))
	}
	until(t, "the queue is empty", func() bool { return len(r.audit.queue) == 0 })
	y.clock.advance(2 * floodWindow)
	until(t, "what was dropped is recorded", func() bool {
		return len(records(t, admin, api.ListAuditRequest{Action: actSignIn})) >= 3
	})
	if n := len(records(t, admin, api.ListAuditRequest{})); n > 10 {
		t.Errorf("%d records of one network's flood", n)
	}
}
