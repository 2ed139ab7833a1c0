// Package agent is the port between the runner and the programs it drives: what a
// running agent is to the runner ([Agent]), what the runner is to an adapter ([Sink]),
// and which kinds of agent there are ([Kinds]).
//
// Adapters live in packages named by protocol (acp, claude, terminal) and all pass the
// suite of package agenttest.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"

	"agentyard.dev/libs/api"
)

// Agent is one running agent process and its one conversation.
type Agent interface {
	// Prompt runs one turn and returns when it has ended; everything that happens in
	// it goes to the Sink before Prompt returns. One turn runs at a time. A nil error
	// is an ended turn, also an interrupted one. [DiedError] says that the process is
	// gone; any other error that this turn failed and the next may be tried.
	Prompt(ctx context.Context, p Prompt) error
	// Interrupt asks the agent to end the current turn early; Prompt then returns as
	// usual. Without a turn it does nothing.
	Interrupt(ctx context.Context) error
	// Info says what is known of the agent by now.
	Info() Info
	// Close ends the process and what it started, gracefully until ctx ends, and
	// returns when it is gone.
	Close(ctx context.Context) error
}

// Typist is an Agent that also takes keystrokes as they are.
type Typist interface {
	Type(ctx context.Context, keys []byte) error
}

// Prompt is one message of a person.
type Prompt struct {
	MessageID   string
	Content     string
	Attachments []api.Attachment
}

// Info is what a running agent says about itself.
type Info struct {
	Session string          // the agent's own name for the conversation; empty: it cannot be loaded again
	Version string          // of the agent program, if it says so
	Loaded  bool            // the conversation asked for in Config.Session was loaded
	Done    <-chan struct{} // closed when the process is gone
}

// Sink takes what happens in a turn. The adapter fills in what the event's type says
// (api.EventType); the runner adds identity, order and time.
type Sink interface {
	// Emit hands on an event and blocks while the log is behind, which in turn stops
	// the adapter from reading: that bounds memory, whatever the agent prints.
	// Text comes as agent_message_chunk; the runner assembles agent_message from it.
	Emit(ctx context.Context, ev api.Event) error
	// Ask puts an approval_request to a person and returns the chosen option. It waits
	// as long as the turn lasts; the turn's end or interruption ends it with an error.
	Ask(ctx context.Context, ev api.Event) (option string, err error)
}

// Spawner builds the command that runs argv as the agent, isolated as its session
// demands, in the workspace, with the session's environment and env added. The program
// is not started and its streams are free, unless it was started ahead, which only
// [StartChild] knows what to do with.
type Spawner func(argv []string, env ...string) (*Program, error)

// Program is a command and what ends it with everything that it started.
type Program struct {
	*exec.Cmd
	Kill func(*exec.Cmd) error // nil: its process group

	child *Child // of one that was started ahead
}

// Config is what an adapter starts an agent from.
type Config struct {
	Argv    []string
	Dir     string // the workspace, as the agent sees it
	Session string // the conversation to load again; empty: a new one
	Spawn   Spawner
	Sink    Sink
	Logger  *slog.Logger

	// MCPServers are what the session's profile gives the agent; MCPConfig is a file that tells of them in the form of
	// Claude Code, for adapters that cannot give them over the protocol.
	MCPServers []api.MCPServer
	MCPConfig  string
}

// Starter starts an agent and returns when it can take a prompt.
type Starter func(ctx context.Context, cfg Config) (Agent, error)

// DiedError says that the agent's process is gone. Detail is for a person: how it
// ended and what it last said.
type DiedError struct{ Detail string }

func (e *DiedError) Error() string { return fmt.Sprintf("the agent process died: %s", e.Detail) }

// Died reports whether err says that the agent's process is gone, and how.
func Died(err error) (detail string, died bool) {
	var e *DiedError
	if errors.As(err, &e) {
		return e.Detail, true
	}
	return "", false
}

// ErrLoad is returned by a Starter when the conversation in Config.Session cannot be
// loaded; the runner then starts a new one.
var ErrLoad = errors.New("the agent could not load its conversation")
