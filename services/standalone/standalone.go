// Package standalone is a whole yard in one process: the five services with an embedded
// bus. It composes them exactly as their own commands do; nothing in them knows.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon"
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
	"agentyard.dev/services/auth"
	"agentyard.dev/services/gateway"
	"agentyard.dev/services/scheduler"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/process"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/repo"
	"agentyard.dev/services/tcagent"
	"agentyard.dev/services/tcagent/controller"
)

// Deps is what a yard works with.
type Deps struct {
	Version string
	Log     io.Writer
	// Ready is called once, when the yard answers at url.
	Ready func(url string)
}

// service is what the five have in common.
type service interface {
	Run(context.Context) error
	Ready(context.Context) error
}

// Run runs a yard until ctx ends or a signal arrives. It fails when another process runs one on the same
// data directory.
//
//	                  ┌ auth ┬ sessions ┬ scheduler ┬ tcagent ┬ tccontroller ┬ gateway ┐   each with a connection and
//	data directory ─▶ └──────┴──────────┴─ bus ─────┴─────────┴──────────────┴─────────┘   credentials of its own
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if err := cfg.place(); err != nil {
		return err
	}
	unlock, err := makeAndLock(ctx, cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := daemon.New("agentyard", deps.Version, cfg.Daemon, deps.Log)
	if err != nil {
		return err
	}
	keys, err := bus.OpenKeyring(filepath.Join(cfg.Data, KeysDir))
	if err != nil {
		return err
	}
	server, err := startBus(ctx, cfg.Data, keys, d.Logger.With("part", "bus"))
	if err != nil {
		return fmt.Errorf("start the bus: %w", err)
	}
	defer server.Close()
	y := &yard{cfg: cfg, daemon: d, keys: keys, server: server}
	defer y.close(context.WithoutCancel(ctx))
	if err := y.compose(); err != nil {
		return err
	}
	d.Add("announce", func(ctx context.Context) error { return y.announce(ctx, deps.Ready) })
	return d.Run(ctx)
}

// yard is the parts of a yard while they are put together.
type yard struct {
	cfg    Config
	daemon *daemon.Daemon
	keys   *bus.Keyring
	server *bus.Server

	conns   []*bus.Conn
	checks  []func(context.Context) error // of readiness
	gateway *gateway.Gateway
}

// compose makes the services. All start at the same time; they stop in the reverse order of this list.
func (y *yard) compose() error {
	for _, part := range []struct {
		name string
		make func(name string, conn *bus.Conn, logger *slog.Logger) (service, error)
	}{
		{"auth", y.makeAuth},
		{"tcagent", y.makeTCAgent},
		{"tccontroller", y.makeTrafficController},
		{"sessions", y.makeSessions},
		{"scheduler", y.makeScheduler},
		{"gateway", y.makeGateway},
	} {
		conn, logger, err := y.connect(part.name)
		if err != nil {
			return err
		}
		s, err := part.make(part.name, conn, logger)
		if err != nil {
			return fmt.Errorf("make %s: %w", part.name, err)
		}
		y.daemon.Ready(part.name, s.Ready)
		y.daemon.Add(part.name, s.Run)
		y.checks = append(y.checks, s.Ready)
	}
	return nil
}

func (y *yard) makeAuth(_ string, conn *bus.Conn, logger *slog.Logger) (service, error) {
	return auth.New(y.cfg.Auth, auth.Deps{Bus: conn, Logger: logger, Metrics: y.daemon.Metrics}), nil
}

func (y *yard) makeSessions(name string, conn *bus.Conn, logger *slog.Logger) (service, error) {
	local := y.cfg.Process
	for _, file := range []string{y.cfg.Sessions.SecretKeysFile, y.cfg.Scheduler.SecretKeysFile} { // agents may have the yard's own user id
		if file == "" {
			continue
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("hide %s from agents: %w", file, err)
		}
		local.Hide = append(slices.Clone(local.Hide), abs)
	}
	runtime := process.New(local, logger)
	y.daemon.Add("runtime", runtime.Run)
	// Between the runtime and the service: what the service stops to watch is stopped, and the runtime sees it end.
	y.daemon.Add("runners", func(ctx context.Context) error {
		<-ctx.Done()
		return y.stopRunners(ctx, runtime)
	})
	keys := y.trust(name, conn, logger)
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: name, Metrics: y.daemon.Metrics})
	denials, acts := trust.NewDenials(client, logger), trust.NewActs(client, logger)
	y.daemon.Add("denials", denials.Run)
	y.daemon.Add("acts", acts.Run)
	policy := repo.Policy{AllowPrivate: y.cfg.Sessions.AllowPrivateRepositories}
	return sessions.New(y.cfg.Sessions, sessions.Deps{
		Conn: conn, Auth: token.NewVerifier(keys, keys, nil), Logger: logger, Metrics: y.daemon.Metrics,
		Issuer: y.keys.SessionIssuer(), BusURL: y.server.URL(),
		Runtime: runtime, Info: runtime.Info(), Denied: denials.Denied, Acted: denials.Acted, Did: acts.Did,
		Kind:     func(name string) bool { _, ok := agent.LookupKind(name); return ok },
		CheckURL: func(ctx context.Context, url string) error { return repo.CheckURL(ctx, url, policy) },
	}), nil
}

