package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/process"
)

// cluster is a runtime that several replicas share: local processes, of whose end each replica is told.
type cluster struct {
	*process.Runtime
	mu    sync.Mutex
	nodes []*node
}

// node is the cluster as one replica sees it.
type node struct {
	*cluster
	exits  chan sessions.Exit
	starts atomic.Int64
	gate   atomic.Pointer[func(launch.Launch)] // called before each start
}

func newCluster(y *yard) *cluster {
	c := &cluster{Runtime: y.runtime()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			y.t.Error(err)
		}
	})
	wg.Go(func() {
		for {
			select {
			case x := <-c.Runtime.Exits():
				c.mu.Lock()
				for _, n := range c.nodes {
					n.exits <- x
				}
				c.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	})
	y.t.Cleanup(func() { cancel(); wg.Wait() })
	return c
}

func (c *cluster) join() *node {
	n := &node{cluster: c, exits: make(chan sessions.Exit, 1024)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	return n
}

func (n *node) Exits() <-chan sessions.Exit { return n.exits }

func (n *node) Start(ctx context.Context, l launch.Launch) (sessions.Instance, error) {
	n.starts.Add(1)
	if gate := n.gate.Load(); gate != nil {
		(*gate)(l)
	}
	return n.Runtime.Start(ctx, l)
}

// retryAfter is how long a request of a pair's client waits for an answer, pausing and resuming included.
const retryAfter = 5 * time.Second

// pair is a yard with two replicas of the sessions service.
type pair struct {
	*yard
	cluster  *cluster
	nodes    [2]*node
	replicas [2]*replica
}

func newPair(t *testing.T, change func(*sessions.Config)) *pair {
	t.Helper()
	p := &pair{yard: emptyYard(t, change)}
	// A request that a replica took with it when it was killed is asked again.
	p.client = rpc.NewClient(bustest.Connect(t, p.srv, p.ring, "gateway"), rpc.ClientConfig{Name: "gateway", Timeout: retryAfter})
	p.cluster = newCluster(p.yard)
	for i := range p.replicas {
		p.nodes[i] = p.cluster.join()
		p.replicas[i] = p.run(p.nodes[i])
	}
	t.Cleanup(func() {
		p.removeAll()
		for _, r := range p.replicas {
			r.stop()
		}
	})
	return p
}

func (p *pair) run(n *node) *replica {
	info := p.cluster.Info()
	info.Shared, info.Node = true, ""
	return p.serve(n, info)
}

// leader returns which replica starts sessions.
func (p *pair) leader(ctx context.Context) int {
	p.t.Helper()
	before := [2]int64{p.nodes[0].starts.Load(), p.nodes[1].starts.Load()}
	p.reaches(ctx, p.create(ctx, api.CreateSessionRequest{}).ID, api.StateRunning)
	for i, n := range p.nodes {
		if n.starts.Load() > before[i] {
			return i
		}
	}
	p.t.Fatal("nobody started it")
	return 0
}

func TestReplicas(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	ana := p.as("ana")
	first := p.leader(ana)

	t.Run("a profile is there for all at once", func(t *testing.T) {
		boss := p.as("boss", api.RoleAdmin)
		for i := range 50 { // each call may meet either replica
			name := fmt.Sprint("new", i)
			if _, err := rpc.Call(boss, p.client, api.CreateProfile, api.Profile{Name: name, Agent: api.Agent{Kind: "demo"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := rpc.Call(boss, p.client, api.GetProfile, api.NameRef{Name: name}); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("one reconciles, all answer", func(t *testing.T) {
		other := p.nodes[1-first].starts.Load()
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				s := p.create(ana, api.CreateSessionRequest{Wait: "running"})
				for i := range 4 { // each call may meet either replica
					m := p.send(ana, s.ID, fmt.Sprint("echo ", i))
					p.answer(ana, s.ID, m.ID)
				}
				p.eventually("it is idle again", func() bool { return p.get(ana, s.ID).Activity == api.ActivityIdle })
				if got := p.get(ana, s.ID); got.State != api.StateRunning {
					t.Errorf("%s: %s", got.State, got.Reason)
				}
				if _, err := rpc.Call(ana, p.client, api.DeleteSession, api.SessionRef{ID: s.ID}); err != nil {
					t.Error(err)
				}
				p.reaches(ana, s.ID, api.StateTerminated)
				told := ""
				p.eventually("the log tells of its end", func() bool {
					evs, _, err := p.log.Read(t.Context(), s.Tenant, s.ID, api.WriterUser, 0, 100)
					if err != nil {
						t.Error(err)
					}
					told = ""
					for _, ev := range evs {
						told += " " + string(ev.State)
					}
					return strings.HasSuffix(told, string(api.StateTerminated))
				})
				if told = strings.Join(strings.Fields(told), " "); told != "pending starting running stopping terminated" {
					t.Errorf("the log tells %q", told)
				}
			})
		}
		wg.Wait()
		if n := p.nodes[1-first].starts.Load(); n != other {
			t.Errorf("the replica that does not lead started %d sessions", n-other)
		}
	})
	t.Run("a leader that is killed in the middle of a start is followed", func(t *testing.T) {
		kept := p.create(ana, api.CreateSessionRequest{Wait: "running"})
		pid := p.runnerPID(kept.ID)
		held, gates := make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(gates) })
		defer release()
		var once sync.Once
		gate := func(launch.Launch) { once.Do(func() { close(held) }); <-gates }
		p.nodes[first].gate.Store(&gate)
		s := p.create(ana, api.CreateSessionRequest{Prompt: "echo after all"})
		<-held
		begin := time.Now()
		killed := make(chan struct{})
		go func() { defer close(killed); p.replicas[first].kill() }()
		p.reaches(ana, s.ID, api.StateRunning)
		t.Logf("killed → the session of its successor runs: %s", time.Since(begin))
		release() // what it had begun comes late, and to nothing
		<-killed
		p.answer(ana, s.ID, api.DeriveID(api.KindMessage, s.Tenant, s.ID, "prompt"))
		if now := p.runnerPID(kept.ID); now != pid {
			t.Errorf("the takeover replaced runner %d by %d", pid, now)
		}
		list, err := p.cluster.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, i := range list {
			seen[i.Session]++
		}
		if seen[s.ID] != 1 || seen[kept.ID] != 1 {
			t.Errorf("runners: %v", seen)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.eventually("the successor follows a runner's death", func() bool {
			return p.get(ana, kept.ID).State == api.StateRunning && p.runnerPID(kept.ID) != pid
		})
	})
	t.Run("a newer one comes beside it and takes over without harm", func(t *testing.T) {
		s := p.create(ana, api.CreateSessionRequest{Wait: "running"})
		pid := p.runnerPID(s.ID)
		p.nodes[first] = p.cluster.join()
		p.replicas[first] = p.run(p.nodes[first])
		m := p.send(ana, s.ID, "sleep 300ms")
		p.replicas[1-first].stop()
		p.answer(ana, s.ID, m.ID)
		if p.leader(ana) != first {
			t.Error("who stopped still leads")
		}
		if now := p.runnerPID(s.ID); now != pid {
			t.Errorf("runner %d was replaced by %d", pid, now)
		}
		p.nodes[1-first] = p.cluster.join()
		p.replicas[1-first] = p.run(p.nodes[1-first])
	})
}

func TestReplicasQuota(t *testing.T) {
	t.Parallel()
	const bound = 4
	p := newPair(t, func(c *sessions.Config) { c.MaxPerUser = bound })
	ana := p.as("ana")
	var mu sync.Mutex
	var made []string
	var wg sync.WaitGroup
	for range 8 * bound {
		wg.Go(func() {
			s, err := rpc.Call(ana, p.client, api.CreateSession, api.CreateSessionRequest{})
			if err != nil {
				if api.CodeOf(err) != api.CodeExhausted {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, s.ID)
		})
	}
	wg.Wait()
	run := 0
	for _, id := range made {
		var s api.Session
		p.eventually("each is decided", func() bool {
			s = p.get(ana, id)
			return s.State == api.StateRunning || s.State == api.StateFailed
		})
		switch {
		case s.State == api.StateRunning:
			run++
		case !strings.Contains(s.Reason, "the limit"):
			t.Errorf("failed with %q", s.Reason)
		}
	}
	t.Logf("%d were admitted, %d run", len(made), run)
	if run != bound {
		t.Errorf("%d run, want %d", run, bound)
	}
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	y := emptyYard(t, func(c *sessions.Config) { c.Reconcile = 100 * time.Millisecond })
	metrics := prometheus.NewRegistry()
	y.metrics = metrics
	c := newCluster(y)
	n := c.join()
	info := c.Info()
	info.Shared = true
	r := y.serve(n, info)
	t.Cleanup(func() { y.removeAll(); r.stop() })
	ana := y.as("ana")
	s := y.create(ana, api.CreateSessionRequest{Wait: "running"})
	counted := func(kind string) float64 {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "agentyard_sessions_orphans_total" && m.GetLabel()[0].GetValue() == kind {
					return m.GetCounter().GetValue()
				}
			}
		}
		return 0
	}

	t.Run("a runner without a session", func(t *testing.T) {
		creds, err := y.ring.SessionIssuer().Credentials(api.HomeTenant, s.ID)
		if err != nil {
			t.Fatal(err)
		}
		id := api.NewID(api.KindSession)
		_, err = c.Runtime.Start(t.Context(), launch.Launch{
			Tenant: api.HomeTenant, Session: id, Incarnation: 1, BusURL: y.srv.URL(), Credentials: creds, EndpointKey: "k",
			Agent: api.Agent{Kind: "demo"},
		})
		if err != nil {
			t.Fatal(err)
		}
		pid := y.runnerPID(id)
		y.eventually("it is gone, with its directory", func() bool {
			_, err := os.Stat(filepath.Join(y.dir, "sessions", id))
			return !alive(pid) && errors.Is(err, os.ErrNotExist)
		})
		y.eventually("it is counted", func() bool { return counted("runner") > 0 })
	})
	t.Run("a session whose runner vanished unheard", func(t *testing.T) {
		pid := y.runnerPID(s.ID)
		c.mu.Lock() // the news is held up
		c.nodes = nil
		c.mu.Unlock()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		y.eventually("it runs again", func() bool {
			return y.get(ana, s.ID).State == api.StateRunning && y.runnerPID(s.ID) != pid
		})
		c.mu.Lock()
		c.nodes = []*node{n}
		c.mu.Unlock()
		y.eventually("it is counted", func() bool { return counted("session") > 0 })
	})
	t.Run("a workspace without a session", func(t *testing.T) {
		lost := y.create(ana, api.CreateSessionRequest{Wait: "running"})
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: lost.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, lost.ID, api.StatePaused)
		ledger, err := bus.OpenLedger[api.SessionRecord](t.Context(), sessionsConn(y), bus.LedgerConfig{Noun: "sessions"})
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(y.dir, "sessions", lost.ID)
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		if err := ledger.Purge(t.Context(), bus.Key{Tenant: lost.Tenant, ID: lost.ID}); err != nil {
			t.Fatal(err)
		}
		y.eventually("it is removed", func() bool { _, err := os.Stat(dir); return errors.Is(err, os.ErrNotExist) })
		y.eventually("it is counted", func() bool { return counted("kept") > 0 })
	})
	t.Run("what is in order stays", func(t *testing.T) {
		pid := y.runnerPID(s.ID)
		m := y.send(ana, s.ID, "sleep 1s") // ten times the interval
		y.answer(ana, s.ID, m.ID)
		if now := y.runnerPID(s.ID); now != pid {
			t.Errorf("runner %d was replaced by %d", pid, now)
		}
	})
}
