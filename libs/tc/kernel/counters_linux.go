package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// Attributes of a class's or qdisc's statistics: TCA_STATS_….
const (
	statsBasic  = 1
	statsQueue  = 3
	statsApp    = 4
	statsPkt64  = 8
	leafDropsAt = 8 // bytes into struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
)

// Count reads the counters of interfaces, in their order. It writes nothing and waits for no Apply. What has no tree of ours, or is gone,
// has no counters.
func (k *Kernel) Count(on []Interface) ([]Counters, error) {
	k.counting.Lock()
	defer k.counting.Unlock()
	leaves, err := k.leafDrops()
	if err != nil {
		return nil, err
	}
	out := make([]Counters, len(on))
	for i, at := range on {
		if out[i].Download, err = countTree(k.counters, at.Index, leaves); err != nil {
			return nil, err
		}
		upload := k.uploadOf(at.Index)
		switch {
		case upload.ifb != 0:
			out[i].Upload, err = countTree(k.counters, upload.ifb, leaves)
		case upload.peer:
			out[i].Upload, err = countPeer(at)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// upload is where an interface's upload is shaped, as Apply last saw it.
type upload struct {
	ifb  int
	peer bool
}

func (k *Kernel) uploadOf(device int) upload {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	return k.seen[device]
}

// saw remembers where the upload of an interface is shaped.
func (k *Kernel) saw(device int, w *world) {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	at := upload{peer: w.peer != nil && w.peer.root != nil}
	if w.upload.root != nil {
		at.ifb = w.ifb.index
	}
	if at == (upload{}) {
		delete(k.seen, device)
		return
	}
	k.seen[device] = at
}

func (k *Kernel) forget(device int) {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	delete(k.seen, device)
}

// interfaceOf is the interface whose upload passes device, or device itself.
func (k *Kernel) interfaceOf(device int) int {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	for host, at := range k.seen {
		if at.ifb == device {
			return host
		}
	}
	return device
}

func countPeer(at Interface) ([]ClassCounters, error) {
	s, err := dial(at.Namespace, 0)
	if err != nil { // the session has ended
		return nil, nil
	}
	defer func() { _ = s.close() }()
	return countTree(s, at.Peer, nil)
}

// place of a qdisc.
type below struct {
	device int
	parent uint32
}

// leafDrops reads what queues drop that decide for themselves (fq_codel, sfq): the class above does not hear of it.
func (k *Kernel) leafDrops() (map[below]uint32, error) {
	if !k.caps.FQCodel && !k.caps.SFQ && !k.caps.Netem {
		return nil, nil
	}
	found := map[below]uint32{}
	m := traffic(unix.RTM_GETQDISC, 0, 0, 0, 0, 0).end()
	err := dumpObjects(k.counters, m, func() { clear(found) }, func(o object) error {
		if o.kind != string(tc.FQCodel) && o.kind != string(tc.SFQ) && o.kind != string(tc.Netem) {
			return nil
		}
		for kind, v := range attrs(o.stats) {
			if kind == statsQueue && len(v) >= leafDropsAt+4 {
				found[below{o.device, o.parent}] = native.Uint32(v[leafDropsAt:])
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count drops: %w", err)
	}
	return found, nil
}

func countTree(s *socket, device int, leaves map[below]uint32) (found []ClassCounters, err error) {
	m := traffic(unix.RTM_GETTCLASS, 0, device, 0, 0, 0).end()
	err = dumpObjects(s, m, func() { found = found[:0] }, func(o object) error {
		if o.kind == "htb" && o.handle>>16 == tc.RootMajor && o.handle != parentHandle {
			c := decodeCounters(o)
			c.Drops = max(c.Drops, uint64(leaves[below{device, o.handle}]))
			found = append(found, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count classes of device %d: %w", device, err)
	}
	return found, nil
}

func decodeCounters(o object) ClassCounters {
	c := ClassCounters{Minor: tc.Minor(o.handle)}
	for kind, v := range attrs(o.stats) {
		switch kind {
		case statsBasic: // struct gnet_stats_basic
			if len(v) >= 12 {
				c.Bytes, c.Packets = native.Uint64(v), max(c.Packets, uint64(native.Uint32(v[8:])))
			}
		case statsPkt64:
			c.Packets = max(c.Packets, attrUint64(v))
		case statsQueue:
			if len(v) >= 12 {
				c.Queued, c.Backlog, c.Drops = native.Uint32(v), native.Uint32(v[4:]), uint64(native.Uint32(v[8:]))
			}
		case statsApp: // struct tc_htb_xstats
			if len(v) >= 8 {
				c.Lent, c.Borrowed = uint64(native.Uint32(v)), uint64(native.Uint32(v[4:]))
			}
		}
	}
	return c
}
