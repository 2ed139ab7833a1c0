package promises

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust/trusttest"
)

const (
	patience = time.Minute
	node     = "n1"
	policy   = "all"

	kills = 30
	// watchEvery is how often the kernel is read meanwhile.
	watchEvery = 10 * time.Millisecond
	// most is how many policies rateOf tells apart; the last of them is the test's last.
	most = 251
	// writeEvery is the pause between two policies: with it the kills take less than they.
	writeEvery = 100 * time.Millisecond
	// callTimeout bounds one request to a controller that may be dead.
	callTimeout = 2 * time.Second
)

// yard is one node with three sessions, and the processes; the test is auth, the sessions service and the gateway.
type yard struct {
	*testing.T
	lab      *kerneltest.Lab
	links    map[string]*kerneltest.Session // by session
	ids      []string
	sessions *bus.Ledger[api.SessionRecord]
	nodes    *bus.Ledger[api.TrafficNodeRecord]
	gateway  *rpc.Client
	admin    context.Context //nolint:containedctx // carries the admin's token

	bus, agent, controller *process
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{T: t, lab: kerneltest.NewLab(t), links: map[string]*kerneltest.Session{}}
	bin, ringDir, at := build(t), t.TempDir(), address(t)
	ring, err := bus.OpenKeyring(ringDir)
	y.must(err)
	credentials := func(name string, creds []byte, err error) string {
		y.must(err)
		file := filepath.Join(t.TempDir(), name)
		y.must(os.WriteFile(file, creds, 0o600))
		return file
	}
	y.bus = newProcess(t, "bus", os.Args[0], []string{busMarker + "=" + ringDir + " " + t.TempDir() + " " + at})
	creds, err := ring.NodeCredentials(node)
	y.agent = newProcess(t, "agent", filepath.Join(bin, "tcagent"), nil, "-tcagent.node", node, "-tcagent.data", t.TempDir(),
		"-tcagent.namespace", y.lab.Node.Path(), "-tcagent.audit", "1s", "-bus.url", "nats://"+at, "-bus.credentials", credentials("agent", creds, err))
	creds, err = ring.ServiceCredentials("tcagent")
	y.controller = newProcess(t, "controller", filepath.Join(bin, "tccontroller"), nil, "-bus.url", "nats://"+at, "-bus.credentials", credentials("controller", creds, err))

	y.bus.start()
	connect := func(service string) *bus.Conn {
		creds, err := ring.ServiceCredentials(service)
		y.must(err)
		conn, err := bus.Connect(bus.Config{URL: "nats://" + at, Credentials: creds, Name: service})
		y.must(err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			_ = conn.Close(ctx) // the bus is gone
		})
		eventually(t, "the bus is up", func() (bool, string) { err := conn.Ready(t.Context()); return err == nil, fmt.Sprint(err) })
		return conn
	}
	key, _ := trusttest.Publish(t, connect("auth"))
	raw, err := token.Mint(key, api.Principal{ID: api.NewID(api.KindUser), Tenant: api.HomeTenant, Name: "admin", Roles: []api.Role{api.RoleAdmin}}, time.Now(), time.Hour)
	y.must(err)
	y.admin = token.WithRaw(context.Background(), raw)
	gateway := connect("gateway")
	y.gateway = rpc.NewClient(gateway, rpc.ClientConfig{Name: "gateway", Timeout: callTimeout})
	y.nodes = bus.ReadLedger[api.TrafficNodeRecord](gateway, api.NounNodes)
	y.sessions, err = bus.OpenLedger[api.SessionRecord](t.Context(), connect("sessions"), bus.LedgerConfig{Noun: "sessions"})
	y.must(err)
	return y
}

func (y *yard) must(err error) {
	y.Helper()
	if err != nil {
		y.Fatal(err)
	}
}

// link makes a session's place in the kernel, on the last octet of its address.
func (y *yard) link(octet int) (session string) {
	y.Helper()
	id, at := api.NewID(api.KindSession), y.lab.Node.AddSession(y.T, fmt.Sprintf("s%d", octet))
	at.AddAddress(y.T, fmt.Sprintf("10.99.1.%d/24", octet))
	at.Inhabit(y.T)
	y.links[id] = at
	y.ids = append(y.ids, id)
	return id
}

