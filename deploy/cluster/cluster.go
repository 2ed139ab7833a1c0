// Package cluster brings up a real Kubernetes for tests on one machine, with nothing but Go and a few packages of the distribution.
//
// There are two kinds. The control plane alone (etcd, API server, controllers, scheduler), with as many hollow nodes as a test
// wants (the kubelet's own code on a runtime that does nothing), runs on loopback as any user. With Nodes, each node is
// a kubelet with containerd, runc, a bridge for its pods and kube-proxy, in namespaces of its own; that needs root and Linux, and
// the packages of .ci/cluster-deps. [Enter] puts the program into namespaces that hold the whole cluster, whose processes all end with
// the program, however it ends; nothing of it leaves the machine.
//
//	func TestMain(m *testing.M) {
//		cluster.Enter()             // only for real nodes
//		c, err := cluster.Start(ctx, cluster.Config{Nodes: 2, Images: []string{"runner.tar"}})
//		…
//	}
//
// All components come from one binary (kubeall), which is built at the first use and kept in a cache; that takes some minutes. The
// package imports the standard library only, so a test of any module may use it.
//
// What it does not do: enforce NetworkPolicies (deploy/e2e/enforce does), answer names (deploy/e2e/dns does), pull images (pods use those of Config.Images), give services other addresses than
// a node's. A volume of the storage class "host" is a directory below [VolumeDir], which belongs to user 999.
package cluster

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config says what a cluster consists of.
type Config struct {
	Nodes  int      // real nodes: node1, node2, …; at most 9
	Hollow int      // hollow nodes: hollow1, …; only without Nodes
	Images []string // image tarballs that every node has; pods must not want to pull them always
	// NodeGrace is how long a silent node is believed to be alive; zero: 40 s, as is usual.
	NodeGrace time.Duration
	// TokenFile, if set, is a file of static tokens for the API server ("token,user,uid,groups" a line), so that tests can be somebody else than admin.
	TokenFile string
	// Dir holds state and logs, and lies where user 999 may go; empty: a temporary directory that Stop removes.
	Dir string
	// Logf is told how far it is; nil: nobody.
	Logf func(format string, args ...any)
}

const (
	// VolumeDir is where the volumes of the storage class "host" are, on every node.
	VolumeDir = "/tmp/hostpath_pv"
	// VolumeUser owns them: agentyard's sessions have this user id.
	VolumeUser = 999
	// StorageClass is the default storage class of a cluster with nodes.
	StorageClass = "host"
	// Gateway is the address of the program itself as pods and nodes reach it.
	Gateway = "198.18.0.1"
)

// Cluster is a cluster that runs.
type Cluster struct {
	Kubeconfig string // file: an administrator's, at Server
	Server     string // URL of the API server
	Dir        string
	Kubectl    []string // the command kubectl; it wants KUBECONFIG

	cfg    Config
	binary string
	api    *http.Client
	ip     string // of the API server
	port   int
	temp   bool
	stop   func()
	parts  sync.WaitGroup // what keeps the components running
}

// PID returns the process id of a component: "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler" and, for node 1,
// "node1/kubelet", "node1/containerd", "node1/kube-proxy". One that is killed is started again a second later. Zero: none runs.
func (c *Cluster) PID(component string) int {
	data, err := os.ReadFile(filepath.Join(c.Dir, component+".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

// Stop ends the components of a cluster without nodes, and removes its directory. One with nodes ends with the program.
func (c *Cluster) Stop() {
	c.stop()
	c.parts.Wait()
	if c.temp {
		_ = os.RemoveAll(c.Dir)
	}
}

func (c *Cluster) logf(format string, args ...any) {
	if c.cfg.Logf != nil {
		c.cfg.Logf(format, args...)
	}
}
