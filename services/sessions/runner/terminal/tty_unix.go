//go:build unix

package terminal

import (
	"os"

	"golang.org/x/sys/unix"
)

// foreground returns the foreground process group of the terminal (tcgetpgrp(3)).
func foreground(tty *os.File) (pgrp int, ok bool) {
	raw, err := tty.SyscallConn()
	if err != nil {
		return 0, false
	}
	cerr := raw.Control(func(fd uintptr) { pgrp, err = unix.IoctlGetInt(int(fd), unix.TIOCGPGRP) })
	return pgrp, cerr == nil && err == nil && pgrp > 0
}

// unread reports whether the terminal has output that nobody has read.
func unread(tty *os.File) (waiting bool) {
	raw, err := tty.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor is small
		n, err := unix.Poll(fds, 0)
		waiting = err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0
	})
	return waiting
}
