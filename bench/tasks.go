package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/libs/trust/trusttest"
	"agentyard.dev/services/scheduler"
)

// taskYard is what the benchmarks of tasks run on: a real bus with file storage on a fresh directory, and the real scheduler on it, in one process as
// in a standalone yard, each with a connection and a credential of its own. Operations come over the bus with a minted token
// that the scheduler verifies. What is not real: there is no gateway and no auth service (the token's key is put into the ledger that auth
// would keep), and no sessions service: a task's work is a function that returns at once (scheduler.Deps.Execute), as a peer's worker is.
type taskYard struct {
	srv     *bus.Server
	ring    *bus.Keyring
	key     token.SigningKey
	client  *rpc.Client
	conns   []*bus.Conn
	cleanUp func()
}

// taskTenants share the queue in every benchmark, so that fairness has something to do.
const taskTenants = 4

func startTaskYard(ctx context.Context) (*taskYard, error) {
	daemon.KeepHeapFloor() // as every process of ours
	srv, ring, stop, err := benchBus(ctx)
	if err != nil {
		return nil, err
	}
	y := &taskYard{srv: srv, ring: ring, cleanUp: stop}
	if err := y.prepare(ctx); err != nil {
		y.stop()
		return nil, err
	}
	return y, nil
}

// prepare does what auth and sessions would have done.
func (y *taskYard) prepare(ctx context.Context) error {
	auth, err := y.connect("auth")
	if err != nil {
		return err
	}
	sessions, err := y.connect("sessions")
	if err != nil {
		return err
	}
	gateway, err := y.connect("gateway")
	if err != nil {
		return err
	}
	y.client = rpc.NewClient(gateway, rpc.ClientConfig{Name: "gateway"})
	if y.key, _, err = trusttest.Prepare(ctx, auth); err == nil {
		_, err = bus.OpenLedger[api.SessionRecord](ctx, sessions, bus.LedgerConfig{Noun: "sessions"})
	}
	return err
}

// connect connects as a service, in process as in a standalone yard.
func (y *taskYard) connect(service string) (*bus.Conn, error) {
	creds, err := y.ring.ServiceCredentials(service)
	if err != nil {
		return nil, err
	}
	conn, err := bus.Connect(bus.Config{InProcess: y.srv, Credentials: creds, Name: service})
	if err == nil {
		y.conns = append(y.conns, conn)
	}
	return conn, err
}

func (y *taskYard) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, conn := range y.conns {
		_ = conn.Close(ctx)
	}
	y.cleanUp()
}

// taskScheduler is one replica of the scheduler.
type taskScheduler struct {
	*scheduler.Service
	conn    *bus.Conn
	metrics *prometheus.Registry
	stop    func()
}

// start starts a replica and returns when it answers.
func (y *taskYard) start(ctx context.Context, cfg scheduler.Config, execute func(context.Context, api.Task) api.TaskResult) (*taskScheduler, error) {
	conn, err := y.connect("scheduler")
	if err != nil {
		return nil, err
	}
	keys := trust.New(conn, nil)
	metrics := prometheus.NewRegistry()
	s := scheduler.New(cfg, scheduler.Deps{Bus: conn, Auth: token.NewVerifier(keys, keys, nil), Metrics: metrics, Execute: execute})
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	wg.Go(func() { errs <- keys.Run(run) })
	wg.Go(func() { errs <- s.Run(run) })
	r := &taskScheduler{Service: s, conn: conn, metrics: metrics, stop: sync.OnceFunc(func() { cancel(); wg.Wait() })}
	for s.Ready(ctx) != nil || keys.Check(ctx) != nil {
		select {
		case err := <-errs:
			r.stop()
			return nil, errors.Join(errors.New("the scheduler ended"), err)
		case <-ctx.Done():
			r.stop()
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return r, nil
}

// person returns ctx with which a member of a tenant asks operations.
func (y *taskYard) person(ctx context.Context, tenant string, roles ...api.Role) (context.Context, error) {
	p := api.Principal{ID: api.NewID(api.KindUser), Tenant: tenant, Name: "bench", Roles: roles}
	raw, err := token.Mint(y.key, p, time.Now(), time.Hour)
	return token.WithRaw(ctx, raw), err
}

func taskTenant(i int) string { return fmt.Sprintf("tenant-%d", i%taskTenants) }

// members returns one member of each tenant.
func (y *taskYard) members(ctx context.Context) ([]context.Context, error) {
	people := make([]context.Context, taskTenants)
	for i := range people {
		var err error
		if people[i], err = y.person(ctx, taskTenant(i), api.RoleMember); err != nil {
			return nil, err
		}
	}
	return people, nil
}

// ended returns how many tasks have ended well, as the ledger says and the replica's own metrics count.
func (s *taskScheduler) ended() (int, error) {
	families, err := s.metrics.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() != "agentyard_tasks_ended_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); len(l) == 1 && l[0].GetValue() == string(api.TaskSucceeded) {
				return int(m.GetCounter().GetValue()), nil
			}
		}
	}
	return 0, nil
}

// awaitEnded waits until n tasks have ended well.
func (s *taskScheduler) awaitEnded(ctx context.Context, n int) error {
	const look = 20 * time.Millisecond // to look is work that counts
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		got, err := s.ended()
		if err != nil || got >= n {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d tasks have ended: %w", got, n, ctx.Err())
		}
	}
}
