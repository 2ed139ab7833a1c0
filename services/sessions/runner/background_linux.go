package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// descendants returns the processes below this one, each with the time of its start, which tells it from a later one of the same id.
// It costs what there is of them, not of all the machine's (proc_pid_task_children(5)); a kernel without that file shows none.
func descendants() map[string]bool {
	found := map[string]bool{}
	todo := []int{os.Getpid()}
	for len(todo) > 0 {
		pid := todo[0]
		todo = todo[1:]
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // what is gone has no children
		for _, t := range tasks {
			data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
			for _, field := range strings.Fields(string(data)) {
				child, err := strconv.Atoi(field)
				if err != nil {
					continue
				}
				if id, ok := identify(child); ok {
					found[id] = true
					todo = append(todo, child)
				}
			}
		}
	}
	return found
}

// endDescendants kills the processes below this one until none is left.
func endDescendants(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := descendants()
		if len(left) == 0 {
			return nil
		}
		for id := range left {
			pid, _ := strconv.Atoi(id[:strings.IndexByte(id, '@')])
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill: %w", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d processes do not end: %w", len(left), ctx.Err())
		}
	}
}

// identify names a process that runs; a zombie does not.
func identify(pid int) (string, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	fields := strings.Fields(string(data[max(0, strings.LastIndexByte(string(data), ')')):]))
	const state, started = 1, 20 // after the name, which may hold anything (proc_pid_stat(5))
	if len(fields) <= started || fields[state] == "Z" || fields[state] == "X" {
		return "", false
	}
	return strconv.Itoa(pid) + "@" + fields[started], true
}