// stopRunners ends every session's processes and leaves the sessions as they are, so that the next start brings them back.
// A person who stops a yard expects that nothing of it goes on; who kills it finds the sessions at work.
func (y *yard) stopRunners(ctx context.Context, runtime sessions.Runtime) error {
	grace := y.cfg.Daemon.StopTimeout / 2 // the rest is for those that must be killed
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), y.cfg.Daemon.StopTimeout)
	defer cancel()
	running, err := runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("stop the sessions' processes: %w", err)
	}
	errs := make([]error, len(running))
	var stops sync.WaitGroup
	for i, r := range running {
		stops.Go(func() { errs[i] = runtime.Stop(ctx, r.Ref, grace, true) })
	}
	stops.Wait()
	return errors.Join(errs...)
}

func (y *yard) makeScheduler(name string, conn *bus.Conn, logger *slog.Logger) (service, error) {
	keys := y.trust(name, conn, logger)
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: name, Metrics: y.daemon.Metrics})
	denials, acts := trust.NewDenials(client, logger), trust.NewActs(client, logger)
	y.daemon.Add("scheduler denials", denials.Run)
	y.daemon.Add("scheduler acts", acts.Run)
	seals, err := y.keys.SessionIssuer().DeriveKey("webhooks")
	if err != nil {
		return nil, fmt.Errorf("derive the key for the secrets of webhooks: %w", err)
	}
	return scheduler.New(y.cfg.Scheduler, scheduler.Deps{
		Bus: conn, Auth: token.NewVerifier(keys, keys, nil), Logger: logger, Metrics: y.daemon.Metrics, Denied: denials.Denied, Did: acts.Did, SealKey: seals,
	}), nil
}

func (y *yard) makeTCAgent(_ string, conn *bus.Conn, logger *slog.Logger) (service, error) {
	return tcagent.New(y.cfg.TCAgent, tcagent.Deps{Bus: conn, Logger: logger, Metrics: y.daemon.Metrics}), nil
}

func (y *yard) makeTrafficController(name string, conn *bus.Conn, logger *slog.Logger) (service, error) {
	keys := y.trust(name, conn, logger)
	denials := trust.NewDenials(rpc.NewClient(conn, rpc.ClientConfig{Name: identities[name], Metrics: y.daemon.Metrics}), logger)
	y.daemon.Add(name+" denials", denials.Run)
	return controller.New(y.cfg.Traffic, controller.Deps{
		Bus: conn, Auth: token.NewVerifier(keys, keys, nil), Logger: logger, Metrics: y.daemon.Metrics, Denied: denials.Denied, Acted: denials.Acted,
	}), nil
}

// identities are the bus identities of parts that are not called like theirs.
var identities = map[string]string{"tccontroller": "tcagent", "tcagent": bus.NodeService}

func (y *yard) makeGateway(name string, conn *bus.Conn, logger *slog.Logger) (service, error) {
	shared := limit.Open(y.cfg.Limit)
	y.daemon.Add("limits", shared.Run)
	var err error
	y.gateway, err = gateway.New(y.cfg.Gateway, gateway.Deps{
		Bus: conn, Trust: y.trust(name, conn, logger), Limiter: shared, Local: limit.Open(limit.Config{Logger: logger}),
		Logger: logger, Metrics: y.daemon.Metrics,
	})
	return y.gateway, err
}

// trust returns a service's own knowledge of which tokens to believe.
func (y *yard) trust(name string, conn *bus.Conn, logger *slog.Logger) *trust.Store {
	t := trust.New(conn, logger)
	y.daemon.Add(name+" trust", t.Run)
	y.daemon.Ready(name+" trust", t.Check)
	y.checks = append(y.checks, t.Check)
	return t
}

// connect returns a service's own connection to the bus, with its own credentials.
func (y *yard) connect(name string) (*bus.Conn, *slog.Logger, error) {
	logger := y.daemon.Logger.With("part", name)
	identity := name
	if other, ok := identities[name]; ok {
		identity = other
	}
	creds, err := y.keys.ServiceCredentials(identity)
	if identity == bus.NodeService { // of this node alone
		creds, err = y.keys.NodeCredentials(api.TrafficNodeToken(y.cfg.TCAgent.Node))
	}
	if err != nil {
		return nil, nil, err
	}
	conn, err := bus.Connect(bus.Config{InProcess: y.server, Credentials: creds, Name: identity, Logger: logger})
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s: %w", name, err)
	}
	y.conns = append(y.conns, conn)
	return conn, logger, nil
}

// closeTimeout bounds flushing what the services published last.
const closeTimeout = 5 * time.Second

func (y *yard) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for _, c := range y.conns {
		if err := c.Close(ctx); err != nil {
			y.daemon.Logger.Warn("close a connection to the bus", "err", err)
		}
	}
}

// readyStep is how often the start looks whether everything is ready.
const readyStep = 10 * time.Millisecond

// announce tells when the yard is ready, then waits for ctx's end.
func (y *yard) announce(ctx context.Context, tell func(url string)) error {
	select {
	case <-y.gateway.Bound():
	case <-ctx.Done():
		return nil
	}
	url := y.gateway.URL()
	tick := time.NewTicker(readyStep)
	defer tick.Stop()
	for !y.ready(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	if err := WriteFile(filepath.Join(y.cfg.Data, URLFile), []byte(url+"\n"), 0o600); err != nil {
		return err
	}
	tell(url)
	<-ctx.Done()
	return nil
}

// ready reports whether every service is ready, and so the gateway's /ready answers 200.
func (y *yard) ready(ctx context.Context) bool {
	for _, check := range y.checks {
		if check(ctx) != nil {
			return false
		}
	}
	return true
}
