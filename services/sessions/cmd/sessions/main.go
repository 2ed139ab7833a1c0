// Command sessions is the sessions service as a process of its own. As the hidden commands "runner" and "sandbox" it is also
// what its process runtime starts; pods have cmd/runner.
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
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/demo"
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
//	└──▶ runtime: process or kube
func run(ctx context.Context, args []string, getenv func(string) string) error {
	cfg, group := sessions.DefaultConfig(), daemon.DefaultConfig()
	var client bus.ClientFlags
	var where runtimes
	var runnerURL, issuerFile string
	fs := flag.NewFlagSet("sessions", flag.ContinueOnError)
	cfg.Register(fs)
	where.register(fs)
	group.Register(fs)
	client.Register(fs)
	fs.StringVar(&runnerURL, "sessions.bus-url", "", "address of the bus for runners; empty: -bus.url")
	fs.StringVar(&issuerFile, "sessions.issuer-file", "", "`file` with the key that signs sessions' credentials for the bus")
	if err := daemon.ParseFlags(fs, args, getenv); err != nil {
		return err
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
	runtime, err := where.open(runnerURL, issuer, []string{client.CredentialsFile, issuerFile, cfg.SecretKeysFile}, d.Logger)
	if err != nil {
		return err
	}
	declarations, err := where.declarations(d.Logger)
	if err != nil {
		return err
	}
	keys := trust.New(conn, d.Logger)
	asks := rpc.NewClient(conn, rpc.ClientConfig{Name: "sessions", Metrics: d.Metrics})
	denials, acts := trust.NewDenials(asks, d.Logger), trust.NewActs(asks, d.Logger)
	service := sessions.New(cfg, sessions.Deps{
		Conn: conn, Auth: token.NewVerifier(keys, keys, nil), Issuer: issuer, BusURL: runnerURL,
		Runtime: runtime, Info: runtime.Info(),
		Kind: func(name string) bool { _, ok := agent.LookupKind(name); return ok },
		CheckURL: func(ctx context.Context, url string) error {
			return repo.CheckURL(ctx, url, repo.Policy{AllowPrivate: cfg.AllowPrivateRepositories})
		},
		Declarations: declarations, Denied: denials.Denied, Acted: denials.Acted, Did: acts.Did, Logger: d.Logger, Metrics: d.Metrics,
	})

	d.Ready("trust", keys.Check)
	d.Ready("sessions", service.Ready)
	d.Add("bus", conn.Run)
	d.Add("trust", keys.Run)
	d.Add("denials", denials.Run)
	d.Add("acts", acts.Run)
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
