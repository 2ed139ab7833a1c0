// Package parts runs what a service consists of: goroutines that work until the service is told to stop, the first of which to fail ends the others.
//
//	group, ctx := parts.New(ctx)
//	defer group.Stop()
//	group.Go("follow sessions", view.Run)
//	if !group.Await(view.Ready()) {
//		return group.Wait()
//	}
//	group.Go("serve", server.Run)
//	return group.Wait()
package parts

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group owns its parts: when Wait or Stop has returned, none of them runs. Its methods are called by the goroutine that made it.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// New returns a group without parts, and the context that they get: it ends with ctx, when a part fails, or by Stop. Whoever calls New defers Stop.
func New(ctx context.Context) (*Group, context.Context) {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g, g.ctx
}

// Go starts a part, which returns when its context has ended. If it returns an error before, the group ends, for that reason; what it returns
// afterwards comes of having been told to stop, and is dropped. A part that returns nil ends nothing. The name says, in an error, what was being
// done: "follow sessions".
func (g *Group) Go(name string, run func(context.Context) error) {
	g.wg.Go(func() {
		if err := run(g.ctx); err != nil && g.ctx.Err() == nil {
			g.cancel(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// Await waits until all of ready are closed, and reports false if the group has ended before.
func (g *Group) Await(ready ...<-chan struct{}) bool {
	for _, c := range ready {
		select {
		case <-c:
		case <-g.ctx.Done():
			return false
		}
	}
	return true
}

// Wait waits until the group has ended, and each part with it. It returns the error of the part that failed first, under its name, or nil when
// the group was merely told to stop, which [context.Canceled] is too.
func (g *Group) Wait() error {
	<-g.ctx.Done()
	g.wg.Wait()
	if err := context.Cause(g.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Stop ends the group, if it has not ended, and waits for each part.
func (g *Group) Stop() {
	g.cancel(nil)
	g.wg.Wait()
}