// run tells everybody that a session runs.
func (y *yard) run(id string) {
	y.Helper()
	var r api.SessionRecord
	r.ID, r.Tenant, r.Owner, r.Node, r.State = id, api.HomeTenant, api.NewID(api.KindUser), node, api.StateRunning
	r.Address = fmt.Sprintf("10.99.1.%d", slices.Index(y.ids, id)+1)
	key, meta := bus.Key{Tenant: r.Tenant, ID: id}, bus.Meta{Actor: "test", Verb: "create"}
	y.again("start a session", func(ctx context.Context) error {
		if _, err := y.sessions.Create(ctx, key, meta, r); err != nil && api.CodeOf(err) != api.CodeConflict { // an answer was lost
			return err
		}
		return nil
	})
}

// end tells everybody that a session has ended.
func (y *yard) end(id string) {
	y.Helper()
	y.again("end a session", func(ctx context.Context) error {
		_, err := y.sessions.Update(ctx, bus.Key{Tenant: api.HomeTenant, ID: id}, bus.Meta{Actor: "test", Verb: "end"}, func(r api.SessionRecord) (api.SessionRecord, error) {
			r.State = api.StateTerminated
			return r, nil
		})
		return err
	})
}

// again does what may fail while somebody is dead.
func (y *yard) again(what string, f func(context.Context) error) {
	y.Helper()
	eventually(y.T, what, func() (bool, string) {
		ctx, cancel := context.WithTimeout(y.Context(), callTimeout)
		defer cancel()
		err := f(ctx)
		return err == nil, fmt.Sprint(err)
	})
}

// rateOf is that of the nth policy: each has one of its own, and some are lower than the one before.
func rateOf(n int) tc.BitsPerSecond { return tc.BitsPerSecond(20+(n*37)%most) * tc.Mbit }

// spec is the nth policy.
func spec(n int) api.TrafficSpec {
	rate := api.TrafficRate{Ceiling: rateOf(n).String()}
	return api.TrafficSpec{Name: policy, TrafficRules: api.TrafficRules{Link: api.TrafficLink{Upload: rate, Download: rate}}}
}

// apply makes the nth policy the one that holds: once, whatever became of the tries before.
func (y *yard) apply(n int, rev uint64) (api.TrafficPolicy, error) {
	ctx, cancel := context.WithTimeout(y.admin, callTimeout)
	defer cancel()
	p, err := rpc.Call(ctx, y.gateway, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: policy, IfMatch: rev, Policy: spec(n)})
	if api.CodeOf(err) == api.CodeConflict { // a try whose answer was lost
		p, err = rpc.Call(ctx, y.gateway, api.GetTrafficPolicy, api.NameRef{Name: policy})
	}
	return p, err
}

// devices are a session's: what comes down, and what goes up.
func (y *yard) devices(id string) [2]string {
	at := y.links[id]
	return [2]string{at.Host, fmt.Sprintf("ayu%d", at.Interface.Index)}
}

// rate is what the kernel has for both directions of a session.
func (y *yard) rate(id string) (rates [2]tc.BitsPerSecond) {
	for i, device := range y.devices(id) {
		rates[i] = kerneltest.RateOf(y.T, y.lab.Node, device)
	}
	return rates
}

// inForce waits until the kernel has the nth policy for a session.
func (y *yard) inForce(id string, n int) {
	y.Helper()
	eventually(y.T, fmt.Sprintf("policy %d is in force", n), func() (bool, string) {
		got := y.rate(id)
		return got == [2]tc.BitsPerSecond{rateOf(n), rateOf(n)}, fmt.Sprint(got)
	})
}

// writer writes policy after policy while the others die.
type writer struct {
	mu      sync.Mutex
	n       int // of the policy that holds
	pending int // it may hold already
	rev     uint64
	stop    context.CancelFunc
	ended   chan struct{}
}

// write begins.
func (y *yard) write(from api.TrafficPolicy) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{rev: from.Rev, stop: cancel, ended: make(chan struct{})}
	y.Cleanup(w.halt)
	go func() {
		defer close(w.ended)
		for n := 1; n < most-1 && ctx.Err() == nil; {
			w.mu.Lock()
			w.pending = n
			rev := w.rev
			w.mu.Unlock()
			p, err := y.apply(n, rev)
			if err == nil {
				w.mu.Lock()
				w.rev = p.Rev
				if p.Link.Download.Ceiling == rateOf(n).String() {
					w.n = n
					n++
				}
				w.mu.Unlock()
			}
			kerneltest.Wait(writeEvery)
		}
	}()
	return w
}

