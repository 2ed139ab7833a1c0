package bus

import (
	"context"
	"time"
)

// Lease says who may act alone under a name. It is held by writing to the LEASES ledger and
// expires when its holder stops renewing.
type Lease struct{}

// LeaseConfig names a lease. A holder renews it every TTL/3; after TTL without renewal another may take it.
type LeaseConfig struct {
	Service string
	Name    string
	Holder  string        // unique per process
	TTL     time.Duration // zero: 3 s, so that takeover needs at most about 4 s
}

// NewLease returns a lease that is not held yet.
func NewLease(c *Conn, cfg LeaseConfig) *Lease { panic("todo") }

// Run competes for the lease until ctx ends. Each time it is won, lead is called with a context that
// ends when the lease is lost (before another may hold it) and with the fencing token, the revision of the winning write. Run waits for lead to return.
// On ctx's end the lease is released, so that the next holder need not wait.
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context, fence uint64)) error {
	panic("todo")
}
