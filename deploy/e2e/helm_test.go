//go:build cluster

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
)

// helmWithin bounds an installation and an upgrade, on a machine that has much else to do.
const helmWithin = 12 * time.Minute

// helm is what "helm" would do.
type helm struct {
	cfg   *action.Configuration
	chart *chart.Chart
}

func newHelm(cache string) (*helm, error) {
	if err := os.Setenv("KUBECACHEDIR", cache); err != nil { // another cluster at the same address is another cluster
		return nil, err
	}
	settings := cli.New()
	settings.KubeConfig = running.cluster.Kubeconfig
	settings.SetNamespace(namespace)
	h := &helm{cfg: action.NewConfiguration()}
	if err := h.cfg.Init(settings.RESTClientGetter(), namespace, "secret"); err != nil {
		return nil, err
	}
	var err error
	h.chart, err = loader.LoadDir(filepath.Join("..", "helm", "agentyard"))
	return h, err
}

func (h *helm) install(ctx context.Context) error {
	i := action.NewInstall(h.cfg)
	i.ReleaseName, i.Namespace, i.CreateNamespace = release, namespace, true
	i.WaitStrategy, i.WaitForJobs, i.Timeout = kube.StatusWatcherStrategy, true, helmWithin
	i.ServerSideApply = true
	_, err := i.RunWithContext(ctx, h.chart, values())
	return err
}

// upgrade installs a chart and the images of a tag in place of what runs.
func (h *helm) upgrade(ctx context.Context, c *chart.Chart, tag string) error {
	u := action.NewUpgrade(h.cfg)
	u.Namespace = namespace
	u.WaitStrategy, u.WaitForJobs, u.Timeout = kube.StatusWatcherStrategy, true, helmWithin
	u.ServerSideApply = "auto"
	v := values()
	v["global"].(tree)["image"].(tree)["tag"] = tag
	_, err := u.RunWithContext(ctx, release, c, v)
	return err
}

// TestInstalled is helm test, by the network policies and the rights that the chart gives it.
func TestInstalled(t *testing.T) {
	test := action.NewReleaseTesting(running.helm.cfg)
	test.Namespace, test.Timeout = namespace, helmWithin
	tested, shutdown, err := test.Run(release)
	defer func() {
		if err := shutdown(); err != nil {
			t.Error(err)
		}
	}()
	var said strings.Builder
	if r, ok := tested.(*releasev1.Release); ok {
		if err := test.GetPodLogs(&said, r); err != nil {
			t.Error(err)
		}
	}
	if err != nil {
		t.Fatalf("helm test: %v\n%s", err, &said)
	}
	for _, path := range []string{"/ready", "/api/v1/users/me", "/api/v1/profiles", "/api/v1/tasks"} {
		if !strings.Contains(said.String(), path) {
			t.Errorf("it does not say that %s answers: %s", path, &said)
		}
	}
}

type tree = map[string]any

// values are a yard that survives the loss of any one process, on two small nodes: two of what can be two, three servers of the bus. The images
// are the ones that the nodes have.
func values() tree {
	small := tree{"requests": tree{"cpu": "20m", "memory": "32Mi"}, "limits": tree{"cpu": "2", "memory": "512Mi"}}
	service := func(replicas int) tree {
		return tree{"replicas": replicas, "drainSeconds": 2, "resources": small, "probes": tree{"startSeconds": 180, "timeoutSeconds": 10, "failureThreshold": 6}}
	}
	enabled := func(t tree) tree { t["enabled"] = true; return t }
	sessions := service(2)
	sessions["config"] = tree{
		"kube.request-cpus": 0.01, "kube.request-memory-bytes": 16 << 20, "kube.cpus": 0.5, "kube.memory-bytes": 128 << 20,
		"kube.keep-dead": "5s", "sessions.reconcile": "5s", "kube.node-loss": "5s",
	}
	return tree{
		"global": tree{
			"image":         tree{"registry": registry, "tag": running.tag, "pullPolicy": "IfNotPresent"},
			"bus":           tree{"replicas": 3},
			"networkPolicy": tree{"nodes": []any{"198.18.0.0/24"}},
			"tracing":       tree{"endpoint": running.spans.URL, "port": running.spans.Port},
		},
		"nats": tree{
			"replicas": 3, "image": tree{"registry": registry, "repository": "nats", "tag": running.tag},
			"storage": tree{"size": "1Gi", "maxFile": "900MB", "className": "bus"}, "resources": small,
		},
		"redis":   tree{"image": tree{"registry": registry, "repository": "redis", "tag": running.tag}, "resources": small},
		"gateway": service(2), "auth": service(2), "sessions": sessions, "scheduler": service(1),
		"tccontroller": enabled(service(1)), "tcagent": tree{
			"enabled": true, "resources": small, "dataPath": "/run/agentyard", "criSocket": "/run/containerd/containerd.sock",
			"defaultPolicy": tree{"name": "default", "link": tree{"upload": tree{"ceiling": defaultRate}, "download": tree{"ceiling": defaultRate}}},
		},
	}
}
