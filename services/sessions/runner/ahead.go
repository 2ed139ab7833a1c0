package runner

import (
	"errors"
	"os/exec"

	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/sandbox"
)

// Ahead is what a spare runner has ready for its first agent: a sandbox that waits for its orders, with pipes.
type Ahead struct {
	box   *sandbox.Ahead
	child *agent.Child
}

// startAhead starts a sandbox as the session's will be.
func startAhead(spec launch.Sandbox) (*Ahead, error) {
	box, err := sandbox.Prepare(spec)
	if err != nil {
		return nil, err
	}
	child, err := agent.StartChild(&agent.Program{Cmd: box.Cmd, Kill: killSandbox})
	if err != nil {
		box.Drop()
		return nil, err
	}
	return &Ahead{box: box, child: child}, nil
}

// order has the agent started. After an error the sandbox has ended.
func (a *Ahead) order(spec launch.Sandbox, dir string, argv, env []string) (*agent.Program, error) {
	err := a.box.Order(spec, dir, argv, env)
	select {
	case <-a.child.Done():
		err = errors.Join(err, a.child.Death())
	default:
	}
	if err != nil {
		a.drop()
		return nil, err
	}
	return a.child.Program(), nil
}

// drop ends the sandbox and waits for its end.
func (a *Ahead) drop() {
	a.box.Drop()
	a.child.Kill()
	<-a.child.Done()
}

func killSandbox(cmd *exec.Cmd) error { return sandbox.Kill(cmd) }
