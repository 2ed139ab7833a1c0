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
