package thread

import "syscall"

// first reports whether this thread is the process's first.
func first() bool { return syscall.Gettid() == syscall.Getpid() }
