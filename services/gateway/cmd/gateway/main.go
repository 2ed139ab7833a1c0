// Command gateway is the gateway as a process of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/gateway"
)

// version is set by the linker.
var version = "dev"

func main() {
	err := run(os.Args[1:], os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// clients ──HTTP──▶ gateway ──ops──▶ bus ──▶ auth, sessions
//
//	│   ▲ ledgers, log
//	│   └─ trust: verifying keys, revocations
//	└──HTTP──▶ runners
func run(args []string, getenv func(string) string) error {
	cfg, process, store := gateway.DefaultConfig(), daemon.Config{}, limit.Config{}
	var client bus.ClientFlags
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	cfg.Register(fs)
	process.Register(fs)
	store.Register(fs)
	client.Register(fs)
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}

	d, err := daemon.New("gateway", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := client.Connect("gateway", d.Logger)
	if err != nil {
		return err
	}
	store.Logger = d.Logger
	shared, local := limit.Open(store), limit.Open(limit.Config{Logger: d.Logger})
	keys := trust.New(conn, d.Logger)
	gw, err := gateway.New(cfg, gateway.Deps{
		Bus: conn, Trust: keys, Limiter: shared, Local: local, Logger: d.Logger, Metrics: d.Metrics,
	})
	if err != nil {
		return err
	}

	d.Ready("gateway", gw.Ready)
	d.Add("bus", conn.Run)
	d.Add("limits", shared.Run)
	d.Add("trust", keys.Run)
	d.Add("gateway", gw.Run)
	return d.Run(context.Background())
}
