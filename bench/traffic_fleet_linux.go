package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust/trusttest"
)

func init() {
	benchmarks = append(benchmarks, benchmark{"traffic-fleet", "a traffic policy that touches every node of a large fleet", benchFleet})
}

const (
	// fleetAgents is how many node agents there are, each with one session; BENCH_AGENTS is another number.
	fleetAgents = 10_000
	fleetRounds = 5
	// fleetSetUp is how many connect, or are written, at one time while the fleet is made.
	fleetSetUp = 64
	// fleetWait is how long anything may take that all do.
	fleetWait = time.Minute
	// fleetPause is between changes that are to find an agent at rest: a report waits a moment after the one before it.
	fleetPause = 200 * time.Millisecond
	// fleetTime bounds the whole.
	fleetTime = 8 * time.Minute
	// fleetAway is for how long the bus is away.
	fleetAway = 5 * time.Second
	// fleetRest is for how long nothing is done, to see what that costs.
	fleetRest = 10 * time.Second
)

// The goals.
const (
	fleetP99       = time.Second
	fleetRawRatio  = 1.5
	fleetProcessor = time.Second
	fleetMemory    = 512.0 // MiB
	fleetReturn    = 30 * time.Second
)

// fleet is a bus, a traffic controller and node agents, each of the three a process of its own, over TCP. Here is who asks: the gateway's role.
type fleet struct {
	n        int
	dir, url string

	bus, controller, agents *fleetPart

	idle spent // in fleetRest, when nothing is done

	traffic *bus.Conn // the controller's role
	asker   *bus.Conn
	client  *rpc.Client
	admin   context.Context // with the token of an admin
}

func benchFleet(ctx context.Context, r *report) error {
	f := &fleet{n: fleetAgents}
	if text := os.Getenv("BENCH_AGENTS"); text != "" {
		var err error
		if f.n, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("BENCH_AGENTS: %w", err)
		}
	}
	if err := raiseFiles(uint64(f.n) + 1000); err != nil {
		return err
	}
	defer f.close()
	ctx, cancel := context.WithTimeout(ctx, fleetTime)
	defer cancel()
	if err := f.start(ctx); err != nil {
		return err
	}
	plain, kept, err := f.raw(ctx)
	if err != nil {
		return fmt.Errorf("raw fan-out: %w", err)
	}
	if err := f.employ(ctx); err != nil {
		return err
	}
	for _, measure := range []func() error{
		func() error { return f.rest(ctx, r) },
		func() error { return f.all(ctx, r, plain, kept) },
		func() error { return f.one(ctx, r) },
		func() error { return f.restart(ctx, r) },
	} {
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) name(what string) string {
	return fmt.Sprintf("traffic-fleet: %d agents, %s", f.n, what)
}

