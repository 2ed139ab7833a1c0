// Package daemon is what every agentyard process has around its work: configuration from flags and AGENTAPI_* environment, slog JSON,
// OpenTelemetry traces, Prometheus metrics, pprof, health and readiness on an admin port, a run group and signals.
//
// It is the only home of the OpenTelemetry SDK.
package daemon

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// EnvPrefix begins each environment variable: the flag -sessions.idle-timeout is AGENTAPI_SESSIONS_IDLE_TIMEOUT.
const EnvPrefix = "AGENTAPI_"

// ParseFlags parses args into fs; a flag that args do not set takes its value from the environment
// (getenv; the variable's name is EnvPrefix and the flag's name in upper case with '.' and '-' as '_'). A bad value names its source. `-h` returns flag.ErrHelp
// after printing usage with each flag's variable and default.
func ParseFlags(fs *flag.FlagSet, args []string, getenv func(string) string) error { panic("todo") }

// Config is the part of the configuration that all processes share.
type Config struct {
	AdminListen string        // -admin-listen "127.0.0.1:0": /health /ready /metrics /debug/pprof; empty: none
	LogLevel    string        // -log.level debug|info|warn|error
	LogFormat   string        // -log.format json|text
	OTLP        string        // -otel.endpoint: OTLP/HTTP traces; empty: none
	StopTimeout time.Duration // -stop-timeout 30s: how long a graceful stop may take
}

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) { panic("todo") }

// Daemon runs the actors of one process.
type Daemon struct {
	Name    string
	Logger  *slog.Logger
	Metrics *prometheus.Registry
}

// New sets up logging to w, metrics and tracing (global OTel providers and W3C propagators).
func New(name, version string, cfg Config, w io.Writer) (*Daemon, error) { panic("todo") }

// Add adds an actor: run works until its ctx ends. The first actor to return, or SIGINT or SIGTERM, ends all; they are told in the reverse order of adding,
// each awaited before the next is told, all within Config.StopTimeout.
func (d *Daemon) Add(name string, run func(ctx context.Context) error) { panic("todo") }

// Ready adds a readiness check: /ready answers 200 when all checks return nil within 2 s, and else 503 with the names of those that do not.
func (d *Daemon) Ready(name string, check func(context.Context) error) { panic("todo") }

// AdminURL returns the admin server's address once Run listens; empty before.
func (d *Daemon) AdminURL() string { panic("todo") }

// Run runs until an actor returns or ctx ends or a signal arrives. A second signal ends the process at once. A signal is not an error.
func (d *Daemon) Run(ctx context.Context) error { panic("todo") }
