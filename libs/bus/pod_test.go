package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// TestPodPermissions: a pod that has no session yet may ask to be bound, and nothing else.
func TestPodPermissions(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	openThings(t, y.conn, 0)
	mine, other := api.NewID(api.KindSession), api.NewID(api.KindSession)
	issuer := y.ring.SessionIssuer()
	creds, err := issuer.PodCredentials(mine, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(creds))
	if err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string]bool{
		"yard.v1.runner.pods." + mine + ".bind":   true,
		"yard.v1.runner.pods." + mine + ".report": false,
		"yard.v1.runner.pods." + mine + ".inbox":  false,
		"yard.v1.runner.pods." + other + ".bind":  false,
		"yard.v1.runner.acme." + mine + ".bind":   false,
		"yard.v1.log.pods." + mine + ".agent":     false,
		"yard.v1.log.acme." + mine + ".agent":     false,
		"yard.v1.op.sessions.create":              false,
		"$JS.API.INFO":                            false,
		"_INBOX_" + other + ".x":                  false,
	} {
		if got := c.mayPublish(t, subject); got != want {
			t.Errorf("publish %s: allowed %v", subject, got)
		}
	}
	for subject, want := range map[string]bool{
		"_INBOX_" + mine + ".>":                    true,
		"_INBOX_" + other + ".>":                   false,
		"yard.v1.live.log.pods." + mine + ".user":  false,
		"yard.v1.runner.>":                         false,
		"yard.v1.runner.pods." + mine + ".bind":    false,
		"yard.v1.live.log.acme." + other + ".user": false,
	} {
		if got := c.maySubscribe(t, subject); got != want {
			t.Errorf("subscribe %s: allowed %v", subject, got)
		}
	}
	t.Run("not for long", func(t *testing.T) {
		stale, err := issuer.PodCredentials(mine, -time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(stale)); err == nil {
			t.Error("an old credential connects")
		}
	})
	t.Run("of an issuer that was kept as text", func(t *testing.T) {
		parsed, err := bus.ParseSessionIssuer(issuer.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		again, err := parsed.PodCredentials(mine, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(again)); err != nil {
			t.Error(err)
		}
	})
	if _, err := issuer.PodCredentials("*", time.Hour); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a pod called *: %v", err)
	}
}

// TestBrief: a brief connection asks, is answered, and has nothing left when it is closed.
func TestBrief(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	pod := api.NewID(api.KindSession)
	creds, err := y.ring.SessionIssuer().PodCredentials(pod, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	subject := "yard.v1.runner.pods." + pod + ".bind"
	_, err = y.conn.NATS().Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(append([]byte("re: "), m.Data...)) })
	if err == nil {
		err = y.conn.NATS().Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: creds, Name: "pod", Brief: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	for range 5 { // more than a pod may subscribe to
		m, err := c.NATS().RequestWithContext(ctx, subject, []byte("who am I?"))
		if err != nil || string(m.Data) != "re: who am I?" {
			t.Fatal(m, err)
		}
	}
	if n := c.NATS().NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	if err := c.Close(ctx); err != nil || !c.NATS().IsClosed() {
		t.Error(err)
	}
}
