package kernel

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// Kernel is the traffic control of one network namespace. Its methods may be called at the same time; they take turns.
type Kernel struct {
	path string // of the network namespace; "" is the process's own

	mu       sync.Mutex
	socket   *socket
	watch    *socket // hears of all changes
	counters *socket // of its own, so that counting waits for nothing
	qdiscs   *qdiscs
	programs *programs
	rules    *ruleset // nil: the kernel has no nftables
	caps     tc.Capabilities

	counting sync.Mutex
	seenMu   sync.Mutex
	seen     map[int]upload // by the interface's index
	inside   map[Interface]bool
	relays   map[int]int // that work, by the interface's index
}

// Open returns the kernel of the network namespace that the file at path is; "" is the process's own. It probes what the kernel can do
// when the process has not done so yet.
func Open(path string) (*Kernel, error) {
	caps, err := Probe()
	if err != nil {
		return nil, err
	}
	k := &Kernel{path: path, programs: newPrograms(), caps: caps, seen: map[int]upload{}, inside: map[Interface]bool{}, relays: map[int]int{}}
	for _, s := range []struct {
		to     **socket
		groups uint32
	}{{&k.socket, 0}, {&k.watch, groupLink | groupTraffic}, {&k.counters, 0}} {
		if *s.to, err = dial(path, s.groups); err != nil {
			return nil, errors.Join(err, k.Close())
		}
	}
	k.counters.in = make([]byte, countSize)
	k.qdiscs = newQdiscs(k.socket, k.watch)
	if caps.NetdevIngress || caps.NetdevEgress || caps.ConnLimit {
		s, err := dialTo(path, unix.NETLINK_NETFILTER, 0)
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		k.rules = newRuleset(s, unix.NFPROTO_NETDEV)
	}
	return k, nil
}

// countSize is how much the kernel answers at once when it is asked for counters: it makes room for that much each time, and a session
// has few classes.
const countSize = 4 << 10

// Close ends the use of the kernel. What is in force stays in force.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.programs.close()
	var err error
	if k.rules != nil {
		err = k.rules.socket.close()
	}
	for _, s := range []*socket{k.socket, k.watch, k.counters} {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}
	if err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

// Capabilities says what the kernel was probed to do.
func (k *Kernel) Capabilities() tc.Capabilities { return k.caps }

// Writes counts the messages that changed something or tried to.
func (k *Kernel) Writes() uint64 {
	n := k.socket.writes.Load()
	if k.rules != nil {
		n += k.rules.socket.writes.Load()
	}
	return n
}

// BootTime is the node's CLOCK_BOOTTIME in nanoseconds, by which faults end.
func BootTime() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // there is no Linux without it; a fault that ends at 0 has ended
	}
	return uint64(now.Nano())
}
