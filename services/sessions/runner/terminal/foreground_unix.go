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
