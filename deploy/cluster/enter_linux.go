package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// groupPrefix begins the names of the cgroups of clusters.
const groupPrefix = "agentyard-cluster-"

// needs are the programs of a cluster with nodes, by the Debian package that has them.
var needs = map[string]string{
	"containerd": "containerd", "runc": "runc", "ip": "iproute2", "nft": "nftables", "iptables": "iptables", "conntrack": "conntrack",
	"ctr": "containerd",
}

const cniDir = "/usr/lib/cni" // of containernetworking-plugins

// checkNeeds refuses a machine without what a cluster with nodes consists of.
func checkNeeds() error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster with nodes needs root, for namespaces and cgroups")
	}
	for program, pkg := range needs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: install the package %s (or run .ci/cluster-deps)", program, pkg)
		}
	}
	if _, err := os.Stat(filepath.Join(cniDir, "bridge")); err != nil {
		return fmt.Errorf("%s/bridge is missing: install the package containernetworking-plugins (or run .ci/cluster-deps)", cniDir)
	}
	return checkCgroups()
}

// checkMachine also tries what only trying tells.
func checkMachine() error {
	if err := checkNeeds(); err != nil {
		return err
	}
	cmd := again(roleProbe)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: cloneFlags, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the namespaces end with the thread that made them
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("a cluster with nodes needs what this machine refuses: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// beProbe tries the namespaces, the mounts and the links of a cluster.
func beProbe() int {
	err := habitable()
	if err == nil {
		err = probe()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func probe() error {
	for _, dir := range []string{"lower", "upper", "work", "merged", "cgroup"} {
		if err := os.Mkdir(filepath.Join(VolumeDir, dir), 0o755); err != nil {
			return err
		}
	}
	at := func(dir string) string { return filepath.Join(VolumeDir, dir) }
	if err := syscall.Mount("overlay", at("merged"), "overlay", 0, "lowerdir="+at("lower")+",upperdir="+at("upper")+",workdir="+at("work")); err != nil {
		return fmt.Errorf("mount an overlay file system: %w", err)
	}
	if err := syscall.Mount("cgroup", at("cgroup"), "cgroup", 0, controllers[0]); err != nil {
		return fmt.Errorf("mount a cgroup hierarchy: %w", err)
	}
	return commands([][]string{
		{"ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"},
		{"ip", "link", "set", "probe0", "master", "nodes"},
		{"nft", "add", "table", "inet", "probe"},
	})
}

// enter prepares what needs the network and the machine's own file system, and runs the program inside.
func enter(ctx context.Context) (int, error) {
	if err := checkNeeds(); err != nil {
		return 0, err
	}
	binary, err := Binary(ctx)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "cluster-images-*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	pause, err := Image(ctx, dir, "pause", "-package", "./deploy/cluster/pause", "-name", pauseImage)
	if err != nil {
		return 0, err
	}
	group := groupPrefix + filepath.Base(dir)
	defer removeGroups(group)

	// The namespaces end with the thread that made them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := again(roleInit)
	cmd.Stdin = os.Stdin
	cmd.Env = append(cmd.Env, envBinary+"="+binary, envPause+"="+pause, envGroup+"="+group)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: cloneFlags,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("enter namespaces: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for range stop {
			_ = cmd.Process.Kill() // and with it all that is inside
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

const (
	cloneNewCgroup = 0x02000000 // CLONE_NEWCGROUP
	// cloneFlags are the namespaces that a whole cluster has for itself.
	cloneFlags = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID | cloneNewCgroup
)

// again returns the command of this program, with its arguments, in a role.
func again(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, envRole+"=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, envRole+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// beInit makes the namespaces habitable, starts the program and reaps what it and the pods leave behind.
func beInit() int {
	if err := habitable(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	cmd := again(roleInside)
	cmd.Stdin = os.Stdin
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster: start the program inside:", err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case pid == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal())
		case pid == cmd.Process.Pid:
			return status.ExitStatus()
		}
	}
}

func habitable() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// The kubelet of every node and the controller manager have the volumes' directory in common.
	for _, dir := range []string{"/run", VolumeDir} {
		if err := mountTmpfs(dir); err != nil {
			return err
		}
	}
	if err := os.Chown(VolumeDir, VolumeUser, VolumeUser); err != nil {
		return err
	}
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return err
	}
	return commands([][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "nodes", "type", "bridge"},
		{"ip", "addr", "add", Gateway + "/24", "dev", "nodes"},
		{"ip", "link", "set", "nodes", "up"},
		{"ip", "route", "add", "default", "dev", "nodes"}, // services' addresses need some route before they are translated
	})
}

func mountTmpfs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// commands runs each of a list of commands.
func commands(list [][]string) error {
	for _, argv := range list {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// controllers are the cgroup hierarchies that nodes have.
var controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"}

// checkCgroups refuses a machine whose cgroups a node cannot have a part of.
func checkCgroups() error {
	for _, c := range controllers {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", c, "cgroup.procs")); err != nil {
			return fmt.Errorf("a cluster with nodes needs cgroups of version 1 so far, and here is none for %s", c)
		}
	}
	return nil
}

// removeGroups removes a cluster's cgroups, which are empty once its processes have ended.
func removeGroups(name string) {
	for range 50 {
		left := false
		roots, _ := filepath.Glob("/sys/fs/cgroup/*")
		for _, root := range roots {
			left = removeBelow(root, name, 0) || left
		}
		if !left {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// removeBelow removes the directories called name at most a few levels below dir, and reports whether one is left.
func removeBelow(dir, name string, depth int) (left bool) {
	if filepath.Base(dir) == name {
		removeTree(dir)
		_, err := os.Stat(dir)
		return err == nil
	}
	if depth > 3 {
		return false
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			left = removeBelow(filepath.Join(dir, e.Name()), name, depth+1) || left
		}
	}
	return left
}

// removeTree removes cgroups from the bottom up; their files cannot be and need not be removed.
func removeTree(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
	_ = syscall.Rmdir(dir)
}
