package runner

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// gate keeps the session's agent from starting before its packets may leave: its network, if it has one of its own and is held, opens when the node's
// agent has the session's traffic plan in force, or when it has waited for that in vain (launch.Network.Hold).
type gate struct {
	stop     func() // ends the wait
	close    func() // likewise, and waits for its end
	reported func() // the sessions service knows of the network: the plan can be made
	opened   chan struct{}
	err      error // once opened
}

// openGate begins to open the gate. What it waits for ends with ctx.
func (r *runner) openGate(ctx context.Context) *gate {
	g := &gate{opened: make(chan struct{}), stop: func() {}, close: func() {}, reported: func() {}}
	if r.network == nil {
		close(g.opened)
		return g
	}
	known := make(chan struct{})
	g.reported = sync.OnceFunc(func() { close(known) })
	ctx, cancel := context.WithCancel(ctx)
	g.stop = cancel
	g.close = func() {
		cancel()
		<-g.opened
	}
	go func() { // close waits for it
		defer close(g.opened)
		g.err = r.openNetwork(ctx, known)
	}()
	return g
}

func (r *runner) openNetwork(ctx context.Context, known <-chan struct{}) error {
	waiting, enough := context.WithCancel(ctx)
	defer enough()
	hold := r.launch.Sandbox.Network.Hold.D()
	go func() { // ends with the wait
		select {
		case <-known:
		case <-waiting.Done():
			return
		}
		t := time.NewTimer(hold)
		defer t.Stop()
		select {
		case <-t.C:
			enough()
		case <-waiting.Done():
		}
	}()
	began := time.Now()
	inForce, err := r.network.Open(waiting)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("wait for the session's network: %w", context.Cause(ctx))
	case err != nil:
		return err
	case !inForce:
		r.log.Warn("the session's traffic plan is not in force; its agent starts without, since nobody on this machine says more", "waited", hold.String())
	default:
		r.log.Info("the session's network is open", "waited", time.Since(began).String())
	}
	return nil
}

// pass waits until the gate is open.
func (g *gate) pass() error {
	<-g.opened
	return g.err
}
