package standalone

import (
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"agentyard.dev/libs/daemon"
	"agentyard.dev/libs/limit"
	"agentyard.dev/services/auth"
	"agentyard.dev/services/gateway"
	"agentyard.dev/services/scheduler"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/process"
	"agentyard.dev/services/tcagent"
	"agentyard.dev/services/tcagent/controller"
)

// Config is the configuration of a whole yard: the services' own, and what they share.
type Config struct {
	Data string // directory of everything that is kept; the caller names it

	Daemon    daemon.Config
	Limit     limit.Config
	Auth      auth.Config
	Gateway   gateway.Config
	Scheduler scheduler.Config
	Sessions  sessions.Config
	Process   process.Config // the sessions' runtime
	TCAgent   tcagent.Config
	Traffic   controller.Config // of tcagent's plans
}

// DefaultConfig returns the services' own defaults.
func DefaultConfig() Config {
	return Config{Daemon: daemon.DefaultConfig(), Gateway: gateway.DefaultConfig(), Scheduler: scheduler.DefaultConfig(), Sessions: sessions.DefaultConfig(), Process: process.DefaultConfig(), Traffic: controller.DefaultConfig()}
}

// placed are the services' settings that say where something lies. In one process the data
// directory decides.
var placed = []string{
	"gateway.listen", // -listen
	"auth.secret-file", "auth.bootstrap-key-file",
	"sessions.data-dir",
}

// Register adds the flags of c to fs: -listen, -data and those of every service but for the places that
// the data directory decides.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.Gateway.Listen, "listen", c.Gateway.Listen, "`address` of the HTTP API")
	fs.StringVar(&c.Data, "data", c.Data, "`directory` of everything that is kept (default ~/.local/share/agentyard)")
	c.Daemon.Register(fs)
	c.Limit.Register(fs)
	services := flag.NewFlagSet("", flag.ContinueOnError)
	services.SetOutput(io.Discard)
	c.Auth.Register(services)
	c.Gateway.Register(services)
	c.Scheduler.Register(services)
	c.Sessions.Register(services)
	c.Process.Register(services)
	c.TCAgent.Register(services)
	c.Traffic.Register(services)
	services.VisitAll(func(f *flag.Flag) {
		if !slices.Contains(placed, f.Name) {
			fs.Var(f.Value, f.Name, f.Usage)
		}
	})
}

// place decides where everything lies.
func (c *Config) place() error {
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return fmt.Errorf("find the data directory: %w", err)
	}
	c.Data = data
	c.Auth.SecretFile = filepath.Join(data, KeysDir, "auth.secret")
	c.Auth.BootstrapKeyFile = filepath.Join(data, AdminKeyFile)
	c.Process.DataDir = data
	if c.TCAgent.Data == "" {
		c.TCAgent.Data = filepath.Join(data, "traffic")
	}
	if c.TCAgent.Node == "" {
		c.TCAgent.Node = c.Process.NodeName() // whose sessions it controls
	}
	return nil
}
