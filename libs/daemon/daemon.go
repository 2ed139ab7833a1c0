// Package daemon is what every agentyard process has around its work: configuration from flags and AGENTAPI_* environment, slog JSON,
// OpenTelemetry traces, Prometheus metrics, pprof, health and readiness on an admin port, a run group and signals.
//
// It is the only home of the OpenTelemetry SDK.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Daemon runs the actors of one process. Add and Ready are called before Run, Run once.
type Daemon struct {
	Name    string
	Logger  *slog.Logger
	Metrics *prometheus.Registry

	cfg     Config
	version string
	actors  []*actor
	ready   readiness
	traces  func(context.Context) error // flushes and stops tracing

	mu       sync.Mutex
	adminURL string
}

// New sets up logging to w, metrics and tracing (global OTel providers and W3C propagators). It listens nowhere yet.
func New(name, version string, cfg Config, w io.Writer) (*Daemon, error) {
	logger, err := newLogger(name, cfg, w)
	if err != nil {
		return nil, err
	}
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	traces, err := startTracing(name, version, cfg.OTLP, logger)
	if err != nil {
		return nil, err
	}
	metrics := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentyard_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"service": name, "version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	metrics.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Daemon{
		Name: name, Logger: logger, Metrics: metrics, cfg: cfg, version: version, traces: traces,
		ready: readiness{logger: logger},
	}, nil
}

// Add adds an actor: run works until its ctx ends. The first actor to return, or SIGINT or SIGTERM, ends all; they are told in the reverse order of adding,
// each awaited before the next is told, all within Config.StopTimeout. One that does not return holds the others up for nine tenths of that
// time at most; then all are told. After StopTimeout Run returns without those that still work.
func (d *Daemon) Add(name string, run func(ctx context.Context) error) {
	d.actors = append(d.actors, &actor{name: name, run: run})
}

// Run runs until an actor returns or ctx ends or a signal arrives. A second signal ends the process at once. A signal is not an error.
// The error is that of the actor that ended first, joined by those of actors that did not stop well.
func (d *Daemon) Run(ctx context.Context) error {
	KeepHeapFloor()
	// Two: the one that stops gracefully and the one that does not wait for it.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	actors := d.actors
	if d.cfg.AdminListen != "" {
		admin, err := d.listenAdmin(ctx)
		if err != nil {
			return err
		}
		// First to start and last to stop, so that it answers while the others do either.
		actors = append([]*actor{admin}, actors...)
	}
	g := &group{actors: actors, timeout: d.cfg.StopTimeout, logger: d.Logger}
	d.Logger.Info("started", "version", d.version, "pid", os.Getpid(), "admin", d.AdminURL())
	g.start(context.WithoutCancel(ctx))

	var cause error
	var first *actor
	select {
	case <-ctx.Done():
		d.Logger.Info("stopping", "reason", "asked to")
	case s := <-signals:
		d.Logger.Info("stopping", "reason", s.String())
	case first = <-g.first:
		cause = first.failure(ctx.Err() != nil)
		d.Logger.Info("stopping", "reason", "actor ended", "actor", first.name)
	}
	d.ready.stopping.Store(true)

	done := make(chan struct{})
	go exitOnSecond(signals, done)
	defer close(done)

	begin := time.Now()
	err := errors.Join(cause, g.stop(first))
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if terr := d.traces(flush); terr != nil {
		d.Logger.Warn("some traces were not sent", "err", terr)
	}
	d.Logger.Info("stopped", "took", time.Since(begin).Round(time.Millisecond).String())
	return err
}

// flushTimeout is what sending the last spans may take: a collector on the same network needs milliseconds.
const flushTimeout = 2 * time.Second

// exitOnSecond ends the process when another signal arrives before done is closed, with the shell's status for it.
func exitOnSecond(signals <-chan os.Signal, done <-chan struct{}) {
	select {
	case <-done:
	case s := <-signals:
		code := 1
		if n, ok := s.(syscall.Signal); ok {
			code = 128 + int(n)
		}
		os.Exit(code)
	}
}

// AdminURL returns the admin server's address once Run listens; empty before.
func (d *Daemon) AdminURL() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.adminURL
}

func newLogger(name string, cfg Config, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(orDefault(cfg.LogLevel, "info"))); err != nil {
		return nil, fmt.Errorf("-log.level: %q is not debug, info, warn or error", cfg.LogLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler
	switch orDefault(cfg.LogFormat, "json") {
	case "json":
		h = slog.NewJSONHandler(w, opts)
	case "text":
		h = slog.NewTextHandler(w, opts)
	default:
		return nil, fmt.Errorf("-log.format: %q is not json or text", cfg.LogFormat)
	}
	return slog.New(traceHandler{h}).With("service", name), nil
}
