package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"agentyard.dev/libs/tc"
)

// Interface is where a session's traffic passes.
type Interface struct {
	// Index is the veth's host side, in the network namespace that the Kernel was opened in.
	Index int
	// Namespace is a file of the session's network namespace, such as /proc/4711/ns/net, and Peer the index of its side of the veth there.
	// Only what a plan puts there (tc.AtPeer, limits of connections) needs them.
	Namespace string
	Peer      int
}

// Found is what Find finds in a network namespace.
type Found struct {
	Interface
	Addresses []netip.Addr
}

// Named is a veth whose maker says by an alias whose it is.
type Named struct {
	Index int
	Name  string // the rest of the alias
	Up    bool
}

// Result says what Apply did.
type Result struct {
	// Steps are the changes as tc or ip would be told them, in order; none when the plan was in force already.
	Steps []string
	// Again, if not zero, is when Apply is to be called with this plan again: all its rates are in force, and a queue is longer than planned, since more waits in
	// it than it is to hold, which its senders would have to send again all at once. Each call shortens it by some packets.
	Again time.Duration
	// Took is the time from the first message to the last check.
	Took time.Duration
}

// Errors that callers act on; those returned wrap them.
var (
	// ErrForeign says that something is on the interface that we did not put there, and where the plan wants ours. Remove it, or
	// take the policy away from the session.
	ErrForeign = errors.New("somebody else's traffic control is on the interface")
	// ErrGone says that the interface does not exist (any more).
	ErrGone = errors.New("the interface does not exist")
	// ErrUnsupported says that this kernel, or this operating system, cannot do it at all.
	ErrUnsupported = errors.New("not supported here")
)

// Enforcement says what holds after a failure.
type Enforcement string

// What may be in force after a failure.
const (
	OldEnforcement     Enforcement = "old"     // what was in force before: nothing was changed, or all was undone
	NewEnforcement     Enforcement = "new"     // all that the plan says; the failure came later
	UnknownEnforcement Enforcement = "unknown" // the failure also kept it from being undone, or from being seen
)

// ApplyError is a failure of Apply: which step it was and what is in force now. Applying the plan again is always right.
type ApplyError struct {
	Step    string // "" when it was none of its own: reading, or a check
	InForce Enforcement
	Err     error
}

func (e *ApplyError) Error() string {
	if e.Step == "" {
		return fmt.Sprintf("%v (%s enforcement holds)", e.Err, e.InForce)
	}
	return fmt.Sprintf("%s: %v (%s enforcement holds)", e.Step, e.Err, e.InForce)
}

func (e *ApplyError) Unwrap() error { return e.Err }

// Counters are those of an interface, by class; nil where nothing of ours is.
type Counters struct {
	Download, Upload []ClassCounters
}

// ClassCounters are what the kernel counted for one class since it was made.
type ClassCounters struct {
	Minor   tc.Minor
	Bytes   uint64
	Packets uint64
	// Drops are packets that found the queue full or, with fq_codel, had waited for too long.
	Drops   uint64
	Backlog uint32 // bytes that wait now
	Queued  uint32 // packets that wait now
	// Lent and Borrowed count packets that were sent within the class's own rate, and with what others left.
	Lent, Borrowed uint64
}

// LimitCounter is what a limit of packets or connections has caught since it was put.
type LimitCounter struct {
	Kind      tc.LimitKind
	Direction tc.Direction
	Packets   uint64
	Bytes     uint64
}

// Change is something that somebody else changed.
type Change struct {
	Device int  // 0: some changes were lost, anything may have changed
	Gone   bool // the device itself was deleted
	New    bool // the device itself was made, or it is down and says by its alias whose it is
}