func (w *writer) halt() {
	w.stop()
	<-w.ended
}

func (w *writer) at() (n, pending int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, w.pending
}

// watch reads the kernel all the time: a session that is shaped stays so, by a policy that somebody wrote, and never by one from before. It returns what ends it.
func (y *yard) watch(w *writer, ids ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		last, known := map[string]int{}, map[tc.BitsPerSecond]int{}
		for n := range most {
			known[rateOf(n)] = n
		}
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for looks := 0; ; looks++ {
			for _, id := range ids {
				for _, device := range y.devices(id) {
					rate := kerneltest.RateOf(y.T, y.lab.Node, device)
					n, ok := known[rate]
					switch _, pending := w.at(); {
					case rate == 0:
						y.Errorf("%s is not shaped any more", device)
					case !ok || n > pending:
						y.Errorf("%s has %v, which no policy said", device, rate)
					case n < last[device]:
						y.Errorf("%s has policy %d again, after %d", device, n, last[device])
					default:
						last[device] = n
						continue
					}
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				y.Logf("the kernel was read %d times", looks)
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	y.Cleanup(stop)
	return stop
}

// TestKill kills controller, node agent and bus at any moment of a stream of policies, two of them at once now and then, and leaves them away for a while: what
// the kernel was told stays there, older policies do not come back, and when all are up again every session has what the last policy says.
func TestKill(t *testing.T) {
	y := newYard(t)
	y.controller.start()
	y.agent.start()
	first, second, leaves, comes := y.link(1), y.link(2), y.link(3), y.link(4)
	for _, id := range []string{first, second, leaves} {
		y.run(id)
	}
	var p api.TrafficPolicy
	y.again("the first policy", func(context.Context) (err error) {
		p, err = y.apply(0, 0)
		return err
	})
	for _, id := range []string{first, second, leaves} {
		y.inForce(id, 0)
	}
	w := y.write(p)
	stop := y.watch(w, first, second)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := []*process{y.bus, y.agent, y.controller}
	order := make([]*process, kills)
	for i := range order {
		order[i] = all[i%len(all)]
	}
	random.Shuffle(kills, func(i, j int) { order[i], order[j] = order[j], order[i] })
	up := func() {
		for _, p := range all {
			p.start()
		}
	}
	for i, victim := range order {
		kerneltest.Wait(time.Duration(random.IntN(200)) * time.Millisecond)
		victim.kill()
		if random.IntN(3) > 0 { // else it is away until after the next one's death
			up()
		}
		switch i {
		case kills / 3:
			up()
			y.run(comes)
		case kills * 2 / 3:
			up()
			y.end(leaves)
		}
		if i%(kills/3) == kills/3-1 { // else they might be dead all the time, and nothing happen at all
			up()
			reached, _ := w.at()
			eventually(t, "policies are written and come into force again", func() (bool, string) {
				n, _ := w.at()
				got := y.rate(first)
				return n > reached && slices.ContainsFunc([]int{n - 1, n, n + 1}, func(n int) bool { return n > reached && got[0] == rateOf(n) }), fmt.Sprintf("%d was written after %d, the kernel has %v", n, reached, got)
			})
		}
	}
	up()
	w.halt()
	written, _ := w.at()
	t.Logf("%d policies were written", written)
	const last = most - 1 // whatever came of the writer's last try
	w.mu.Lock()
	w.pending = last
	w.mu.Unlock()
	y.again("the last policy", func(context.Context) error {
		p, err := y.apply(last, w.rev)
		if err == nil && p.Link.Download.Ceiling != rateOf(last).String() {
			w.rev = p.Rev
			return api.Errorf(api.CodeConflict, "another one holds")
		}
		return err
	})
	for _, id := range []string{first, second, comes} {
		y.inForce(id, last)
	}
	eventually(t, "the session that ended has nothing any more", func() (bool, string) {
		got := y.rate(leaves)
		return got == [2]tc.BitsPerSecond{}, fmt.Sprint(got)
	})
	y.again("the controller knows", func(ctx context.Context) error {
		p, err := rpc.Call(token.WithRaw(ctx, token.Raw(y.admin)), y.gateway, api.GetTrafficPolicy, api.NameRef{Name: policy})
		if err == nil && (p.Status == nil || p.Status.Sessions != 3 || len(p.Status.Behind) > 0) {
			return fmt.Errorf("the status is %+v", p.Status)
		}
		return err
	})
	stop()
}
