package process

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var bootID = sync.OnceValue(func() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
})

// startedAt returns when a process started, in ticks since which boot: proc_pid_stat(5), field 22.
func startedAt(pid int) (string, error) {
	fields, err := stat(pid)
	if err != nil {
		return "", err
	}
	return bootID() + "/" + fields[19], nil
}

func zombie(pid int) bool {
	fields, err := stat(pid)
	return err == nil && (fields[0] == "Z" || fields[0] == "X")
}

// stat returns the fields of proc_pid_stat(5) from the third on, after the name in parentheses.
func stat(pid int) ([]string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, errNoProcess
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return nil, errNoProcess
	}
	return fields, nil
}

// wait waits until the process has ended, and reports false when ctx ends first.
func (i *instance) wait(ctx context.Context) bool {
	fd, err := unix.PidfdOpen(i.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil { // before Linux 5.10
		return i.poll(ctx)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	// Only now is it certain whose descriptor it is.
	if now, err := startedAt(i.PID); err != nil || now != i.Started {
		return true
	}
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		return i.poll(ctx)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return i.poll(ctx)
	}
	i.seen = i.seen || !zombie(i.PID)
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })
	defer stop()
	ended := false
	err = raw.Read(func(fd uintptr) bool { // a pidfd is readable when its process has ended
		n, perr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ended = perr == nil && n > 0
		return ended
	})
	if err != nil && ctx.Err() == nil {
		return i.poll(ctx)
	}
	return ended
}
