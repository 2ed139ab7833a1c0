package tcagent

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"agentyard.dev/libs/tc"
)

// Config is what an operator may choose.
type Config struct {
	// Node is the node's name, as sessions have it; empty: the sessions that no node is said of, as on one machine.
	Node string
	// Data is the directory where the last accepted plans are, so that they hold while the bus is away; empty: they do not survive
	// the agent there.
	Data string
	// Proc is where the node's /proc is.
	Proc string
	// Namespace is a file of the network namespace in which the node's sides of the sessions' interfaces are, such as /proc/1/ns/net;
	// empty: the process's own.
	Namespace string
	// Uplink is the rate of the node's way out, such as "10Gbit"; empty: not known, and guarantees are not checked against it.
	Uplink string
	// Default is a file of the traffic policy that holds for a new session's interface until the session's own plan is there; empty: none does. Only interfaces that
	// are said to be a session's get it.
	Default string
	// Audit is how often every session is compared with its plan; what others change in between is heard of.
	Audit time.Duration
}

const (
	defaultProc  = "/proc"
	defaultAudit = 30 * time.Second
)

// Register adds the flags of c to fs, each named tcagent.…
func (c *Config) Register(fs *flag.FlagSet) {
	if c.Proc == "" {
		c.Proc = defaultProc
	}
	if c.Audit == 0 {
		c.Audit = defaultAudit
	}
	fs.StringVar(&c.Node, "tcagent.node", c.Node, "`name` of this node, as its sessions have it; empty: that of sessions without one")
	fs.StringVar(&c.Data, "tcagent.data", c.Data, "`directory` for the last accepted plans, which hold while the bus is away; empty: none are kept")
	fs.StringVar(&c.Proc, "tcagent.proc", c.Proc, "`directory` of the node's /proc")
	fs.StringVar(&c.Namespace, "tcagent.namespace", c.Namespace,
		"`file` of the network namespace that sessions' interfaces lead to, such as /proc/1/ns/net; empty: the process's own")
	fs.StringVar(&c.Uplink, "tcagent.uplink", c.Uplink, "`rate` of the node's uplink, such as 10Gbit, which guarantees are checked against; empty: unknown")
	fs.StringVar(&c.Default, "tcagent.default", c.Default, "`file` of the traffic policy that holds for a new session's interface until its own plan is there; empty: none")
	fs.DurationVar(&c.Audit, "tcagent.audit", c.Audit, "how often every session is compared with its plan")
}

// Validate says all that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Uplink != "" {
		if _, err := tc.ParseRate(c.Uplink); err != nil {
			errs = append(errs, fmt.Errorf("-tcagent.uplink: %w", err))
		}
	}
	if c.Audit < 0 {
		errs = append(errs, fmt.Errorf("-tcagent.audit: %v is negative", c.Audit))
	}
	if c.Data != "" {
		if info, err := os.Stat(c.Data); err == nil && !info.IsDir() {
			errs = append(errs, fmt.Errorf("-tcagent.data: %s is no directory", c.Data))
		}
	}
	return errors.Join(errs...)
}

// withDefaults fills in what a Config that was made without Register lacks.
func (c Config) withDefaults() Config {
	if c.Proc == "" {
		c.Proc = defaultProc
	}
	if c.Audit == 0 {
		c.Audit = defaultAudit
	}
	return c
}
