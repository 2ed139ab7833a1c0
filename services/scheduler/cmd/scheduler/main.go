// Command scheduler is the scheduler as a process of its own.
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
	"agentyard.dev/services/scheduler"
)

// version is set by the linker.
var version = "dev"

func main() {
	err := run(os.Args[1:], os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "scheduler:", err)
		os.Exit(1)
	}
}

// run puts the process together and runs it.
//
//	┌─ daemon ──────────────────────┐
//	│ admin: health, ready, metrics │ ◀── operator, kubelet
//	│ scheduler, trust, audit       │
//	│    └─ connection ─────────────┼──▶ bus: ledgers, auth, sessions
//	└───────────────────────────────┘
func run(args []string, getenv func(string) string) error {
	var (
		cfg     = scheduler.DefaultConfig()
		onBus   bus.ClientFlags
		process daemon.Config
	)
	fs := flag.NewFlagSet("scheduler", flag.ContinueOnError)
	cfg.Register(fs)
	onBus.Register(fs)
	process.Register(fs)
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}

	d, err := daemon.New("scheduler", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := onBus.Connect("scheduler", d.Logger)
	if err != nil {
		return err
	}
	keys := trust.New(conn, d.Logger)
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: "scheduler", Metrics: d.Metrics})
	denials, acts := trust.NewDenials(client, d.Logger), trust.NewActs(client, d.Logger)
	service := scheduler.New(cfg, scheduler.Deps{
		Bus: conn, Auth: token.NewVerifier(keys, keys, nil), Logger: d.Logger, Metrics: d.Metrics, Denied: denials.Denied, Did: acts.Did,
	})

	d.Ready("trust", keys.Check)
	d.Ready("scheduler", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("trust", keys.Run)
	d.Add("denials", denials.Run)
	d.Add("acts", acts.Run)
	d.Add("scheduler", service.Run)
	return d.Run(context.Background())
}
