package bus_test

import (
	"bytes"
	"net"
	"testing"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// endsEarly is a connection on which a header's value shortly ends the header for whoever reads it, and not for the server that adds to its end.
type endsEarly struct{ net.Conn }

const (
	later    = "what comes later"
	endsHere = "\r\n\r\nHidden: later" // as long
)

func (c endsEarly) Write(p []byte) (int, error) {
	return c.Conn.Write(bytes.ReplaceAll(p, []byte(later), []byte(endsHere[:len(later)])))
}

// Dial implements nats.CustomDialer.
func (endsEarly) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address) //nolint:noctx // of a test
	return endsEarly{c}, err
}

// TestForeign: JetStream writes its answers where it is told to, into any ledger. What comes there so is not believed.
func TestForeign(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	ctx := testContext(t)
	things := openThings(t, y.conn, 0)
	if _, err := bus.OpenLedger[thing](ctx, bustest.Connect(t, y.srv, y.ring, "tcagent"), bus.LedgerConfig{Noun: api.NounNodes}); err != nil {
		t.Fatal(err)
	}
	// Each writes the message into the ledger, and says what it takes.
	session := func(t *testing.T, subject string) {
		mine := api.NewID(api.KindSession)
		c := y.sessionClient(t, mine)
		if err := c.nc.PublishRequest(api.LogSubject(tenant, mine, api.WriterAgent), subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	node := func(header nats.Header) func(*testing.T, string) {
		return func(t *testing.T, subject string) {
			creds, err := y.ring.NodeCredentials("n1")
			if err != nil {
				t.Fatal(err)
			}
			c, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(creds), nats.CustomInboxPrefix("_INBOX.tcnode.n1"), nats.SetCustomDialer(endsEarly{}))
			if err != nil {
				t.Fatal(err)
			}
			forged := &nats.Msg{Subject: "yard.v1.nodes.default.n1", Header: header, Data: []byte(`{"actor":"u1","verb":"create","state":{"owner":"me","n":666}}`)}
			if _, err := c.nc.RequestMsgWithContext(ctx, forged); err != nil {
				t.Fatal(err)
			}
			if err := c.nc.PublishRequest("$JS.API.DIRECT.GET.NODES.yard.v1.nodes.default.n1", subject, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	// written waits until the newest message of a subject is the attacker's.
	written := func(t *testing.T, at string) {
		t.Helper()
		eventually(t, "the message is there", func() bool {
			m, err := y.conn.NATS().RequestWithContext(ctx, "$JS.API.DIRECT.GET.SESSIONS."+at, nil)
			name := m.Header["Yard-Write"]
			return err == nil && m.Header.Get("Status") == "" && (len(name) == 0 || name[0] == "forged")
		})
	}
	for name, attack := range map[string]func(*testing.T, string){
		"a session's acknowledgement": session,
		"a node's report":             node(nats.Header{"Yard-Write": {"forged"}}),
		"one that names a stream":     node(nats.Header{"Yard-Write": {"forged"}, "Nats-Stream": {"SESSIONS"}}),
	} {
		t.Run(name, func(t *testing.T) {
			victim := bus.Key{Tenant: "other", ID: api.NewID(api.KindSession)}
			subject := "yard.v1.sessions." + victim.Tenant + "." + victim.ID
			before, err := things.Create(ctx, victim, meta, thing{N: 1})
			if err != nil {
				t.Fatal(err)
			}
			view := bus.ReadLedger[thing](y.conn, "sessions").View(bus.ViewConfig[thing]{})
			running(t, view.Run)
			await(t, view.Ready(), "the view")
			attack(t, subject)
			written(t, subject)

			got, err := things.Get(ctx, victim)
			if err != nil || got.State != before.State || got.Rev <= before.Rev || got.Created != before.Created {
				t.Errorf("read %+v, %v; want the state of %+v", got, err, before)
			}
			eventually(t, "the view has seen it", func() bool { e, ok := view.Get(victim); return !ok || e.Rev == got.Rev })
			if e, _ := view.Get(victim); e.State != before.State {
				t.Errorf("the view has %+v", e)
			}
			late := bus.ReadLedger[thing](y.conn, "sessions").View(bus.ViewConfig[thing]{})
			running(t, late.Run)
			await(t, late.Ready(), "the view that begins now")
			if e, _ := late.Get(victim); e.State != before.State {
				t.Errorf("a view that begins now has %+v", e)
			}
			if changes, err := things.History(ctx, victim, 0, 10); err != nil || len(changes) != 1 {
				t.Errorf("the history is %+v, %v", changes, err)
			}
			if _, err := things.Changes(ctx, before.Rev, 10, func(e bus.Entry[thing]) error {
				t.Errorf("a change: %+v", e)
				return nil
			}); err != nil {
				t.Error(err)
			}
			after, err := things.Update(ctx, victim, meta, increment)
			if err != nil || after.State.N != 2 {
				t.Errorf("changed to %+v, %v", after, err)
			}
		})
		t.Run(name+" where there was nothing", func(t *testing.T) {
			fresh := bus.Key{Tenant: "other", ID: api.NewID(api.KindSession)}
			at := "yard.v1.sessions." + fresh.Tenant + "." + fresh.ID
			attack(t, at)
			written(t, at)
			_, err := things.Get(ctx, fresh)
			wantCode(t, err, api.CodeNotFound)
			if e, err := things.Create(ctx, fresh, meta, thing{N: 1}); err != nil || e.State.N != 1 {
				t.Errorf("made %+v, %v", e, err)
			}
		})
	}
	// A consumer's message is as it was written: there a header that ends early would hide that it is a copy.
	t.Run("what a header hides", func(t *testing.T) {
		fresh := bus.Key{Tenant: "other", ID: api.NewID(api.KindSession)}
		at := "yard.v1.sessions." + fresh.Tenant + "." + fresh.ID
		node(nats.Header{"Yard-Write": {"forged" + later}})(t, at)
		eventually(t, "the message is there", func() bool {
			m, err := y.conn.NATS().RequestWithContext(ctx, "$JS.API.DIRECT.GET.SESSIONS."+at, nil)
			return err == nil && m.Header.Get("Yard-Write") == "forged" && m.Header.Get("Nats-Stream") == ""
		})
		view := bus.ReadLedger[thing](y.conn, "sessions").View(bus.ViewConfig[thing]{})
		running(t, view.Run)
		await(t, view.Ready(), "the view")
		if e, ok := view.Get(fresh); ok {
			t.Errorf("the view believes %+v", e)
		}
	})
}
