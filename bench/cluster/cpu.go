package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor times in /proc (USER_HZ, proc(5)).
const clockTick = 10 * time.Millisecond

// consumers are whose processor time is told, in the order in which it is.
var consumers = []string{"manager", "bus", "nodes and clients", "kube-apiserver", "etcd", "kube-scheduler", "kube-controller-manager"}

// cpu returns how much processor time each part has used.
func (p *place) cpu() map[string]time.Duration {
	pids := map[string]int{"manager": p.manager.cmd.Process.Pid, "bus": p.bus.cmd.Process.Pid, "nodes and clients": os.Getpid()}
	for _, name := range consumers[3:] {
		pids[name] = p.cluster.PID(name)
	}
	used := map[string]time.Duration{}
	for name, pid := range pids {
		used[name] = usedBy(pid)
	}
	return used
}

func usedBy(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name before may hold blanks
	fields := strings.Fields(rest)
	var ticks int64
	for _, i := range []int{11, 12} { // utime and stime
		if i < len(fields) {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * clockTick
}

// tell shows how much each part used for one of n.
func tell(what string, before, after map[string]time.Duration, n int) {
	fmt.Fprintf(os.Stderr, "# processor time of %s, each:", what)
	for _, name := range consumers {
		fmt.Fprintf(os.Stderr, " %s %s,", name, ms((after[name]-before[name])/time.Duration(n)))
	}
	fmt.Fprintln(os.Stderr)
}
