//go:build !linux

package runner

import "context"

// descendants is not known here: processes that an agent leaves running do not count as work.
func descendants() map[string]bool { return nil }

// endDescendants is never asked for: no session begins anew where nothing isolates its processes.
func endDescendants(context.Context) error { return nil }
