//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"os"

	"agentyard.dev/services/sessions/launch"
)

// Network is a network namespace, which only Linux has.
type Network struct{}

// MakeNetwork fails.
func MakeNetwork(launch.Network) (*Network, error) {
	return nil, errors.New("sandbox: only Linux has network namespaces")
}

// Do fails.
func (n *Network) Do(func() error) error {
	return errors.New("sandbox: only Linux has network namespaces")
}

// Open fails.
func (n *Network) Open(context.Context) (bool, error) {
	return false, errors.New("sandbox: only Linux has network namespaces")
}

// File returns nil.
func (n *Network) File() *os.File { return nil }

// Close does nothing.
func (n *Network) Close() {}
