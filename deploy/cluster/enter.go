package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// The program's part is in its environment: the same program is started as all of them.
const (
	envRole   = "AGENTYARD_CLUSTER_ROLE"
	envBinary = "AGENTYARD_CLUSTER_KUBEALL"
	envPause  = "AGENTYARD_CLUSTER_PAUSE" // the pause image
	envGroup  = "AGENTYARD_CLUSTER_GROUP" // the cgroup of everything in the namespaces
	envNode   = "AGENTYARD_CLUSTER_NODE"  // a node's description

	roleInit   = "init"   // process 1 of the namespaces
	roleInside = "inside" // the program itself, inside
	roleNode   = "node"   // keeps one node's components running
	roleProbe  = "probe"  // tries what a cluster needs of the machine
)

// Enter puts the program into mount, network, IPC, UTS, cgroup and process namespaces of its own, for a cluster with nodes: it builds what the cluster
// needs, starts the program again inside and ends with its status. It returns inside only. It is the first thing in main or TestMain.
// What is missing (root, Linux, a package) ends the program with a sentence about it.
func Enter() {
	switch os.Getenv(envRole) {
	case roleInside:
		return
	case roleInit:
		os.Exit(beInit())
	case roleNode:
		os.Exit(beNode())
	case roleProbe:
		os.Exit(beProbe())
	}
	code, err := enter(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

// Check says why a cluster with nodes cannot be had here, or not within a minute: nil if it can. The program must call Enter when Probing
// reports true.
func Check(ctx context.Context) error {
	if err := checkMachine(); err != nil {
		return err
	}
	_, path, err := kubeall(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return errors.New("no Kubernetes is built here yet (go run ./deploy/cluster/cmd/cluster -build)")
	}
	return nil
}

// Probing reports whether this program was started by Check.
func Probing() bool { return os.Getenv(envRole) == roleProbe }

// inside reports whether Enter has returned.
func inside() bool { return os.Getenv(envRole) == roleInside }
