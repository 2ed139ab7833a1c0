package kerneltest

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Listen returns a function that says how many changes of devices and traffic control the kernel has told since it was last called: it
// tells before it acknowledges.
func (n *Namespace) Listen(t testing.TB) func() int {
	t.Helper()
	var fd int
	err := n.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		groups := uint32(1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_TC-1))
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	})
	if err != nil {
		t.Fatalf("listen for changes: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func() (heard int) {
		buf := make([]byte, 64<<10)
		for {
			switch _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); {
			case err == nil, errors.Is(err, unix.ENOBUFS):
				heard++
			case errors.Is(err, unix.EAGAIN):
				return heard
			default:
				t.Fatalf("listen for changes: %v", err)
			}
		}
	}
}
