package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// node describes a node to the process that is it.
type node struct {
	Index      int
	Name       string
	Nodes      int // of the cluster
	Dir        string
	Kubeall    string
	PKI        string
	Kubeconfig string // the kubelet's
	Admin      string // kube-proxy's
	Images     []string
	Group      string // its cgroup
}

const (
	pauseImage = "localhost/pause:1"
	socket     = "/run/containerd/containerd.sock"
)

func (n node) ip() string               { return nodeIP(n.Index) }
func nodeIP(i int) string               { return "198.18.0.1" + strconv.Itoa(i) }
func podRange(i int) string             { return "10.244." + strconv.Itoa(i) + ".0/24" }
func (n node) path(name string) string  { return filepath.Join(n.Dir, name) }
func (c *Cluster) link(node int) string { return "v" + strconv.Itoa(node) }
func (c *Cluster) setLink(node int, state string) error {
	return commands([][]string{{"ip", "link", "set", c.link(node), state}})
}

// Cut takes a node (1, 2, …) off the network; Heal brings it back.
func (c *Cluster) Cut(node int) error  { return c.setLink(node, "down") }
func (c *Cluster) Heal(node int) error { return c.setLink(node, "up") }

// startNodes starts every node's process and connects it.
func (c *Cluster) startNodes(run context.Context, pki *authority) error {
	if err := forward(); err != nil {
		return err
	}
	for i := 1; i <= c.cfg.Nodes; i++ {
		n := node{
			Index: i, Name: "node" + strconv.Itoa(i), Nodes: c.cfg.Nodes, Dir: filepath.Join(c.Dir, "node"+strconv.Itoa(i)),
			Kubeall: c.binary, PKI: pki.dir, Admin: c.Kubeconfig,
			Images: append([]string{os.Getenv(envPause)}, c.cfg.Images...), Group: os.Getenv(envGroup) + "/node" + strconv.Itoa(i),
		}
		if err := c.startNode(run, pki, n); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	// The program itself reaches services as a node does. kube-proxy wants the name of some node.
	c.keep(run, component{name: "kube-proxy", argv: proxyCommand(c.binary, c.Kubeconfig, "node1")})
	return nil
}

func (c *Cluster) startNode(run context.Context, pki *authority, n node) error {
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return err
	}
	if err := pki.issue(n.Name, "system:node:"+n.Name, []string{"system:nodes"}, n.Name, n.ip()); err != nil {
		return err
	}
	var err error
	if n.Kubeconfig, err = pki.kubeconfig(n.path("kubeconfig"), c.Server, n.Name); err != nil {
		return err
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	log, err := os.Create(n.path("node.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := again(roleNode)
	cmd.Env = append(cmd.Env, envNode+"="+string(text))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | cloneNewCgroup, Setpgid: true}
	connected, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.parts.Go(func() {
		<-run.Done()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := commands([][]string{
		{"ip", "link", "add", c.link(n.Index), "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(cmd.Process.Pid)},
		{"ip", "link", "set", c.link(n.Index), "master", "nodes"},
		{"ip", "link", "set", c.link(n.Index), "up"},
		{"ip", "route", "add", podRange(n.Index), "via", n.ip()},
	}); err != nil {
		return err
	}
	return connected.Close() // it waits for that
}

func forward() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }

// beNode makes this process's namespaces a node and keeps its components running. It ends with the namespace around it.
func beNode() int {
	var n node
	err := json.Unmarshal([]byte(os.Getenv(envNode)), &n)
	if err == nil {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is connected
		err = n.run(context.Background())
	}
	fmt.Fprintln(os.Stderr, "node:", err)
	return 1
}

func (n node) run(ctx context.Context) error {
	if err := n.network(); err != nil {
		return err
	}
	if err := n.fileSystem(); err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return err
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	start := func(name string, argv ...string) {
		parts.Go(func() {
			if err := keep(ctx, n.Dir, component{name: name, argv: argv}); err != nil {
				fmt.Fprintln(os.Stderr, "node:", err)
			}
		})
	}
	start("containerd", "containerd", "-c", n.path("containerd.toml"))
	for exec.Command("ctr", "-a", socket, "version").Run() != nil {
		time.Sleep(50 * time.Millisecond) // containerd has no way to say that it is ready
	}
	for _, image := range n.Images {
		if err := commands([][]string{{"ctr", "-a", socket, "-n", "k8s.io", "images", "import", image}}); err != nil {
			return err
		}
	}
	start("kube-proxy", proxyCommand(n.Kubeall, n.Admin, n.Name)...)
	start("kubelet", n.Kubeall, "kubelet", "--config="+n.path("kubelet.yaml"), "--kubeconfig="+n.Kubeconfig,
		"--root-dir="+n.path("kubelet"), "--hostname-override="+n.Name, "--node-ip="+n.ip())
	return nil // parts.Wait holds it
}

func proxyCommand(kubeall, kubeconfig, node string) []string {
	return []string{
		kubeall, "kube-proxy", "--kubeconfig=" + kubeconfig, "--proxy-mode=nftables", "--cluster-cidr=" + podCIDR, "--hostname-override=" + node,
		// Not what the machine's own connections live by.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	}
}

func (n node) network() error {
	list := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "add", n.ip() + "/24", "dev", "eth0"},
		{"ip", "link", "set", "eth0", "up"},
		{"ip", "route", "add", "default", "via", Gateway},
	}
	for i := 1; i <= n.Nodes; i++ {
		if i != n.Index {
			list = append(list, []string{"ip", "route", "add", podRange(i), "via", nodeIP(i)})
		}
	}
	if err := commands(list); err != nil {
		return err
	}
	return forward()
}

// private are what the kubelet sets for a whole machine; it gets stand-ins.
var private = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func (n node) fileSystem() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := n.cgroups(); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib/cni", "/var/log/pods", "/var/log/containers"} {
		if err := mountTmpfs(dir); err != nil {
			return err
		}
	}
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return err
	}
	// Volumes that the kubelet mounts must be seen by containers that run already.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	for i, name := range private {
		path, stand := filepath.Join("/proc/sys", name), n.path("sysctl."+strconv.Itoa(i))
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(stand, data, 0o644)
		}
		if err == nil {
			err = syscall.Mount(stand, path, "", syscall.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}

// cgroups mounts the hierarchies anew, as the cgroup namespace shows them, and makes the node's group in each.
func (n node) cgroups() error {
	const root = "/sys/fs/cgroup"
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	hierarchies := map[string]string{"systemd": "none,name=systemd"}
	for _, c := range controllers {
		hierarchies[c] = c
	}
	for name, options := range hierarchies {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("cgroup", dir, "cgroup", 0, options); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.MkdirAll(filepath.Join(dir, n.Group), 0o755); err != nil {
			return err
		}
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // which a new group has none of
		data, err := os.ReadFile(filepath.Join(root, "cpuset", file))
		for _, dir := range []string{filepath.Dir(n.Group), n.Group} {
			if err == nil {
				err = os.WriteFile(filepath.Join(root, "cpuset", dir, file), data, 0o644)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
