//go:build !linux

package kernel

import (
	"context"
	"fmt"
	"runtime"

	"agentyard.dev/libs/tc"
)

var errNotLinux = fmt.Errorf("traffic control on %s: %w", runtime.GOOS, ErrUnsupported)

// Kernel cannot be had here: Open says so.
type Kernel struct{}

// Probe says that there is nothing to probe.
func Probe() (tc.Capabilities, error) { return tc.Capabilities{}, errNotLinux }

// Open says that it is not supported.
func Open(string) (*Kernel, error) { return nil, errNotLinux }

// Close does nothing.
func (*Kernel) Close() error { return nil }

// Capabilities are none.
func (*Kernel) Capabilities() tc.Capabilities { return tc.Capabilities{} }

// Writes is zero.
func (*Kernel) Writes() uint64 { return 0 }

// Apply says that it is not supported.
func (*Kernel) Apply(context.Context, Interface, *tc.Plan) (Result, error) {
	return Result{}, &ApplyError{InForce: OldEnforcement, Err: errNotLinux}
}

// Remove says that it is not supported.
func (*Kernel) Remove(context.Context, Interface) (Result, error) {
	return Result{}, &ApplyError{InForce: OldEnforcement, Err: errNotLinux}
}

// Count says that it is not supported.
func (*Kernel) Count([]Interface) ([]Counters, error) { return nil, errNotLinux }

// CountLimits says that it is not supported.
func (*Kernel) CountLimits([]Interface, []*tc.Plan) ([][]LimitCounter, error) {
	return nil, errNotLinux
}

// Find says that it is not supported.
func (*Kernel) Find(string) (Found, error) { return Found{}, errNotLinux }

// Named says that it is not supported.
func (*Kernel) Named(string) ([]Named, error) { return nil, errNotLinux }

// Raise says that it is not supported.
func (*Kernel) Raise(context.Context, Interface, string) (bool, error) { return false, errNotLinux }

// Sweep says that it is not supported.
func (*Kernel) Sweep(context.Context) ([]string, error) { return nil, errNotLinux }

// Watch says that it is not supported.
func (*Kernel) Watch(context.Context, func(), func(Change)) error { return errNotLinux }

// Relay cannot be had here.
type Relay struct{}

// Close does nothing.
func (*Relay) Close() {}

// Relay says that it is not supported.
func (*Kernel) Relay(context.Context, Interface, tc.Fault, uint64) (*Relay, error) {
	return nil, errNotLinux
}

// BootTime is zero.
func BootTime() uint64 { return 0 }
