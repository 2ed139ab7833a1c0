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

// descendants lists the living processes below root. The way to them may lead over a dead one: a process of several threads is a zombie as soon as the
// first of them has ended, and its children are inherited only when the last has.
func descendants(root int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children, dead := map[int][]int{}, map[int]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ppid, alive, ok := parentOf(pid); ok {
			children[ppid] = append(children[ppid], pid)
			dead[pid] = !alive
		}
	}
	var found []int
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, pid := range children[queue[0]] {
			if queue = append(queue, pid); !dead[pid] {
				found = append(found, pid)
			}
		}
	}
	return found
}

// parentOf reads a process's parent from proc_pid_stat(5); zombies are not alive. It is not ok when there is no such process.
func parentOf(pid int) (ppid int, alive, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, false
	}
	// The command name, in parentheses, may itself hold spaces and parentheses.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0, false, false
	}
	ppid, err = strconv.Atoi(fields[1])
	return ppid, fields[0] != "Z" && fields[0] != "X", err == nil
}
