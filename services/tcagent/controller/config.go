package controller

import (
	"flag"
	"fmt"
)

// Config is what an operator may choose.
type Config struct {
	// Reserve is the share of a node's uplink, in percent, that guarantees leave free.
	Reserve int
}

// DefaultConfig is what is right for most.
func DefaultConfig() Config { return Config{Reserve: 20} }

// Register adds the flags of c to fs, each named tccontroller.…
func (c *Config) Register(fs *flag.FlagSet) {
	fs.IntVar(&c.Reserve, "tccontroller.reserve", c.Reserve, "`percent` of a node's uplink that guarantees leave free")
}

// Validate says what is wrong with c.
func (c Config) Validate() error {
	if c.Reserve < 0 || c.Reserve > 99 {
		return fmt.Errorf("-tccontroller.reserve: %d is not between 0 and 99", c.Reserve)
	}
	return nil
}
