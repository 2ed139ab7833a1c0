package bus_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// TestNodePermissions: an agent follows plans and reports; it writes nothing that another node or the controller goes by.
func TestNodePermissions(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	s := api.NewID(api.KindSession)
	never := []string{ // whatever the node
		"yard.v1.policies.acme.p1", "yard.v1.plans.n1." + s, "yard.v1.plans.n2." + s, "yard.v1.live.plans.n1." + s, "yard.v1.live.plans.n2." + s,
		"yard.v1.plans._shared.g1", "yard.v1.live.plans._shared.g1",
		"yard.v1.nodes.acme.n1", "yard.v1.sessions.acme." + s, "yard.v1.tasks.acme.t1", "yard.v1.profiles.acme.p", "yard.v1.users.acme.u", "yard.v1.jwks.default.k",
		"yard.v1.log.acme." + s + ".agent", "yard.v1.log.acme." + s + ".user", "yard.v1.runner.acme." + s + ".report", "yard.v1.leases.tcagent.compile",
		"yard.v1.op.tcagent.policy-apply", "yard.v1.op.sessions.create", "yard.v1.op.auth.exchange", "yard.v1.peer.tcagent.auth.x", "yard.v1.live.log.acme." + s + ".user",
		"$JS.API.STREAM.CREATE.PLANS", "$JS.API.STREAM.UPDATE.PLANS", "$JS.API.STREAM.PURGE.PLANS", "$JS.API.STREAM.DELETE.PLANS", "$JS.API.STREAM.MSG.DELETE.PLANS",
		"$JS.API.STREAM.PURGE.NODES", "$JS.API.STREAM.CREATE.NODES", "$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.RESTORE.PLANS", "$JS.API.STREAM.SNAPSHOT.PLANS",
		"$JS.API.STREAM.MSG.GET.PLANS", "$JS.API.CONSUMER.CREATE.PLANS.x.y", "$JS.API.CONSUMER.CREATE.NODES.x.y",
		"$JS.API.DIRECT.GET.NODES", "$JS.API.DIRECT.GET.POLICIES", "$JS.API.DIRECT.GET.SESSIONS", "$JS.API.DIRECT.GET.SIGNERS", "$JS.API.DIRECT.GET.LOG",
		"$SYS.REQ.SERVER.PING", "_INBOX.tcagent.x", "_INBOX.sessions.x", "_INBOX.tcnode.n2.x", "anything",
	}
	unheard := []string{
		"yard.v1.plans.>", "yard.v1.policies.>", "yard.v1.nodes.>", "yard.v1.live.counters.*", "yard.v1.live.log.>", "yard.v1.live.>", "yard.v1.op.tcagent.*", "yard.v1.op.>",
		"yard.v1.runner.>", "_INBOX.>", "_INBOX.tcnode.>", "_INBOX.tcagent.>", "$JS.>", ">",
	}
	for node, may := range map[string]struct{ pub, noPub, sub, noSub []string }{
		"n1": {
			pub: []string{
				"yard.v1.nodes.default.n1", "yard.v1.live.counters.n1", "$JS.API.INFO", "$JS.API.DIRECT.GET.PLANS", "$JS.API.DIRECT.GET.PLANS.yard.v1.plans.n1.*",
				"$JS.API.DIRECT.GET.NODES.yard.v1.nodes.default.n1",
			},
			noPub: []string{
				"yard.v1.nodes.default.n2", "yard.v1.live.counters.n2", "$JS.API.DIRECT.GET.PLANS.yard.v1.plans.n2.*", "$JS.API.DIRECT.GET.PLANS.yard.v1.plans.*.*",
				"$JS.API.DIRECT.GET.NODES.yard.v1.nodes.default.n2",
			},
			sub:   []string{"yard.v1.live.plans.n1.*", "yard.v1.live.plans._shared.*", "_INBOX.tcnode.n1.>"},
			noSub: []string{"yard.v1.live.plans.n2.*", "yard.v1.live.plans.>", "yard.v1.live.plans.*.*", "_INBOX.tcnode.n2.>", "_INBOX.tcnode.*.>"},
		},
		bus.AnyNode: {
			pub:   []string{"yard.v1.nodes.default.n1", "yard.v1.nodes.default.n2", "yard.v1.live.counters.n2", "$JS.API.DIRECT.GET.PLANS"},
			sub:   []string{"yard.v1.live.plans.n1.*", "yard.v1.live.plans.n2.*", "_INBOX.tcnode._.>"},
			noSub: []string{"yard.v1.live.plans.>"},
		},
	} {
		t.Run(node, func(t *testing.T) {
			creds, err := y.ring.NodeCredentials(node)
			if err != nil {
				t.Fatal(err)
			}
			c, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(creds))
			if err != nil {
				t.Fatal(err)
			}
			for want, subjects := range map[bool][]string{true: may.pub, false: append(may.noPub, never...)} {
				for _, subject := range subjects {
					if c.mayPublish(t, subject) != want {
						t.Errorf("publish %s: allowed %v", subject, !want)
					}
				}
			}
			for want, subjects := range map[bool][]string{true: may.sub, false: append(may.noSub, unheard...)} {
				for _, subject := range subjects {
					if c.maySubscribe(t, subject) != want {
						t.Errorf("subscribe %s: allowed %v", subject, !want)
					}
				}
			}
		})
	}
	for _, bad := range []string{"", "a.b", "a.*", ">", "N1", "*.*"} {
		_, err := y.ring.NodeCredentials(bad)
		wantCode(t, err, api.CodeInvalid)
	}
}

// TestNodeWork: what an agent does all day goes with its credential, the one of its node and the one of any.
func TestNodeWork(t *testing.T) {
	srv, ring := bustest.New(t)
	ctx := testContext(t)
	owner := bustest.Connect(t, srv, ring, "tcagent")
	plans, err := bus.OpenLedger[thing](ctx, owner, bus.LedgerConfig{Noun: api.NounPlans, Live: api.LivePlansPrefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenLedger[thing](ctx, owner, bus.LedgerConfig{Noun: api.NounNodes}); err != nil {
		t.Fatal(err)
	}
	for i, node := range []string{"n1", bus.AnyNode} {
		t.Run(node, func(t *testing.T) {
			c := bustest.ConnectNode(t, srv, ring, node)
			follow := startPart(t, c, "n1")
			follow.becomes(t, map[string]int{})
			put(t, plans, "n1", "s1", i+1)
			put(t, plans, "n2", "s2", 1)
			follow.becomes(t, map[string]int{"s1": i + 1})
			put(t, bus.ReadLedger[thing](c, api.NounNodes), api.HomeTenant, "n1", 7+i)
			put(t, bus.ReadLedger[thing](c, api.NounNodes), api.HomeTenant, "n1", 8+i)
			if err := c.Publish(api.LiveCountersPrefix+"n1", []byte("{}")); err != nil {
				t.Error(err)
			}
			if err := c.Ready(ctx); err != nil {
				t.Error(err)
			}
			if err := plans.Delete(ctx, bus.Key{Tenant: "n1", ID: "s1"}, 0, meta); err != nil {
				t.Fatal(err)
			}
			follow.becomes(t, map[string]int{})
		})
	}
}
