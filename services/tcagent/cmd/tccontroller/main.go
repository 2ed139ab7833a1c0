// Command tccontroller is the traffic controller: it answers the operations on traffic policies and compiles them into plans for node agents.
// Several may run; one compiles.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/tcagent/controller"
)

// version is set by the linker.
var version = "dev"

func main() {
	err := run(os.Args[1:], os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "tccontroller:", err)
		os.Exit(1)
	}
}

// run puts the process together and runs it.
//
//	gateway ──ops──▶ controller ──▶ ledgers POLICIES, PLANS ──▶ node agents
//	                    ▲ └ follows SESSIONS JWKS REVOKED
//	                    └── ledger NODES ◀── node agents
func run(args []string, getenv func(string) string) error {
	var (
		cfg     = controller.DefaultConfig()
		client  bus.ClientFlags
		process = daemon.DefaultConfig()
	)
	fs := flag.NewFlagSet("tccontroller", flag.ContinueOnError)
	cfg.Register(fs)
	client.Register(fs)
	process.Register(fs)
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}

	d, err := daemon.New("tccontroller", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := client.Connect("tcagent", d.Logger)
	if err != nil {
		return err
	}
	keys := trust.New(conn, d.Logger)
	denials := trust.NewDenials(rpc.NewClient(conn, rpc.ClientConfig{Name: "tcagent", Metrics: d.Metrics}), d.Logger)
	service := controller.New(cfg, controller.Deps{
		Bus: conn, Auth: token.NewVerifier(keys, keys, nil), Logger: d.Logger, Metrics: d.Metrics, Denied: denials.Denied, Acted: denials.Acted,
	})

	d.Ready("trust", keys.Check)
	d.Ready("tccontroller", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("trust", keys.Run)
	d.Add("denials", denials.Run)
	d.Add("tccontroller", service.Run)
	return d.Run(context.Background())
}
