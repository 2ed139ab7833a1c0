package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// group runs actors together. It is our own because github.com/oklog/run tells its actors to stop in the order of adding and
// all at once, and waits for ever for one that does not return.
type group struct {
	actors  []*actor
	timeout time.Duration
	logger  *slog.Logger
	first   chan *actor // the actor that returned first
}

// actor is one long-running part of a process.
type actor struct {
	name string
	run  func(context.Context) error

	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	err    error         // of run; read after done
}

// failure returns the actor's error as Run reports it, or nil: once told to stop, to say so is no failure.
func (a *actor) failure(told bool) error {
	if a.err == nil || (told && errors.Is(a.err, context.Canceled)) {
		return nil
	}
	return fmt.Errorf("%s: %w", a.name, a.err)
}

// start starts all actors, in order. Each has a context of its own, which stop ends.
func (g *group) start(ctx context.Context) {
	g.first = make(chan *actor, len(g.actors)) // so that no actor waits to report
	for _, a := range g.actors {
		own, cancel := context.WithCancel(ctx)
		a.cancel, a.done = cancel, make(chan struct{})
		go func() {
			a.err = a.run(own)
			close(a.done)
			g.first <- a
		}()
	}
}

// stop tells and awaits the actors, the last one first, and returns the errors of those that failed to stop; except's is known already. Once nine tenths of the timeout
// are over it tells all that are left: whoever waits behind an actor that hangs shall still come to close what it holds.
func (g *group) stop(except *actor) error {
	patience := time.NewTimer(g.timeout * 9 / 10)
	defer patience.Stop()
	end := time.NewTimer(g.timeout)
	defer end.Stop()

	next := len(g.actors) - 1
	for ordered := true; ordered && next >= 0; {
		a := g.actors[next]
		a.cancel()
		select {
		case <-a.done:
			next--
		case <-patience.C:
			g.logger.Warn("an actor is slow to stop; telling the others", "actor", a.name)
			ordered = false
		}
	}
	left := g.actors[:next+1]
	for _, a := range left {
		a.cancel()
	}
	over := false
	for _, a := range left {
		select {
		case <-a.done:
			continue
		default:
		}
		if over {
			continue
		}
		select {
		case <-a.done:
		case <-end.C:
			over = true
		}
	}

	var errs []error
	for _, a := range g.actors {
		select {
		case <-a.done:
			if a != except {
				errs = append(errs, a.failure(true))
			}
		default:
			errs = append(errs, fmt.Errorf("%s: did not stop within %v", a.name, g.timeout))
		}
	}
	return errors.Join(errs...)
}
