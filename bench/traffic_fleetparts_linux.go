package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/tcagent"
	"agentyard.dev/services/tcagent/controller"
)

// The names of the fleet's parts.
const (
	partBus        = "fleet-bus"
	partController = "fleet-controller"
	partAgents     = "fleet-agents"
)

func init() {
	inner[partBus] = func(ctx context.Context) error {
		return servePart(partBus, func(o fleetOrder) (a fleetAnswer, err error) { // "serve"
			keys, err := bus.OpenKeyring(filepath.Join(o.Dir, "keys"))
			if err != nil {
				return a, err
			}
			srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: filepath.Join(o.Dir, "bus"), Listen: o.URL, Keyring: keys})
			if err != nil {
				return a, err
			}
			return fleetAnswer{URL: srv.URL()}, nil
		})
	}
	inner[partController] = func(ctx context.Context) error { return servePart(partController, (&controllerPart{ctx: ctx}).do) }
	inner[partAgents] = func(ctx context.Context) error {
		return servePart(partAgents, (&agentsPart{ctx: ctx}).do)
	}
}

func fleetNode(i int) string { return fmt.Sprintf("n%05d", i) }

// fleetSession is the one session of node i.
func fleetSession(i int) string { return api.DeriveID(api.KindSession, "bench", fleetNode(i)) }

// fleetConnect connects to the bus at url as the process that has these credentials would.
func fleetConnect(url, name string, creds []byte, err error) (*bus.Conn, error) {
	if err != nil {
		return nil, err
	}
	return bus.Connect(bus.Config{URL: url, Credentials: creds, Name: name, Crowd: name == bus.NodeService})
}

// controllerPart is the traffic controller, as its command puts it together.
type controllerPart struct {
	ctx context.Context

	mu      sync.Mutex
	applied map[string]uint64 // by node: the revision of its session's plan that is in force, as it reported last
	pending map[string]uint64 // of those that are waited for: the one that was before
	at      []time.Time       // when each reported
	done    chan struct{}
}

// do: "run" starts it; "expect" begins to wait for newer plans of N nodes from From on, and "await" waits until all are reported.
func (c *controllerPart) do(o fleetOrder) (a fleetAnswer, err error) {
	switch o.Do {
	case "run":
		return a, c.run(o)
	case "expect":
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending, c.at, c.done = map[string]uint64{}, nil, make(chan struct{})
		for i := o.From; i < o.From+o.N; i++ {
			c.pending[fleetNode(i)] = c.applied[fleetNode(i)]
		}
	case "await":
		c.mu.Lock()
		done := c.done
		c.mu.Unlock()
		late := time.NewTimer(fleetWait)
		defer late.Stop()
		select {
		case <-done:
		case <-late.C:
			c.mu.Lock()
			defer c.mu.Unlock()
			return a, fmt.Errorf("%d nodes have not reported their plan in %v", len(c.pending), fleetWait)
		}
		a.At = c.at
	}
	return a, nil
}

func (c *controllerPart) run(o fleetOrder) error {
	keys, err := bus.OpenKeyring(filepath.Join(o.Dir, "keys"))
	if err != nil {
		return err
	}
	creds, err := keys.ServiceCredentials("tcagent")
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	conn, err := bus.Connect(bus.Config{URL: o.URL, Credentials: creds, Name: "tcagent", Logger: log})
	if err != nil {
		return err
	}
	c.applied = map[string]uint64{}
	trusted := trust.New(conn, nil)
	service := controller.New(controller.DefaultConfig(), controller.Deps{
		Logger: log, Bus: conn, Auth: token.NewVerifier(trusted, trusted, nil), Reported: c.reported,
	})
	ended := make(chan error, 2)
	go func() { ended <- trusted.Run(c.ctx) }() // until the process ends
	go func() { ended <- service.Run(c.ctx) }()
	for late := time.Now().Add(fleetWait); ; {
		ready := errors.Join(service.Ready(c.ctx), trusted.Check(c.ctx))
		if ready == nil {
			return nil
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("the controller ended"), err)
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(late) {
				return ready
			}
		}
	}
}

// reported takes note of a report that the controller has heard.
func (c *controllerPart) reported(node string, r api.TrafficNodeRecord) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range r.Applied {
		if a.State != "applied" {
			continue
		}
		c.applied[node] = a.Rev
		if before, ok := c.pending[node]; ok && a.Rev > before {
			delete(c.pending, node)
			if c.at = append(c.at, now); len(c.pending) == 0 {
				close(c.done)
			}
		}
	}
}

// agentsPart is the nodes' agents: all of them, but for the kernels.
type agentsPart struct {
	ctx   context.Context
	conns []*bus.Conn
	looks []atomic.Int64 // how often each agent had a plan to apply
	seen  []int64        // when it was asked last
	raw   func()         // ends the reference's subscriptions
}

// do: "connect" makes N connections; "raw" and "raw-stream" have them answer what the reference sends (traffic_fleetraw_linux.go), "raw-end" ends
// that; "run" starts the agents; "looked" counts those that had something to apply since it was asked last, "connected" the connections.
func (p *agentsPart) do(o fleetOrder) (a fleetAnswer, err error) {
	switch o.Do {
	case "connect":
		return a, p.connect(o)
	case "raw", "raw-stream":
		p.raw, err = p.answerRaw(o.Do == "raw-stream")
		return a, err
	case "raw-end":
		p.raw()
	case "run":
		p.run()
	case "looked":
		for i := range p.looks {
			if n := p.looks[i].Load(); n != p.seen[i] {
				p.seen[i] = n
				a.Count++
			}
		}
	case "connected":
		for _, c := range p.conns {
			if c.NATS().IsConnected() {
				a.Count++
			}
		}
	}
	return a, nil
}

func (p *agentsPart) connect(o fleetOrder) error {
	keys, err := bus.OpenKeyring(filepath.Join(o.Dir, "keys"))
	if err != nil {
		return err
	}
	p.conns, p.looks, p.seen = make([]*bus.Conn, o.N), make([]atomic.Int64, o.N), make([]int64, o.N)
	return each(o.N, func(i int) error {
		creds, err := keys.NodeCredentials(fleetNode(i))
		if err != nil {
			return err
		}
		p.conns[i], err = fleetConnect(o.URL, bus.NodeService, creds, err)
		return err
	})
}

func (p *agentsPart) run() {
	can := fleetCapabilities
	for i, conn := range p.conns {
		// What it costs to look at what nobody changed is not asked here, and would count as looking.
		agent := tcagent.New(tcagent.Config{Node: fleetNode(i), Audit: time.Hour}, tcagent.Deps{
			Bus: conn, Version: "bench", Rehearsal: &tcagent.Rehearsal{Capabilities: can, Applied: func(string) { p.looks[i].Add(1) }},
		})
		go func() { _ = agent.Run(p.ctx) }() // until the process ends
	}
}

var fleetCapabilities = tc.Capabilities{HTB: true, FQCodel: true, SFQ: true, BFIFO: true, IFB: true, Peer: true, BPF: true, TicksPerSecond: 15_625_000}

// each calls f for 0 to n-1, some at a time.
func each(n int, f func(int) error) error {
	var (
		next  atomic.Int64
		first atomic.Pointer[error]
		wg    sync.WaitGroup
	)
	for range fleetSetUp {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && first.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}
