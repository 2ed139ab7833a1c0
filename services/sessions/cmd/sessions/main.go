// Command sessions is the sessions service as a process of its own. As the hidden commands "runner" and "sandbox" it is also
// what its process runtime starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/demo"
	"agentyard.dev/services/sessions/process"
	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/repo"
	"agentyard.dev/services/sessions/sandbox"
)

// version is set by the linker.
var version = "dev"

func main() {
	sandbox.MaybeInit()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			os.Exit(runner.Main(os.Args[2:], os.Stdin, os.Stderr))
		case runner.DemoVerb:
			os.Exit(demo.Run())
		}
	}
	err := run(context.Background(), os.Args[1:], os.Getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "sessions:", err)
		os.Exit(1)
	}
}

// gateway, scheduler ──ops──▶ sessions ──▶ ledgers SESSIONS PROFILES, log (user's side)
//
//	│   ▲ └ follows JWKS REVOKED USERS TENANTS
//	│   └──ops── runners
//	└──▶ runtime: process
func run(ctx context.Context, args []string, getenv func(string) string) error {
	cfg, local, group := sessions.DefaultConfig(), process.DefaultConfig(), daemon.DefaultConfig()
	var client bus.ClientFlags
	var runnerURL, issuerFile, kind string
	fs := flag.NewFlagSet("sessions", flag.ContinueOnError)
	cfg.Register(fs)
	local.Register(fs)
	group.Register(fs)
	client.Register(fs)
	fs.StringVar(&runnerURL, "sessions.bus-url", "", "address of the bus for runners; empty: -bus.url")
	fs.StringVar(&issuerFile, "sessions.issuer-file", "", "`file` with the key that signs sessions' credentials for the bus")
	fs.StringVar(&kind, "sessions.runtime", process.Name, "where sessions run: process")
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
	}
	if kind != process.Name {
		return fmt.Errorf("-sessions.runtime: there is no runtime %q; choose process", kind)
	}
	if local.DataDir == "" {
		return errors.New("-sessions.data-dir is not set")
	}
	issuerText, err := read("sessions.issuer-file", issuerFile)
	if err != nil {
		return err
	}
	issuer, err := bus.ParseSessionIssuer(issuerText)
	if err != nil {
		return fmt.Errorf("-sessions.issuer-file: %w", err)
	}
	if runnerURL == "" {
		runnerURL = client.URL
	}

	d, err := daemon.New("sessions", version, group, os.Stderr)
	if err != nil {
		return err
	}
	conn, err := client.Connect("sessions", d.Logger)
	if err != nil {
		return err
	}
	for _, secret := range []string{client.CredentialsFile, issuerFile} { // agents may have the service's own user id
		abs, err := filepath.Abs(secret)
		if err != nil {
			return fmt.Errorf("hide %s from agents: %w", secret, err)
		}
		local.Hide = append(local.Hide, abs)
	}
	keys := trust.New(conn, d.Logger)
	denials := trust.NewDenials(rpc.NewClient(conn, rpc.ClientConfig{Name: "sessions", Metrics: d.Metrics}), d.Logger)
	runtime := process.New(local, d.Logger)
	service := sessions.New(cfg, sessions.Deps{
		Conn: conn, Auth: token.NewVerifier(keys, keys, nil), Issuer: issuer, BusURL: runnerURL,
		Runtime: runtime, Info: runtime.Info(),
		Kind: func(name string) bool { _, ok := agent.LookupKind(name); return ok },
		CheckURL: func(ctx context.Context, url string) error {
			return repo.CheckURL(ctx, url, repo.Policy{AllowPrivate: cfg.AllowPrivateRepositories})
		},
		Denied: denials.Denied, Logger: d.Logger, Metrics: d.Metrics,
	})

	d.Ready("trust", keys.Check)
	d.Ready("sessions", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("trust", keys.Run)
	d.Add("denials", denials.Run)
	d.Add("runtime", runtime.Run)
	d.Add("sessions", service.Run)
	return d.Run(ctx)
}

// read returns the content of the file that a flag names.
func read(name, path string) ([]byte, error) {
	if path == "" {
		return nil, fmt.Errorf("-%s is not set", name)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w", name, err)
	}
	return data, nil
}
