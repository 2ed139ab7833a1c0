package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
)

// cgroupRoot is where cgroups are mounted by convention (cgroups(7)).
const cgroupRoot = "/sys/fs/cgroup"

// Group is one cgroup, which bounds and ends the processes of one session together: a directory in version 2,
// one per controller in version 1.
type Group struct {
	dirs   map[string]string // controller → directory; version 2 has the one entry ""
	v2     bool
	limits CgroupLimits
}

// MakeGroup makes (or finds) the cgroup name below the calling process's own, with the limits of r; zero means none. Limits that
// this machine's cgroups cannot carry are passed over: Probe says which those are.
func MakeGroup(name string, r api.Resources) (*Group, error) {
	g, err := makeGroup(name)
	if err != nil {
		return nil, err
	}
	return g, g.limit(r)
}

// FindGroup returns the cgroup that String described.
func FindGroup(s string) *Group {
	g := &Group{dirs: map[string]string{}}
	dirs := strings.Split(s, ":")
	for i, dir := range dirs {
		g.dirs[strconv.Itoa(i)] = dir
	}
	if _, err := os.Stat(filepath.Join(dirs[0], "cgroup.kill")); err == nil {
		g.v2 = true
	}
	return g
}

// String returns the cgroup's directories, joined with ':' (launch.Sandbox.Cgroup).
func (g *Group) String() string {
	var dirs []string
	for _, dir := range g.dirs {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return strings.Join(dirs, ":")
}

// Admit lets uid place its own processes in the cgroup.
func (g *Group) Admit(uid, gid int) error {
	for _, dir := range g.dirs {
		if err := os.Chown(filepath.Join(dir, "cgroup.procs"), uid, gid); err != nil {
			return fmt.Errorf("admit %d to cgroup: %w", uid, err)
		}
	}
	return nil
}

func makeGroup(name string) (*Group, error) {
	if v2, err := makeGroupV2(name); err == nil {
		return v2, nil
	}
	return makeGroupV1(name)
}

// makeGroupV2 makes the directory in the nearest cgroup at or above the caller's own in which it may and whose children have the
// controllers. (A cgroup that holds processes cannot give controllers to its children, so that is seldom the caller's own.)
func makeGroupV2(name string) (*Group, error) {
	root := cgroupRoot
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		return nil, errors.New("no cgroup v2 hierarchy")
	}
	own, err := ownCgroup("")
	if err != nil {
		return nil, err
	}
	err = errors.New("no cgroup v2 with the controllers pids and memory in which this user may make another")
	for at := filepath.Join(root, own); within(at, root); at = filepath.Dir(at) {
		dir := filepath.Join(at, name)
		if mkErr := os.Mkdir(dir, 0o755); mkErr != nil && !errors.Is(mkErr, os.ErrExist) {
			continue
		}
		g := &Group{dirs: map[string]string{"": dir}, v2: true, limits: CgroupLimits{
			Version: 2, PIDs: writable(dir, "pids.max"), Memory: writable(dir, "memory.max"), CPU: writable(dir, "cpu.max"),
		}}
		if g.limits.PIDs && g.limits.Memory && writable(at, "cgroup.procs") {
			return g, nil
		}
		_ = os.Remove(dir)
	}
	return nil, err
}

func makeGroupV1(name string) (*Group, error) {
	g := &Group{dirs: map[string]string{}}
	var failed error
	for _, controller := range []string{"pids", "memory", "cpu"} {
		own, err := ownCgroup(controller)
		if err != nil {
			continue
		}
		at := filepath.Join(cgroupRoot, controller, own)
		if _, err := os.Stat(at); err != nil { // a container sees its own cgroup as the root
			at = filepath.Join(cgroupRoot, controller)
		}
		dir := filepath.Join(at, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			failed = err
			continue
		}
		g.dirs[controller] = dir
	}
	if len(g.dirs) == 0 {
		if failed == nil {
			failed = errors.New("no cgroup hierarchy is mounted at " + cgroupRoot)
		}
		return nil, fmt.Errorf("make cgroup: %w", failed)
	}
	g.limits = CgroupLimits{Version: 1, PIDs: g.dirs["pids"] != "", Memory: g.dirs["memory"] != "", CPU: g.dirs["cpu"] != ""}
	return g, nil
}

// ownCgroup returns the caller's own cgroup in the hierarchy of controller; "" is version 2.
func ownCgroup(controller string) (string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find own cgroup: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		parts := strings.SplitN(s.Text(), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), controller) {
			return parts[2], nil
		}
	}
	return "", fmt.Errorf("no cgroup hierarchy has %q", controller)
}

func writable(dir, file string) bool {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// cpuPeriod is the kernel's default period of CPU bandwidth control, in microseconds.
const cpuPeriod = 100_000

func (g *Group) limit(r api.Resources) error {
	type file struct{ controller, name, value string }
	var files []file
	if n := r.Processes; n > 0 && g.limits.PIDs {
		files = append(files, file{"pids", "pids.max", strconv.Itoa(n)})
	}
	if n := r.MemoryBytes; n > 0 && g.limits.Memory {
		if g.v2 {
			files = append(files, file{"", "memory.max", strconv.FormatInt(n, 10)})
		} else {
			files = append(files, file{"memory", "memory.limit_in_bytes", strconv.FormatInt(n, 10)})
		}
	}
	if quota := int64(r.CPUs * cpuPeriod); quota > 0 && g.limits.CPU {
		quota = max(quota, 1000) // the kernel's minimum
		if g.v2 {
			files = append(files, file{"", "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod)})
		} else {
			files = append(files, file{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)})
		}
	}
	for _, f := range files {
		dir := g.dirs[f.controller]
		if g.v2 {
			dir = g.dirs[""]
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.value), 0); err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return nil
}

// processes lists the processes in the cgroup.
func (g *Group) processes() []int {
	var pids []int
	for _, dir := range g.dirs {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Remove kills every process in the cgroup and removes it. Removing what is gone is success.
func (g *Group) Remove(ctx context.Context) error {
	for _, dir := range g.dirs { // no more forks, so that killing comes to an end
		_ = os.WriteFile(filepath.Join(dir, "pids.max"), []byte("0"), 0)
	}
	for {
		if g.v2 {
			for _, dir := range g.dirs {
				_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
			}
		} else {
			for _, pid := range g.processes() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		err := g.rmdir()
		if err == nil {
			return nil
		}
		select { // until the kernel has buried the dead
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (g *Group) rmdir() error {
	var failed error
	for _, dir := range g.dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = err
		}
	}
	return failed
}

// probeCgroup makes a cgroup and removes it.
func probeCgroup() (CgroupLimits, error) {
	g, err := makeGroup("agentyard-probe-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		return CgroupLimits{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	return g.limits, g.Remove(ctx)
}
