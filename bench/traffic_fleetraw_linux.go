package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
)

// The reference: the bytes of each node's plan go to its connection, which answers with the bytes of its report, and NATS alone does it. Once as
// a plain message each way, which nobody keeps; once through the streams that keep plans and reports, as ours do, but without a
// condition, without a view, and with nothing decided on the way.

// rawPlan is what PLANS holds of node i after a policy's change.
func rawPlan(i int) ([]byte, error) {
	text, err := json.Marshal(fleetPolicy("all", 50*tc.Mbit))
	if err != nil {
		return nil, err
	}
	policy, err := tc.Parse(text)
	if err != nil {
		return nil, err
	}
	set, err := tc.NewSet([]tc.Policy{policy})
	if err != nil {
		return nil, err
	}
	plan, _ := set.Compile(tc.Session{ID: fleetSession(i), Tenant: api.HomeTenant, User: "bench", Node: fleetNode(i)}, fleetCapabilities, time.Now())
	return json.Marshal(api.Change[api.TrafficPlanRecord]{At: time.Now(), Actor: "service:tcagent", Verb: "plan", State: api.TrafficPlanRecord{
		Node: fleetNode(i), Tenant: api.HomeTenant, Session: fleetSession(i), Hash: plan.Hash(), Plan: plan.Bytes(), Address: "10.0.0.1",
	}})
}

// rawReport is what NODES holds of node i then.
func rawReport(i int) ([]byte, error) {
	can, err := json.Marshal(fleetCapabilities)
	if err != nil {
		return nil, err
	}
	return json.Marshal(api.Change[api.TrafficNodeRecord]{At: time.Now(), Actor: "service:tcagent", Verb: "report", State: api.TrafficNodeRecord{
		Name: fleetNode(i), Agent: "bench", ReportedAt: time.Now(), Capabilities: can, Applied: map[string]api.TrafficPlanApplied{
			fleetSession(i): {Rev: 1 << 16, Hash: strings.Repeat("0", 64), State: "applied", At: time.Now(), TookMS: 0.1},
		},
	}})
}

// answerRaw has each of the agents' connections answer, until what it returns is called.
func (p *agentsPart) answerRaw(kept bool) (end func(), err error) {
	ctx, cancel := context.WithCancel(p.ctx)
	err = each(len(p.conns), func(i int) error {
		node := fleetNode(i)
		report, err := rawReport(i)
		if err != nil {
			return err
		}
		answer := func() error { return p.conns[i].Publish(api.LiveCountersPrefix+node, report) }
		if kept {
			js, err := jetstream.New(p.conns[i].NATS())
			if err != nil {
				return err
			}
			answer = func() error {
				_, err := js.Publish(ctx, api.LedgerPrefix+api.NounNodes+"."+api.HomeTenant+"."+node, report)
				return err
			}
		}
		return p.conns[i].Subscribe(ctx, api.LivePlansPrefix+node+".*", func(string, bus.Header, []byte) {
			if err := answer(); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "bench: answer:", err)
			}
		}, nil)
	})
	return cancel, err
}

// rawRound sends everything once and returns how long each answer took.
func (f *fleet) rawRound(ctx context.Context, send func() error, answers <-chan time.Time) ([]time.Duration, error) {
	began := time.Now()
	if err := send(); err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, f.n)
	late := time.NewTimer(fleetWait)
	defer late.Stop()
	for len(took) < f.n {
		select {
		case at := <-answers:
			took = append(took, at.Sub(began))
		case <-late.C:
			return nil, fmt.Errorf("%d of %d answered in %v", len(took), f.n, fleetWait)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return took, nil
}

// rawFigure is what the reference took, and what all its rounds cost.
type rawFigure struct {
	p99   time.Duration
	spent spent
}

// raw measures the reference.
func (f *fleet) raw(ctx context.Context) (plain, kept rawFigure, err error) {
	plans := make([][]byte, f.n)
	if err := each(f.n, func(i int) (err error) { plans[i], err = rawPlan(i); return err }); err != nil {
		return plain, kept, err
	}
	answers := make(chan time.Time, f.n)
	all, err := f.anybody()
	if err != nil {
		return plain, kept, err
	}
	defer func() { _ = all.Close(ctx) }()
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := all.Subscribe(within, api.LiveCountersPrefix+"*", func(string, bus.Header, []byte) { answers <- time.Now() }, nil); err != nil {
		return plain, kept, err
	}
	plain, err = f.rawRounds(ctx, "raw", answers, func() error {
		for i, plan := range plans {
			if err := all.Publish(api.LivePlansPrefix+fleetNode(i)+".raw", plan); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return plain, kept, fmt.Errorf("plain: %w", err)
	}
	js, err := jetstream.New(f.traffic.NATS(), jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		return plain, kept, err
	}
	consumer, err := js.OrderedConsumer(ctx, strings.ToUpper(api.NounNodes), jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return plain, kept, err
	}
	consuming, err := consumer.Consume(func(jetstream.Msg) { answers <- time.Now() })
	if err != nil {
		return plain, kept, err
	}
	defer consuming.Stop()
	kept, err = f.rawRounds(ctx, "raw-stream", answers, func() error {
		for i, plan := range plans {
			if _, err := js.PublishAsync(api.LedgerPrefix+api.NounPlans+"."+fleetNode(i)+".raw", plan, jetstream.WithStallWait(fleetWait)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return plain, kept, fmt.Errorf("through streams: %w", err)
	}
	// What is neither plan nor report must not be found by the controller and the agents.
	for _, noun := range []string{api.NounPlans, api.NounNodes} {
		if _, err := f.traffic.NATS().Request("$JS.API.STREAM.PURGE."+strings.ToUpper(noun), nil, bus.OpTimeout); err != nil {
			return plain, kept, err
		}
	}
	return plain, kept, nil
}

func (f *fleet) rawRounds(ctx context.Context, how string, answers <-chan time.Time, send func() error) (r rawFigure, err error) {
	if _, err := f.agents.do(ctx, fleetOrder{Do: how}); err != nil {
		return r, err
	}
	before, err := f.used()
	if err != nil {
		return r, err
	}
	var rounds []time.Duration
	for n := range fleetRounds + 1 {
		took, err := f.rawRound(ctx, send, answers)
		if err != nil {
			return r, err
		}
		if n > 0 { // the first finds nothing in place
			rounds = append(rounds, percentile(took, 99))
		}
	}
	after, err := f.used()
	if err != nil {
		return r, err
	}
	r.p99 = median(rounds)
	r.spent.add(before, after)
	r.spent[1] = 0 // the controller has no part
	_, err = f.agents.do(ctx, fleetOrder{Do: "raw-end"})
	return r, err
}

// anybody connects as one who may do anything: none of a yard's processes may say what a stream republishes.
func (f *fleet) anybody() (*bus.Conn, error) {
	data, err := os.ReadFile(filepath.Join(f.dir, "keys", "keyring.json"))
	if err != nil {
		return nil, err
	}
	var seeds struct {
		Account string `json:"account"`
	}
	if err := json.Unmarshal(data, &seeds); err != nil {
		return nil, err
	}
	account, err := nkeys.FromSeed([]byte(seeds.Account))
	if err != nil {
		return nil, err
	}
	user, err := nkeys.CreatePairWithRand(nkeys.PrefixByteUser, rand.Reader)
	if err != nil {
		return nil, err
	}
	name, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewUserClaims(name)
	claims.Name = "bench"
	signed, err := claims.Encode(account)
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	creds, err := jwt.FormatUserConfig(signed, seed)
	return fleetConnect(f.url, "bench", creds, err)
}
