package scheduler

import "flag"

// Config is what an operator may choose: nothing yet.
type Config struct{}

// Register adds the flags of c to fs, each named scheduler.…
func (c *Config) Register(*flag.FlagSet) {}

// Validate says all that is wrong with c.
func (c Config) Validate() error { return nil }
