//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/deploy/e2e/enforce"
	"agentyard.dev/services/standalone/yardtest/spantest"
)

const (
	namespace    = "yard"
	release      = "agentyard"
	sessionSpace = release + "-sessions"
	startWithin  = 20 * time.Minute // on a machine that builds everything anew and has much else to do
	patience     = 5 * time.Minute  // on a machine that has much else to do
)

// running is what all tests have in common.
var running struct {
	cluster *cluster.Cluster
	client  kubernetes.Interface
	helm    *helm
	tag     string // of this checkout's images
	past    *past  // the release before; nil: none is known
	spans   *spantest.Collector
}

func TestMain(m *testing.M) {
	cluster.Enter()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Helm tells of each symbolic link
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run builds the images, starts the cluster with a name service and the enforcer of policies, installs the yard, and runs the tests.
func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	dir, err := os.MkdirTemp("", "e2e-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	stage := func(what string) {
		fmt.Fprintf(os.Stderr, "e2e: %6.1f s %s\n", time.Since(began).Seconds(), what)
	}
	root, err := cluster.Root(ctx)
	if err != nil {
		return 0, err
	}
	builder, err := newBuilder(ctx, root, dir)
	if err != nil {
		return 0, err
	}
	h, err := openHistory(ctx, root)
	if err != nil {
		return 0, err
	}
	running.tag = h.tag()
	images, err := buildImages(ctx, h, dir, builder)
	if err != nil {
		return 0, err
	}
	stage("the images are built, with the tag " + running.tag)
	switch running.past, err = h.before(ctx, builder); {
	case errors.Is(err, errNoHistory): // whose test is skipped and says so
	case err != nil:
		return 0, err
	default:
		images = append(images, running.past.images...)
		stage("the release before is " + running.past.commit)
	}
	c, err := cluster.Start(ctx, cluster.Config{Nodes: 2, Images: images})
	if err != nil {
		return 0, err
	}
	defer c.Stop()
	stage("the cluster is up")
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return 0, err
	}
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return 0, err
	}
	running.cluster, running.client = c, client

	var parts sync.WaitGroup
	defer parts.Wait()
	following, stop := context.WithCancel(context.Background())
	defer stop()
	parts.Go(func() {
		if err := enforce.Run(following, client, c.Nodes(), applyRules); err != nil && following.Err() == nil {
			fmt.Fprintln(os.Stderr, "e2e: enforce policies:", err)
		}
	})
	if err := prepare(ctx); err != nil {
		return 0, fmt.Errorf("prepare the cluster: %w", err)
	}
	if running.spans, err = spantest.Listen(cluster.Gateway + ":0"); err != nil {
		return 0, err
	}
	defer running.spans.Close()
	if running.helm, err = newHelm(filepath.Join(dir, "kube-cache")); err != nil {
		return 0, err
	}
	if err := running.helm.install(ctx); err != nil {
		describe(os.Stderr)
		return 0, fmt.Errorf("install the chart: %w", err)
	}
	stage("the yard is installed")
	code := m.Run()
	if code != 0 {
		describe(os.Stderr)
	}
	stage("the tests have run")
	return code, nil
}

// applyRules gives a node its rules. The kubelet is in the node's network namespace.
func applyRules(ctx context.Context, node, rules string) error {
	pid := running.cluster.PID(node + "/kubelet")
	if pid == 0 {
		return errors.New("it has no kubelet now")
	}
	cmd := exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}
