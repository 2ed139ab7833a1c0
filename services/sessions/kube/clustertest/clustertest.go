// Package clustertest gives tests of the kube runtime a real cluster, one for all tests of a program, and places in it.
//
// Its users have the build tag "cluster", so that "make test" leaves them out and "make test-cluster" runs them.
package clustertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"agentyard.dev/deploy/cluster"
)

const (
	startWithin = 20 * time.Minute // on a machine that builds everything anew and has much else to do
	patience    = 5 * time.Minute  // likewise
)

// Image is an image that the nodes get: its name and the flags of deploy/image that make it.
type Image struct {
	Name     string
	Args     []string
	Programs []string // of this machine that it has too, each at its path here, with its shared libraries
}

// flags are those of deploy/image.
func (i Image) flags(ctx context.Context) ([]string, error) {
	flags := append([]string{"-name", i.Name}, i.Args...)
	for _, program := range i.Programs {
		libraries, err := cluster.Libraries(ctx, program)
		if err != nil {
			return nil, err
		}
		flags = append(append(flags, "-add", program+":"+program), libraries...)
	}
	return flags, nil
}

var running *cluster.Cluster

// Spare is the taint of the spare node.
const Spare = "clustertest.agentyard.dev/spare"

// Main is a TestMain: it enters the cluster's namespaces, starts a cluster with cfg and the images, runs the tests and ends the program. Tests
// share the cluster and may be parallel; only pods that tolerate Spare are on the node spare, so that a test may do to it what it wants.
func Main(m *testing.M, cfg cluster.Config, spare string, images ...Image) {
	cluster.Enter()
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	code, err := run(ctx, m, cfg, spare, images)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clustertest:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M, cfg cluster.Config, spare string, images []Image) (int, error) {
	dir, err := os.MkdirTemp("", "clustertest-*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for i, image := range images {
		flags, err := image.flags(ctx)
		if err != nil {
			return 0, err
		}
		path, err := cluster.Image(ctx, dir, fmt.Sprint("image", i), flags...)
		if err != nil {
			return 0, err
		}
		cfg.Images = append(cfg.Images, path)
	}
	began := time.Now()
	if running, err = cluster.Start(ctx, cfg); err != nil {
		return 0, err
	}
	defer running.Stop()
	taint := exec.CommandContext(ctx, running.Kubectl[0], append(slices.Clone(running.Kubectl[1:]), "taint", "node", spare, Spare+":NoSchedule")...)
	taint.Env = append(os.Environ(), "KUBECONFIG="+running.Kubeconfig)
	if out, err := taint.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("taint the spare node: %w: %s", err, out)
	}
	fmt.Fprintf(os.Stderr, "clustertest: %d nodes are ready after %s\n", len(running.Nodes()), time.Since(began).Round(100*time.Millisecond))
	return m.Run(), nil
}

// Cluster returns the cluster that runs.
func Cluster() *cluster.Cluster { return running }

// Config returns how an administrator reaches it.
func Config(t testing.TB) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", running.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

// Client returns an administrator's client.
func Client(t testing.TB) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(Config(t))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Namespace makes a namespace in which pods can be made. It goes when the test ends, with all that is in it.
func Namespace(t testing.TB) string {
	t.Helper()
	client := Client(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ns, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "test-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		none := int64(0)
		_ = client.CoreV1().Pods(ns.Name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &none}, metav1.ListOptions{})
		if err := client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("remove the namespace: %v", err)
		}
	})
	Eventually(t, "the namespace has a service account", func() bool {
		_, err := client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	return ns.Name
}

// Eventually waits for what is expected, as long as a busy machine may take.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
