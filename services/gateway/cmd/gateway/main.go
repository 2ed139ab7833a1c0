// Command gateway is the gateway as a process of its own.
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
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/gateway"
)

// version is set by the linker.
var version = "dev"

// closeTimeout bounds the last flush to the bus.
const closeTimeout = 5 * time.Second

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
	var busURL, credentials string
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	cfg.Register(fs)
	process.Register(fs)
	store.Register(fs)
	fs.StringVar(&busURL, "bus.url", "nats://127.0.0.1:4222", "address of the bus, comma-separated for a cluster")
	fs.StringVar(&credentials, "bus.credentials", "", "`file` with the gateway's credentials for the bus")
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}
	if credentials == "" {
		return errors.New("-bus.credentials is not set; the bus knows no anonymous clients")
	}
	creds, err := os.ReadFile(credentials)
	if err != nil {
		return fmt.Errorf("-bus.credentials: %w", err)
	}

	d, err := daemon.New("gateway", version, process, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := bus.Connect(bus.Config{URL: busURL, Credentials: creds, Name: "gateway", Logger: d.Logger})
	if err != nil {
		return fmt.Errorf("connect to the bus: %w", err)
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
	d.Add("bus", func(ctx context.Context) error { // the first to start is the last to stop
		<-ctx.Done()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return conn.Close(cctx)
	})
	d.Add("limits", shared.Run)
	d.Add("trust", keys.Run)
	d.Add("gateway", gw.Run)
	return d.Run(context.Background())
}