// start makes the bus, what the services would have made before, and the agents' connections.
func (f *fleet) start(ctx context.Context) error {
	var err error
	if f.dir, err = os.MkdirTemp("", "agentyard-bench-"); err != nil {
		return err
	}
	for name, p := range map[string]**fleetPart{partBus: &f.bus, partController: &f.controller, partAgents: &f.agents} {
		if *p, err = startPart(ctx, name); err != nil {
			return err
		}
	}
	if err := f.serve(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	keys, err := bus.OpenKeyring(filepath.Join(f.dir, "keys"))
	if err != nil {
		return err
	}
	conns := map[string]*bus.Conn{}
	for _, service := range []string{"auth", "sessions", "gateway", "tcagent"} {
		creds, err := keys.ServiceCredentials(service)
		if conns[service], err = fleetConnect(f.url, service, creds, err); err != nil {
			return err
		}
	}
	f.traffic, f.asker = conns["tcagent"], conns["gateway"]
	f.client = rpc.NewClient(f.asker, rpc.ClientConfig{Name: "gateway"})
	key, _, err := trusttest.Prepare(ctx, conns["auth"])
	if err != nil {
		return err
	}
	raw, err := token.Mint(key, api.Principal{ID: api.NewID(api.KindUser), Tenant: api.HomeTenant, Roles: []api.Role{api.RoleAdmin}}, time.Now(), time.Hour)
	if err != nil {
		return err
	}
	f.admin = token.WithRaw(ctx, raw)
	sessions, err := bus.OpenLedger[api.SessionRecord](ctx, conns["sessions"], bus.LedgerConfig{Noun: "sessions"})
	if err != nil {
		return err
	}
	if err := each(f.n, func(i int) error {
		var s api.SessionRecord
		s.ID, s.Tenant, s.Owner, s.Node, s.State = fleetSession(i), api.HomeTenant, "bench", fleetNode(i), api.StateRunning
		_, err := sessions.Create(ctx, bus.Key{Tenant: s.Tenant, ID: s.ID}, bus.Meta{Actor: "bench", Verb: "create"}, s)
		return err
	}); err != nil {
		return err
	}
	// The reference needs streams as the controller makes them.
	const history = 8
	if _, err := bus.OpenLedger[api.TrafficPlanRecord](ctx, f.traffic, bus.LedgerConfig{Noun: api.NounPlans, History: history, Live: api.LivePlansPrefix}); err != nil {
		return err
	}
	if _, err := bus.OpenLedger[api.TrafficNodeRecord](ctx, f.traffic, bus.LedgerConfig{Noun: api.NounNodes, History: history}); err != nil {
		return err
	}
	_, err = f.agents.do(ctx, fleetOrder{Do: "connect", Dir: f.dir, URL: f.url, N: f.n})
	return err
}

// serve starts the bus.
func (f *fleet) serve(ctx context.Context, listen string) error {
	a, err := f.bus.do(ctx, fleetOrder{Do: "serve", Dir: f.dir, URL: listen})
	f.url = a.URL
	return err
}

// fleetPolicy is for all sessions: both ways, three classes.
func fleetPolicy(name string, rate tc.BitsPerSecond) api.TrafficSpec {
	spec := api.TrafficSpec{Name: name}
	spec.Link.Download.Ceiling, spec.Link.Upload.Ceiling = rate.String(), rate.String()
	spec.Classes = []api.TrafficClass{
		{Name: "model", Guarantee: "4Mbit", Priority: 1, LatencyTarget: "50ms", Match: []api.TrafficMatch{{CIDR: "192.0.2.0/24", Ports: []api.TrafficWord{"443"}, Protocol: "tcp"}}},
		{Name: "talk", Guarantee: "1Mbit", Match: []api.TrafficMatch{{DSCP: "ef"}}},
		{Name: "rest", Guarantee: "1Mbit", Priority: 3, Default: true},
	}
	return spec
}

// apply asks for a policy and waits until the controller has heard of each of n nodes from the given one on that it is in force there.
func (f *fleet) apply(ctx context.Context, spec api.TrafficSpec, from, n int) ([]time.Duration, error) {
	if _, err := f.controller.do(ctx, fleetOrder{Do: "expect", From: from, N: n}); err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := rpc.Call(f.admin, f.client, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: spec.Name, Policy: spec}); err != nil {
		return nil, err
	}
	a, err := f.controller.do(ctx, fleetOrder{Do: "await"})
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, len(a.At))
	for i, at := range a.At {
		took[i] = at.Sub(began)
	}
	return took, nil
}

// programmed asks for a policy's status and fails when it does not say that all nodes have it in force.
func (f *fleet) programmed(name string) (took time.Duration, err error) {
	began := time.Now()
	p, err := rpc.Call(f.admin, f.client, api.GetTrafficPolicy, api.NameRef{Name: name})
	if err != nil {
		return 0, err
	}
	took = time.Since(began)
	for _, c := range p.Status.Conditions {
		if c.Type == "Programmed" && c.Status {
			return took, nil
		}
	}
	return took, fmt.Errorf("policy %s is not Programmed: %+v", name, p.Status)
}

