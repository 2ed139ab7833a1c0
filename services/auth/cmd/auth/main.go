// Command auth is the auth service as a process of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/services/auth"
)

// version is set by the linker.
var version = "dev"

// closeTimeout bounds the last flush to the bus.
const closeTimeout = 5 * time.Second

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
	var busURL, credentials string
	fs := flag.NewFlagSet("auth", flag.ContinueOnError)
	cfg.Register(fs)
	process.Register(fs)
	fs.StringVar(&busURL, "bus.url", "nats://127.0.0.1:4222", "address of the bus, comma-separated for a cluster")
	fs.StringVar(&credentials, "bus.credentials", "", "`file` with the auth service's credentials for the bus")
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if credentials == "" {
		return errors.New("-bus.credentials is not set; the bus knows no anonymous clients")
	}
	creds, err := os.ReadFile(credentials)
	if err != nil {
		return fmt.Errorf("-bus.credentials: %w", err)
	}

	d, err := daemon.New("auth", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := bus.Connect(bus.Config{URL: busURL, Credentials: creds, Name: "auth", Logger: d.Logger})
	if err != nil {
		return fmt.Errorf("connect to the bus: %w", err)
	}
	service := auth.New(cfg, auth.Deps{Bus: conn, Logger: d.Logger, Metrics: d.Metrics})

	d.Ready("auth", service.Ready)
	d.Add("bus", func(ctx context.Context) error { // the first to start is the last to stop
		<-ctx.Done()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return conn.Close(cctx)
	})
	d.Add("auth", service.Run)
	return d.Run(ctx)
}
