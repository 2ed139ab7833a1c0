package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// qdiscs knows the qdiscs of one network namespace. The kernel lists only those of all devices, which on a full node takes longer than
// all the rest, and answers a question about one to everybody who listens for changes. So the list is read once, kept as long as
// nobody else changes anything there (who does is heard), and after changes of our own the few of one device are asked for.
type qdiscs struct {
	socket *socket
	watch  *socket // nil: nothing is kept
	known  map[int]*deviceQdiscs
}

// deviceQdiscs are the qdiscs of a device by their parent.
type deviceQdiscs struct {
	listed bool // what is not in by is not there
	by     map[uint32]object
}

const (
	groupLink    = 1 << (unix.RTNLGRP_LINK - 1)
	groupTraffic = 1 << (unix.RTNLGRP_TC - 1)
)

func newQdiscs(s, watch *socket) *qdiscs {
	return &qdiscs{socket: s, watch: watch, known: map[int]*deviceQdiscs{}}
}

// get returns the qdisc below parent; ok is false where there is none, or the kernel's own.
func (q *qdiscs) get(device int, parent uint32) (o object, ok bool, err error) {
	d := q.known[device]
	if d == nil {
		if err := q.list(); err != nil {
			return object{}, false, err
		}
		if d = q.known[device]; d == nil {
			d = &deviceQdiscs{listed: true}
			q.known[device] = d
		}
	}
	o, ok = d.by[parent]
	if !ok && !d.listed {
		m := traffic(unix.RTM_GETQDISC, unix.NLM_F_ECHO, device, 0, parent, 0).end()
		if o, _, err = getObject(q.socket, m); err != nil {
			return object{}, false, err
		}
		d.by[parent] = o
	}
	return o, o.handle != 0, nil
}

func (q *qdiscs) list() error {
	m := traffic(unix.RTM_GETQDISC, 0, 0, 0, 0, 0).end()
	err := dumpObjects(q.socket, m, func() { clear(q.known) }, func(o object) error {
		d := q.known[o.device]
		if d == nil {
			d = &deviceQdiscs{listed: true, by: map[uint32]object{}}
			q.known[o.device] = d
		}
		o.options, o.stats = append([]byte(nil), o.options...), nil
		d.by[o.parent] = o
		return nil
	})
	if err != nil {
		return fmt.Errorf("list qdiscs: %w", err)
	}
	return nil
}

// bare says that a device has only what the kernel gives every device: it is new.
func (q *qdiscs) bare(device int) {
	if q.known[device] == nil {
		q.known[device] = &deviceQdiscs{listed: true}
	}
}

// changed says that we changed qdiscs of a device.
func (q *qdiscs) changed(device int) {
	q.known[device] = &deviceQdiscs{by: map[uint32]object{}}
}

// hear forgets what others have changed since.
func (q *qdiscs) hear() error {
	if q.watch == nil {
		clear(q.known)
		return nil
	}
	for {
		n, _, err := unix.Recvfrom(q.watch.fd, q.watch.in, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ENOBUFS): // some were lost
			clear(q.known)
			continue
		case err != nil:
			return fmt.Errorf("listen for changes: %w", err)
		}
		for m, err := range messages(q.watch.in[:n]) {
			if err != nil {
				clear(q.known)
				break
			}
			device, foreign := q.changeOf(m)
			if foreign {
				delete(q.known, device)
			}
		}
	}
}

// changeOf returns the device that m is about, and whether somebody else changed its qdiscs.
func (q *qdiscs) changeOf(m received) (device int, foreign bool) {
	if len(m.body) < 8 {
		return 0, false
	}
	device = int(int32(native.Uint32(m.body[4:]))) // of a tcmsg and of an ifinfomsg
	switch m.kind {
	case unix.RTM_DELLINK:
		return device, true // its number may be another's next
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		return device, m.port != q.socket.port
	}
	return device, false
}
