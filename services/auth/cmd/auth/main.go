// Command auth is the auth service as a process of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/services/auth"
)

// version is set by the linker.
var version = "dev"

func main() {
	err := run(context.Background(), os.Args[1:], os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "auth:", err)
		os.Exit(1)
	}
}

// gateway, sessions ──ops──▶ auth ──▶ ledgers TENANTS USERS KEYS LASTUSED AUDIT SIGNERS
//
//	│
//
// every service ◀──follows────┴──▶ ledgers JWKS REVOKED
func run(ctx context.Context, args []string, getenv func(string) string) error {
	var cfg auth.Config
	var process daemon.Config
	var client bus.ClientFlags
	fs := flag.NewFlagSet("auth", flag.ContinueOnError)
	cfg.Register(fs)
	process.Register(fs)
	client.Register(fs)
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}

	d, err := daemon.New("auth", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := client.Connect("auth", d.Logger)
	if err != nil {
		return err
	}
	service := auth.New(cfg, auth.Deps{Bus: conn, Logger: d.Logger, Metrics: d.Metrics})

	d.Ready("auth", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("auth", service.Run)
	return d.Run(ctx)
}
