package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/services/sessions/demo"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

const (
	maxLaunch   = 16 << 20
	stopTimeout = 30 * time.Second
)

// DemoVerb is the subcommand that is the demo agent instead of a runner.
const DemoVerb = "demo-agent"

// Main is a program that is a runner, or with the argument "demo-agent" the demo agent;
// another program may embed it. It reads the launch from stdin, which it closes when the
// agent is up. It returns the exit status: 0 after a stop, 1 after a failure, 2 for a bad
// launch or none. What it may have started before it ends with the process.
func Main(args []string, stdin io.ReadCloser, stderr io.Writer) int {
	if len(args) > 0 && args[0] == DemoVerb {
		return demo.Run()
	}
	if len(args) > 0 {
		fmt.Fprintf(stderr, "runner: unknown argument %q; it takes a launch on standard input\n", args[0])
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	// Before anything secret is in memory: no debugger, no core file, no /proc/<pid>/mem
	// for the agent, even where it runs as the same user.
	if err := hideMemory(); err != nil {
		log.Error("hide memory", "err", err)
		return 1
	}
	path, err := forget()
	if err != nil {
		log.Error("clear environment", "err", err)
		return 1
	}
	l, ahead, network, err := readLaunch(stdin, log)
	if err != nil {
		log.Error("read launch", "err", err)
		return 2
	}
	self, err := os.Executable()
	if err != nil {
		log.Error("find own executable", "err", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, func() {
		time.AfterFunc(stopTimeout, func() { os.Exit(1) }) // a graceful stop that hangs
	})
	if l.Agent.Kind == "" {
		l.Agent.Kind = "demo"
	}
	err = Run(ctx, l, Options{Logger: log, Self: self, Path: path, Ahead: ahead, Network: network, Up: func() { _ = stdin.Close() }})
	switch {
	case errors.Is(err, bus.ErrSuperseded):
		log.Warn("another runner has taken over", "session", l.Session)
		return 0
	case err != nil:
		log.Error("runner", "session", l.Session, "err", err)
		return 1
	}
	return 0
}

// readLaunch returns the launch, of a spare runner what it has started while it waited for it, and the session's network, if it has one of its own.
func readLaunch(stdin io.Reader, log *slog.Logger) (l launch.Launch, ahead *Ahead, network *sandbox.Network, err error) {
	documents := json.NewDecoder(io.LimitReader(stdin, maxLaunch))
	if err := documents.Decode(&l); err != nil {
		return l, nil, nil, err
	}
	if l.Spare {
		if l.Sandbox.Network.Address != "" {
			if network, err = sandbox.MakeNetwork(l.Sandbox.Network); err != nil {
				return l, nil, nil, err // the next spare may have better luck
			}
			l.Sandbox.Namespace = network.File()
		}
		if len(l.Sandbox.Isolation) > 0 {
			if ahead, err = startAhead(l.Sandbox); err != nil {
				log.Warn("start a sandbox ahead", "err", err) // the agent gets its own
			}
		}
		l = launch.Launch{}
		if err := documents.Decode(&l); err != nil {
			return l, nil, nil, err
		}
	}
	if l.Session == "" || l.Tenant == "" || l.Dir == "" || l.EndpointKey == "" {
		return l, nil, nil, errors.New("tenant, session, dir and endpoint_key are required")
	}
	if l.Sandbox.Network.Address != "" {
		if network == nil {
			if network, err = sandbox.MakeNetwork(l.Sandbox.Network); err != nil {
				return l, nil, nil, err
			}
		}
		l.Sandbox.Namespace = network.File()
	}
	return l, ahead, network, nil
}

// cutAddress splits "unix:/path" and "tcp:host:port".
func cutAddress(addr string) (network, address string, ok bool) {
	network, address, ok = strings.Cut(addr, ":")
	return network, address, ok && address != "" && (network == "unix" || network == "tcp")
}
