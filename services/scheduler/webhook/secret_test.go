package webhook

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/seal"
)

func sealing(t *testing.T, keys ...byte) *seal.Keys {
	t.Helper()
	var all [][]byte
	for _, k := range keys {
		all = append(all, bytes.Repeat([]byte{k}, 32))
	}
	k, err := seal.NewKeys(all...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// onBus is all that the bus keeps of a webhook.
func onBus(t *testing.T, r *replica, name string) string {
	t.Helper()
	history, err := bus.ReadLedger[json.RawMessage](r.conn, "webhooks").History(t.Context(), bus.Key{Tenant: "acme", ID: name}, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, c := range history {
		text += string(c.State) + "\n"
	}
	return text
}

// TestSealed: signing secrets cannot be read in what the bus keeps, those of an earlier release no more once somebody with a key serves, and go on signing
// while the keys that seal them are replaced.
func TestSealed(t *testing.T) {
	y := newYard(t)
	to := newReceiver(t)
	before := y.start()
	before.leads(t)
	secret := before.hook(t, ada, "hook", to.URL)
	if !strings.Contains(onBus(t, before, "hook"), secret) {
		t.Fatal("the test sees no secrets at all")
	}
	before.die()

	r := y.startWith(sealing(t, 1))
	until(t, "it is sealed, and what was before forgotten", func() bool { return !strings.Contains(onBus(t, r, "hook"), secret) })
	until(t, "it is seen", func() bool {
		e, ok := r.byName.Get(bus.Key{Tenant: "acme", ID: "hook"})
		return ok && len(e.State.Sealed) == 1
	})
	checkPing(t, y, r, to, "hook", secret, true)
	rotated, err := r.rotate(as(ada), api.RotateWebhookRequest{Name: "hook"})
	if err != nil || strings.Contains(onBus(t, r, "hook"), rotated.Secret) {
		t.Errorf("rotated to what can be read: %v", err)
	}
	checkPing(t, y, r, to, "hook", secret, true)
	checkPing(t, y, r, to, "hook", rotated.Secret, true)
	made := r.hook(t, ada, "other", to.URL)
	if strings.Contains(onBus(t, r, "other"), made) {
		t.Error("a new secret can be read")
	}
	r.die()

	r = y.startWith(sealing(t, 2, 1))
	until(t, "all is sealed with the newer key", func() bool {
		e, ok := r.byName.Get(bus.Key{Tenant: "acme", ID: "hook"})
		return ok && len(e.State.Sealed) == 2 && !sealing(t, 2).Stale(e.State.Sealed[0]) && !sealing(t, 2).Stale(e.State.Sealed[1])
	})
	r.die()
	r = y.startWith(sealing(t, 2))
	checkPing(t, y, r, to, "hook", secret, true)
	checkPing(t, y, r, to, "hook", rotated.Secret, true)
	r.die()

	r = y.startWith(sealing(t, 3))
	if _, err := r.ping(as(ada), api.NameRef{Name: "hook"}); err != nil {
		t.Fatal(err)
	}
	n := len(to.requests())
	r.delivery(t, ada, "hook", "why it is not sent", func(d api.Delivery) bool { return strings.Contains(d.Problem, "cannot be opened") })
	again, err := r.rotate(as(ada), api.RotateWebhookRequest{Name: "hook"})
	if err != nil || len(again.Secrets) != 1 || len(to.requests()) != n {
		t.Fatalf("%+v, %v", again, err)
	}
	checkPing(t, y, r, to, "hook", again.Secret, true)
}
