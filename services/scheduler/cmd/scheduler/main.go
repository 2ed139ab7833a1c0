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
//	│ scheduler                     │
//	│    └─ connection ─────────────┼──▶ bus
//	└───────────────────────────────┘
func run(args []string, getenv func(string) string) error {
	var (
		cfg     scheduler.Config
		client  bus.ClientFlags
		process daemon.Config
	)
	fs := flag.NewFlagSet("scheduler", flag.ContinueOnError)
	cfg.Register(fs)
	client.Register(fs)
	process.Register(fs)
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}

	d, err := daemon.New("scheduler", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := client.Connect("scheduler", d.Logger)
	if err != nil {
		return err
	}
	service := scheduler.New(cfg, scheduler.Deps{Bus: conn, Logger: d.Logger})

	d.Ready("scheduler", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("scheduler", service.Run)
	return d.Run(context.Background())
}
