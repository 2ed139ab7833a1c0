// Command tcagent is the node agent, one process per node and the only one with privileges over its network. It links no Kubernetes client.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/services/tcagent"
	"agentyard.dev/services/tcagent/cri"
)

// version is set by the linker.
var version = "dev"

func main() {
	err := run(os.Args[1:], os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "tcagent:", err)
		os.Exit(1)
	}
}

// run puts the process together and runs it.
//
//	┌─ daemon ──────────────────────┐
//	│ admin: health, ready, metrics │ ◀── operator, kubelet
//	│ tcagent ── kernel ────────────┼──▶ sessions' interfaces
//	│    ├─ container runtime ──────┼──▶ CRI socket, if one is named: where pods' network namespaces are
//	│    └─ connection ─────────────┼──▶ bus: its node's plans, what it applied, counters
//	└───────────────────────────────┘
func run(args []string, getenv func(string) string) error {
	var (
		cfg     tcagent.Config
		client  = bus.ClientFlags{Crowd: true} // there is one on each node
		process daemon.Config
	)
	fs := flag.NewFlagSet("tcagent", flag.ContinueOnError)
	cfg.Register(fs)
	client.Register(fs)
	process.Register(fs)
	socket := fs.String("tcagent.cri", "",
		"`socket` of the node's container runtime (CRI), such as /run/containerd/containerd.sock, which is asked where pods' network namespaces are; empty: the node's processes are looked through")
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}

	d, err := daemon.New("tcagent", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := client.Connect(bus.NodeService, d.Logger)
	if err != nil {
		return err
	}
	deps := tcagent.Deps{Bus: conn, Version: version, Logger: d.Logger, Metrics: d.Metrics}
	if *socket != "" {
		runtime, err := cri.Open(*socket)
		if err != nil {
			return err
		}
		defer func() { _ = runtime.Close() }()
		deps.Runtime = runtime
	}
	service := tcagent.New(cfg, deps)

	d.Ready("tcagent", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("tcagent", service.Run)
	return d.Run(context.Background())
}
