package tcagent_test

import (
	"context"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// share writes a plan that sessions share, as the controller does, and returns its hash.
func (y *yard) share(group string, p *tc.Plan) (hash string) {
	y.Helper()
	p.Session = ""
	record := api.TrafficPlanRecord{Hash: p.Hash(), Plan: p.Bytes()}
	key, meta := bus.Key{Tenant: api.SharedPlans, ID: group}, bus.Meta{Actor: "test", Verb: "plan"}
	_, err := y.plans.Update(y.Context(), key, meta, func(api.TrafficPlanRecord) (api.TrafficPlanRecord, error) { return record, nil })
	if api.CodeOf(err) == api.CodeNotFound && err != nil {
		_, err = y.plans.Create(y.Context(), key, meta, record)
	}
	must(y.T, err)
	return record.Hash
}

// join writes a session's own plan and the group that it is in.
func (y *yard) join(session, group string, p *tc.Plan) (hash string) {
	y.Helper()
	_, hash = y.write(api.TrafficPlanRecord{
		Node: node, Tenant: "acme", Session: session, Hash: p.Hash(), Plan: p.Bytes(), Address: kerneltest.Session4, Group: group,
	})
	return hash
}

// TestSharedPlan: a session holds its own plan or its group's, whichever is newer, and so does an agent that starts.
func TestSharedPlan(t *testing.T) {
	const session, device = "s1", "h0"
	y := newYard(t)
	stop := y.agent(nil)
	y.share("g1", shaped("", 5*tc.Mbit))
	y.applied(session, y.join(session, "g1", shaped(session, 10*tc.Mbit))) // newer than its group's
	y.becomes(device, 10*tc.Mbit)

	hash := y.share("g1", shaped("", 20*tc.Mbit))
	y.becomes(device, 20*tc.Mbit)
	y.applied(session, hash) // some seconds later
	t.Run("across a restart", func(t *testing.T) {
		stop()
		y.becomes(device, 20*tc.Mbit)
		hash = y.share("g1", shaped("", 25*tc.Mbit))
		stop = y.agent(nil)
		y.becomes(device, 25*tc.Mbit)
	})
	t.Run("across the bus's absence", func(t *testing.T) {
		stop()
		conn, address := bustest.ConnectNode(y.T, y.srv, y.ring, api.TrafficNodeToken(node)), y.srv.URL()
		y.srv.Close()
		ctx, cancel := context.WithCancel(context.Background())
		stop = y.agentOn(ctx, cancel, conn, nil) // with what is on disk
		y.srv = bustest.Start(y.T, y.ring, y.dir, address[len("nats://"):])
		y.open()
		hash = y.share("g1", shaped("", 30*tc.Mbit))
		y.becomes(device, 30*tc.Mbit)
	})
	t.Run("a group's plan that is not what its hash says is refused", func(t *testing.T) {
		bad := shaped("", 40*tc.Mbit)
		bad.Session = ""
		_, err := y.plans.Update(t.Context(), bus.Key{Tenant: api.SharedPlans, ID: "g1"}, bus.Meta{Actor: "test", Verb: "plan"}, func(r api.TrafficPlanRecord) (api.TrafficPlanRecord, error) {
			r.Plan = bad.Bytes()
			return r, nil
		})
		must(t, err)
		y.reports(session, func(a api.TrafficPlanApplied, _ bool) bool {
			return a.State == "kept" && a.Hash == hash && a.Detail != ""
		})
	})
	t.Run("who has left has no part in what the others get", func(t *testing.T) {
		hash := y.join(session, "g2", shaped(session, 50*tc.Mbit))
		y.share("g1", shaped("", 60*tc.Mbit))
		y.applied(session, hash)
		y.share("g2", shaped("", 55*tc.Mbit)) // when this is taken on all before it was
		y.becomes(device, 55*tc.Mbit)
	})
	t.Run("when a group's plan is gone the session's own holds", func(t *testing.T) {
		must(t, y.plans.Delete(t.Context(), bus.Key{Tenant: api.SharedPlans, ID: "g2"}, 0, bus.Meta{Actor: "test", Verb: "remove"}))
		y.becomes(device, 50*tc.Mbit)
		y.share("g2", shaped("", 65*tc.Mbit))
		y.becomes(device, 65*tc.Mbit)
	})
}