// employ starts the controller and the agents, and returns when every session's first plan is in force.
func (f *fleet) employ(ctx context.Context) error {
	if _, err := f.controller.do(ctx, fleetOrder{Do: "run", Dir: f.dir, URL: f.url}); err != nil {
		return err
	}
	if _, err := f.agents.do(ctx, fleetOrder{Do: "run"}); err != nil {
		return err
	}
	_, err := f.apply(ctx, fleetPolicy("all", 50*tc.Mbit), 0, f.n)
	if err != nil {
		return fmt.Errorf("first plans: %w", err)
	}
	_, err = f.programmed("all")
	return err
}

// parts are the processes that are measured.
func (f *fleet) parts() []*fleetPart { return []*fleetPart{f.bus, f.controller, f.agents} }

func (f *fleet) used() (u [3]usage, err error) {
	for i, p := range f.parts() {
		if u[i], err = p.used(); err != nil {
			return u, err
		}
	}
	return u, nil
}

func (f *fleet) profile(ctx context.Context, word string) error {
	for _, p := range f.parts() {
		if _, err := p.do(ctx, fleetOrder{Do: word}); err != nil {
			return err
		}
	}
	return nil
}

// last is the newest sequence of a ledger's stream.
func (f *fleet) last(ctx context.Context, noun string) (uint64, error) {
	js, err := jetstream.New(f.traffic.NATS())
	if err != nil {
		return 0, err
	}
	s, err := js.Stream(ctx, strings.ToUpper(noun))
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.LastSeq, nil
}

