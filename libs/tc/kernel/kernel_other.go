//go:build !linux

package kernel

import (
	"fmt"
	"runtime"

	"agentyard.dev/libs/tc"
)

// Probe says that there is nothing to probe.
func Probe() (tc.Capabilities, error) {
	return tc.Capabilities{}, fmt.Errorf("traffic control on %s: %w", runtime.GOOS, ErrUnsupported)
}
