package auth

import (
	"context"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
)

func TestActAs(t *testing.T) {
	y := newYard(t)
	admin := y.admin()
	member := admin.user(t, "mia")
	scheduler := rpc.NewClient(bustest.Connect(t, y.srv, y.ring, "scheduler"), rpc.ClientConfig{Name: "scheduler"})
	scopes := []api.Permission{api.SessionCreate, api.SessionRead}
	mint := func(user string) (api.TokenResponse, error) {
		return rpc.CallAsService(t.Context(), scheduler, api.ActAs, api.ActAsRequest{Tenant: api.HomeTenant, User: user, Scopes: scopes, Purpose: "task t1"})
	}

	t.Run("gives the scheduler a token of the principal, with the scopes only", func(t *testing.T) {
		resp, err := mint(member.ID)
		wantCode(t, err, "")
		p, err := y.verify.Verify(t.Context(), resp.AccessToken)
		wantCode(t, err, "")
		if p.ID != member.ID || p.Tenant != api.HomeTenant || !p.Can(api.SessionCreate) || p.Can(api.TaskCreate) || p.Can(api.KeyWrite) {
			t.Errorf("got %+v", p)
		}
		if resp.ExpiresIn > int(maxActAs.Seconds()) {
			t.Errorf("it lives for %d s", resp.ExpiresIn)
		}
	})
	t.Run("demands scopes", func(t *testing.T) {
		_, err := rpc.CallAsService(t.Context(), scheduler, api.ActAs, api.ActAsRequest{Tenant: api.HomeTenant, User: member.ID})
		wantCode(t, err, api.CodeInvalid)
	})
	t.Run("refuses who does not exist", func(t *testing.T) {
		_, err := mint(api.NewID(api.KindUser))
		wantCode(t, err, api.CodeDenied)
		_, err = mint("service:scheduler")
		wantCode(t, err, api.CodeDenied)
	})
	t.Run("refuses who is disabled", func(t *testing.T) {
		off := true
		dora := admin.user(t, "dora")
		must(t, y.as(admin.key), api.UpdateUser, api.UpdateUserRequest{ID: dora.ID, Disabled: &off})
		_, err := mint(dora.ID)
		wantCode(t, err, api.CodeDenied)
	})
	t.Run("is nobody else's", func(t *testing.T) {
		_, err := ask(y.as(admin.key), api.ActAs, api.ActAsRequest{Tenant: api.HomeTenant, User: member.ID, Scopes: scopes})
		wantCode(t, err, api.CodeDenied)
	})
}

func TestRecordAct(t *testing.T) {
	y := newYard(t)
	admin := y.admin()
	scheduler := rpc.NewClient(bustest.Connect(t, y.srv, y.ring, "scheduler"), rpc.ClientConfig{Name: "scheduler"})
	record := func(tenant, action string) error {
		_, err := rpc.CallAsService(t.Context(), scheduler, api.RecordAct, api.RecordActRequest{Tenant: tenant, Action: action, Object: "t1", Detail: "too old"})
		return err
	}
	wantCode(t, record(api.HomeTenant, "scheduler.sweep"), "")
	found := false
	for _, r := range records(t, admin, api.ListAuditRequest{Action: "scheduler.sweep"}) {
		found = found || r.Actor == "service:scheduler" && r.Object == "t1" && r.Detail == "too old" && r.Outcome == outcomeOK
	}
	if !found {
		t.Error("the act is not in the audit log")
	}
	for _, action := range []string{"sessions.sweep", "scheduler", "scheduler.", ""} { // no service speaks for another
		wantCode(t, record(api.HomeTenant, action), api.CodeInvalid)
	}
	wantCode(t, record("../x", "scheduler.sweep"), api.CodeInvalid)
	_, err := ask(y.as(admin.key), api.RecordAct, api.RecordActRequest{Tenant: api.HomeTenant, Action: "scheduler.sweep"})
	wantCode(t, err, api.CodeDenied)

	// What was not written is told to who can tell it again: it was taken for recorded.
	away, cancel := context.WithCancel(api.WithPrincipal(t.Context(), api.Principal{ID: "service:scheduler"}))
	cancel()
	if _, err := y.start(y.config()).recordAct(away, api.RecordActRequest{Tenant: api.HomeTenant, Action: "scheduler.sweep", Detail: "too old"}); err == nil {
		t.Error("an act that was not written is answered like one that was")
	}
}
