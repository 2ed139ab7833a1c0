package sandbox

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// killRounds bounds killDescendants against a tree that forks faster than it is killed; each round stops what it finds first.
const killRounds = 100

// killDescendants kills every process below root, itself spared, until there are none. It is how a sandbox ends where there is
// no pid namespace: root is a subreaper, so that detached processes stay below it.
func killDescendants(root int) {
	empty := 0
	for range killRounds {
		pids := descendants(root)
		if len(pids) > 0 {
			empty = 0
		} else if empty++; empty == 2 {
			// Once is not enough: a parent that died while the list was read hid its children, which root has inherited by now.
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGSTOP) // so that it does not fork while the others are killed
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// descendants lists the living processes below root.
func descendants(root int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ppid, alive := parentOf(pid); alive {
			children[ppid] = append(children[ppid], pid)
		}
	}
	var found []int
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		found = append(found, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return found
}

// parentOf reads a process's parent from proc_pid_stat(5); zombies are not alive.
func parentOf(pid int) (ppid int, alive bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// The command name, in parentheses, may itself hold spaces and parentheses.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0, false
	}
	ppid, err = strconv.Atoi(fields[1])
	return ppid, err == nil && fields[0] != "Z" && fields[0] != "X"
}
