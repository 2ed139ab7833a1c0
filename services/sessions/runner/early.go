package runner

import (
	"context"

	"agentyard.dev/services/sessions/runner/agent"
)

// earlyStart is an agent that starts while the runner still connects to the bus: half of
// the time from a session's creation to its running is the agent's own.
type earlyStart struct {
	cancel context.CancelFunc
	done   chan struct{}
	taken  bool

	agent agent.Agent // once done
	err   error
}

// startEarly starts the agent of a session's first incarnation, if it needs neither a
// repository nor an earlier conversation. What an agent on a protocol says before its first
// turn is not kept, so nothing is lost without the bus; a terminal's screen would be.
func (r *runner) startEarly(ctx context.Context) *earlyStart {
	argv := r.kind.Command(r.self, r.launch.Agent.Command, r.launch.Agent.Args)
	if r.launch.Incarnation != 1 || r.launch.Repository != nil || r.kind.Protocol != agent.ProtocolACP || len(argv) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &earlyStart{cancel: cancel, done: make(chan struct{})}
	go func() { // drop or take waits for it
		defer close(e.done)
		e.agent, e.err = r.start(ctx, r.agentConfig(argv, ""))
	}()
	return e
}

// take waits for the agent, which is the caller's then.
func (e *earlyStart) take(ctx context.Context) (agent.Agent, error) {
	select {
	case <-e.done:
		e.taken = true
		return e.agent, e.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// drop ends an agent that nobody took.
func (e *earlyStart) drop() {
	e.cancel()
	<-e.done
	if e.taken || e.agent == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = e.agent.Close(ctx) // the runner ends, and with it whatever is left of the sandbox
}
