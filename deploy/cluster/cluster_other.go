//go:build !linux

package cluster

import (
	"context"
	"errors"
	"syscall"
)

var errSystem = errors.New("a cluster for tests needs Linux")

// Start fails: a cluster needs Linux.
func Start(context.Context, Config) (*Cluster, error) { return nil, errSystem }

// Nodes returns nothing.
func (c *Cluster) Nodes() []string { return nil }

// Cut fails: a cluster needs Linux.
func (c *Cluster) Cut(int) error { return errSystem }

// Heal fails: a cluster needs Linux.
func (c *Cluster) Heal(int) error { return errSystem }

func enter(context.Context) (int, error)     { return 0, errSystem }
func beInit() int                            { return 1 }
func beNode() int                            { return 1 }
func beProbe() int                           { return 1 }
func checkMachine() error                    { return errSystem }
func attributes(int) *syscall.SysProcAttr    { return nil }
func lock(string) (unlock func(), err error) { return nil, errSystem }
