//go:build !linux

package runner

import "net/netip"

// listening refuses: nothing tells here whose process listens, and a port of another
// program on the machine is not the session's to open.
func (r *runner) listening(uint16) (netip.AddrPort, error) { return netip.AddrPort{}, errPort }
