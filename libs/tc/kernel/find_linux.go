package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Find returns what is in the network namespace that the file at path is (such as /proc/4711/ns/net): the veth whose other side is here,
// and all addresses. It wraps ErrGone when there is none (yet).
func (k *Kernel) Find(path string) (Found, error) {
	s, err := dial(path, 0)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
		return Found{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return Found{}, err
	}
	defer func() { _ = s.close() }()
	links, err := readLinks(s)
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w", path, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	number, err := namespaceNumber(k.socket, path)
	if err != nil {
		return Found{}, err
	}
	for _, l := range links {
		if l.kind != "veth" || !l.foreign || l.peer == 0 || number < 0 {
			continue
		}
		// Indexes are each namespace's own: the device of this number here must say too that its other side is there.
		here, ok, err := readLink(k.socket, l.peer, "")
		if err != nil {
			return Found{}, err
		}
		if ok && here.kind == "veth" && here.foreign && here.peerNS == number && here.peer == l.index {
			addresses, err := readAddresses(s)
			return Found{Interface{Index: here.index, Namespace: path, Peer: l.index}, addresses}, err
		}
	}
	return Found{}, fmt.Errorf("%s has no veth whose other side is here: %w", path, ErrGone)
}

// Sweep deletes the IFB devices of interfaces that are gone, and returns their names.
func (k *Kernel) Sweep(ctx context.Context) (deleted []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	links, err := readLinks(k.socket)
	if err != nil {
		return nil, err
	}
	there := map[int]bool{}
	for _, l := range links {
		there[l.index] = true
	}
	var msgs []message
	for _, l := range links {
		if device, ours := l.oursFor(); ours && !there[device] {
			msgs, deleted = append(msgs, linkDel(l.index)), append(deleted, l.name)
			k.forget(device)
		}
	}
	names := map[string]bool{}
	for _, l := range links {
		names[l.name] = true
	}
	tables, err := k.sweepLimits(ctx, names)
	if err != nil {
		return nil, err
	}
	defer func() { deleted = append(deleted, tables...) }()
	errs, err := k.socket.write(ctx, msgs)
	for i, e := range errs {
		if e != nil && !overtaken(msgs[i], e) && !errors.Is(e, syscall.ENODEV) {
			err = errors.Join(err, fmt.Errorf("delete %s: %w", deleted[i], e))
		}
	}
	return deleted, err
}

// Watch calls f for the changes that others make to devices and their traffic control, until ctx ends. ready is called when it listens. A
// change of a session's IFB is told as one of its interface.
func (k *Kernel) Watch(ctx context.Context, ready func(), f func(Change)) error {
	s, err := dial(k.path, groupLink|groupTraffic)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return errors.Join(err, s.close())
	}
	file := os.NewFile(uintptr(s.fd), "netlink") // which the runtime polls, so that closing it ends a read
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer func() {
		stop()
		_ = file.Close()
	}()
	ready()
	for {
		n, err := file.Read(s.in)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ENOBUFS):
			f(Change{})
			continue
		case err != nil:
			return fmt.Errorf("watch for changes: %w", err)
		}
		for m, err := range messages(s.in[:n]) {
			if err != nil {
				f(Change{})
				break
			}
			if c, ok := k.changeOf(m); ok {
				f(c)
			}
		}
	}
}

func (k *Kernel) changeOf(m received) (c Change, ok bool) {
	if len(m.body) < sizeofIfinfomsg || m.port == k.socket.port {
		return c, false
	}
	c.Device = k.interfaceOf(int(int32(native.Uint32(m.body[4:]))))
	switch m.kind {
	case unix.RTM_DELLINK:
		c.Gone = true
	case unix.RTM_NEWLINK:
		c.New = native.Uint32(m.body[12:]) == 1<<32-1 // ifi_change, of a new device all
		if l, err := decodeLink(m.body); err == nil && l.alias != "" && !l.up {
			c.New = true // its maker has just said whose it is
		}
		return c, c.New
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC, unix.RTM_NEWTCLASS, unix.RTM_DELTCLASS, unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
	default:
		return c, false
	}
	return c, true
}
