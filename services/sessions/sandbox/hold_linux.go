package sandbox

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// holdStep is how late Open notices that its context has ended.
	holdStep = 50 * time.Millisecond
	// carrierWait bounds how long the kernel may take to have a link that was set up carry packets.
	carrierWait = 5 * time.Second
)

// Open has packets pass. Those of a network that is held wait until the machine's node agent sets the link up, because the session's traffic plan is in force, or until
// ctx ends, and Open sets it up itself: byAgent says which it was. Until then the session's side has no carrier. It is called once.
func (n *Network) Open(ctx context.Context) (byAgent bool, err error) {
	if !n.held {
		return true, nil
	}
	if byAgent, err = n.carrier(ctx); err == nil && !byAgent {
		if err = ip(fmt.Sprintf("link set %s up\n", n.host)); err == nil {
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), carrierWait)
			defer cancel()
			var up bool
			if up, err = n.carrier(bounded); err == nil && !up {
				err = fmt.Errorf("the link does not come up within %s", carrierWait)
			}
		}
	}
	if err == nil {
		err = ip(n.routes) // which the kernel takes only of a link that is up
	}
	if err != nil {
		return byAgent, fmt.Errorf("open network: %w", err)
	}
	return byAgent, nil
}

// carrier waits until the session's side carries packets; it is false when ctx ends before.
func (n *Network) carrier(ctx context.Context) (up bool, err error) {
	var fd int
	if err := n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK})
	}); err != nil {
		return false, fmt.Errorf("listen for links: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 16<<10)
	for {
		if err := n.Do(func() (err error) {
			up, err = operational(inside)
			return err
		}); err != nil || up {
			return up, err
		}
		for heard := 0; heard == 0; {
			if ctx.Err() != nil {
				return false, nil
			}
			heard, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(holdStep/time.Millisecond))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return false, fmt.Errorf("listen for links: %w", err)
			}
		}
		for err := error(nil); err == nil || errors.Is(err, unix.ENOBUFS); { // what they say is asked above
			_, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		}
	}
}

// operational reports whether a device of this thread's namespace is said to carry packets (RFC 2863's operational state). Its flags do not tell: one that has just been made counts
// as running (netdevice(7)) before the kernel has looked, and drops what it is given.
func operational(device string) (bool, error) {
	const operUp = 6 // IF_OPER_UP
	data, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return false, fmt.Errorf("read links: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return false, fmt.Errorf("read links: %w", err)
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return false, fmt.Errorf("read links: %w", err)
		}
		named, up := false, false
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				named = unix.ByteSliceToString(a.Value) == device
			case unix.IFLA_OPERSTATE:
				up = len(a.Value) > 0 && a.Value[0] == operUp
			}
		}
		if named {
			return up, nil
		}
	}
	return false, fmt.Errorf("there is no device %s", device)
}