// kept waits until there are n reports after one.
func (f *fleet) kept(ctx context.Context, after uint64) error {
	late := time.Now().Add(fleetWait)
	for {
		now, err := f.last(ctx, api.NounNodes)
		if err != nil || now >= after+uint64(f.n) { //nolint:gosec // a small number
			return err
		}
		if time.Now().After(late) {
			return fmt.Errorf("%d of %d nodes have written their report in %v", now-after, f.n, fleetWait)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// spent is processor time of the parts: bus, controller, agents.
type spent [3]time.Duration

func (s *spent) add(before, after [3]usage) {
	for i := range s {
		s[i] += after[i].processor - before[i].processor
	}
}

// aPlan is what it is of n plans, in words; the controller's is left out where it had no part.
func (s spent) aPlan(n int) string {
	us := func(i int) string { return fmt.Sprintf("%d µs", s[i].Microseconds()/int64(n)) }
	if s[1] == 0 {
		return fmt.Sprintf("bus %s, agents %s a plan", us(0), us(2))
	}
	return fmt.Sprintf("controller %s, bus %s, agents %s a plan", us(1), us(0), us(2))
}

// all changes what all sessions may send, again and again: each time when the nodes have nothing to report.
func (f *fleet) all(ctx context.Context, r *report, plain, kept rawFigure) error {
	var p50s, p99s, statuses []time.Duration
	var acknowledged, whole spent
	var after [3]usage
	for round := range fleetRounds + 1 { // the first puts the sessions into groups
		reports, err := f.last(ctx, api.NounNodes)
		if err != nil {
			return err
		}
		if round > 0 {
			if err := f.profile(ctx, "begin"); err != nil {
				return err
			}
		}
		before, err := f.used()
		if err != nil {
			return err
		}
		took, err := f.apply(ctx, fleetPolicy("all", tc.BitsPerSecond(20+round)*tc.Mbit), 0, f.n)
		if err != nil {
			return err
		}
		between, err := f.used()
		if err != nil {
			return err
		}
		if err := f.profile(ctx, "end"); err != nil {
			return err
		}
		waits := time.Now()
		if err := f.kept(ctx, reports); err != nil {
			return err
		}
		waited := time.Since(waits)
		if after, err = f.used(); err != nil {
			return err
		}
		if round == 0 {
			var first spent
			first.add(before, after)
			p99 := percentile(took, 99)
			r.add(figure{f.name("the first change, each plan written"), ms(p99), first.aPlan(f.n), float64(p99) / float64(kept.p99), "≤ 5 s", p99 <= 5*time.Second})
			continue
		}
		acknowledged.add(before, between)
		whole.add(before, after)
		for i := range whole { // the reports take their time
			whole[i] -= time.Duration(float64(f.idle[i]) * float64(waited) / float64(fleetRest))
		}
		p50s, p99s = append(p50s, median(took)), append(p99s, percentile(took, 99))
	}
	for range fleetRounds {
		took, err := f.programmed("all")
		if err != nil {
			return err
		}
		statuses = append(statuses, took)
	}
	p99 := median(p99s)
	r.add(figure{f.name("published to acknowledged, p99"), ms(p99), "p50 " + ms(median(p50s)), 0, "≤ 1 s", p99 <= fleetP99})
	for _, raw := range []struct {
		what string
		rawFigure
	}{{"raw fan-out, nothing kept", plain}, {"raw, through the streams", kept}} {
		ratio := float64(p99) / float64(raw.p99)
		r.add(figure{f.name("the same"), ms(p99), raw.what + ", p99 " + ms(raw.p99) + ", " + raw.spent.aPlan(f.n*(fleetRounds+1)), ratio, "≤ 1.5×", ratio <= fleetRawRatio})
	}
	a := whole[1] / fleetRounds
	r.add(figure{
		f.name("controller's processor time"), ms(a), fmt.Sprintf("a change; until acknowledged %s; until the reports are kept, too, %s", acknowledged.aPlan(f.n*fleetRounds), whole.aPlan(f.n*fleetRounds)), 0,
		"≤ 1 s", a <= fleetProcessor,
	})
	r.add(figure{
		f.name("controller's memory, at most"), fmt.Sprintf("%.0f MiB", after[1].most),
		fmt.Sprintf("bus %.0f MiB, agents %.0f MiB", after[0].most, after[2].most), 0, "≤ 512 MiB", after[1].most <= fleetMemory,
	})
	r.add(figure{f.name("the policy's status"), ms(median(statuses)), "computed when asked", 0, "≤ 1 s", median(statuses) <= time.Second})
	return nil
}

// one changes what one session may send.
func (f *fleet) one(ctx context.Context, r *report) error {
	before, err := f.last(ctx, api.NounPlans)
	if err != nil {
		return err
	}
	if _, err := f.agents.do(ctx, fleetOrder{Do: "looked"}); err != nil {
		return err
	}
	var took []time.Duration
	woken := 0
	for round := range fleetRounds {
		time.Sleep(fleetPause)
		spec := fleetPolicy("one", tc.BitsPerSecond(10+round)*tc.Mbit)
		spec.AppliesTo.Nodes = []string{fleetNode(f.n / 2)}
		t, err := f.apply(ctx, spec, f.n/2, 1)
		if err != nil {
			return err
		}
		a, err := f.agents.do(ctx, fleetOrder{Do: "looked"})
		if err != nil {
			return err
		}
		took, woken = append(took, t...), max(woken, a.Count)
	}
	after, err := f.last(ctx, api.NounPlans)
	if err != nil {
		return err
	}
	written := after - before
	r.add(figure{
		f.name("nodes that a change of one wakes"), strconv.Itoa(woken), fmt.Sprintf("%d plans in %d changes; p50 %s", written, fleetRounds, ms(median(took))), 0,
		"1", woken == 1 && written == fleetRounds,
	})
	return nil
}

func (f *fleet) close() {
	for _, p := range f.parts() {
		if p != nil {
			p.kill()
		}
	}
	for _, c := range []*bus.Conn{f.traffic, f.asker} {
		if c != nil {
			c.NATS().Close()
		}
	}
	_ = os.RemoveAll(f.dir)
}
