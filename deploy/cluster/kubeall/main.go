// Kubeall is every component of a Kubernetes cluster in one binary, for tests: etcd, the API server, the controller
// manager, the scheduler, the kubelet, kube-proxy, kubectl and the hollow node. It is what a cluster of agentyard's tests runs, built
// from ordinary module dependencies, because nothing else is at hand on a machine that only has Go.
//
// The component is the name that it is called by, or else its first argument.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
	kubemark "k8s.io/kubernetes/cmd/kubemark/app"
)

const etcd = "etcd"

// components makes each one's command; etcd has none, but a main function of its own.
var components = map[string]func() *cobra.Command{
	etcd:                      nil,
	"hollow-node":             kubemark.NewHollowNodeCommand,
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-proxy":              proxy.NewProxyCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	name := filepath.Base(os.Args[0])
	if _, ok := components[name]; !ok && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	command, ok := components[name]
	switch {
	case !ok:
		fmt.Fprintf(os.Stderr, "usage: kubeall COMPONENT ARG…\nthe components are %q\n", slices.Sorted(maps.Keys(components)))
		os.Exit(2)
	case name == etcd:
		etcdmain.Main(os.Args)
	default:
		os.Exit(cli.Run(command()))
	}
}
