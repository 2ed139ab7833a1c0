//go:build cluster

package clustertest_test

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
)

const collectorImage = "localhost/agentyard/testcollector:dev"

// endpoint is an HTTP server that pods reach, and what was posted to it.
func endpoint(t *testing.T) (url string, posted <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", cluster.Gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	bodies := make(chan string, 64)
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(req.Body, 1<<20))
		select {
		case bodies <- req.URL.Path + "\n" + string(body):
		default:
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return "http://" + listener.Addr().String(), bodies
}

// TestAround: what a profile wants around its pods is there, works, is the yard's own, and goes with the pod.
func TestAround(t *testing.T) {
	t.Parallel()
	url, posted := endpoint(t)
	y := newYard(t, func(_ *sessions.Config, c *kube.Config) { c.CollectorImage, c.CollectorEndpoint = collectorImage, url })
	_, err := rpc.Call(y.admin, y.client, api.CreateProfile, api.Profile{Name: "greedy", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{
		Egress: []api.EgressRule{{CIDR: "169.254.169.254/32"}},
	}})
	if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "169.254.0.0/16") {
		t.Errorf("a profile opened the clouds' metadata: %v", err)
	}
	y.profile(api.Profile{Name: "around", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{
		Config: map[string]string{"settings.json": `{"mode":"careful"}`}, Collector: true,
		Egress:  []api.EgressRule{{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}, Ports: []int{443}}},
		Service: &api.PodService{Ports: []int{8080}, Namespaces: []string{"team-a"}},
		Volume:  &api.Volume{Bytes: 16 << 20},
		Labels:  map[string]string{"agentyard.dev.session": "x", "collector": "false"},
	}})
	s := y.create("around")
	y.reaches(s.ID, api.StateRunning)
	p := y.pod(s.ID)

	t.Run("files", func(t *testing.T) {
		if got := y.ask(s.ID, "run busybox cat /etc/agentyard/settings.json"); !strings.Contains(got, `"careful"`) {
			t.Errorf("read %q", got)
		}
		if got := y.ask(s.ID, "run busybox ls /etc/agentyard /etc/collector"); strings.Contains(got, "collector.yaml") {
			t.Errorf("the agent has the collector's configuration: %q", got)
		}
		if got := y.ask(s.ID, "run busybox touch /etc/agentyard/x"); !strings.Contains(got, "ead-only") {
			t.Errorf("wrote: %q", got)
		}
	})
	t.Run("metrics reach the endpoint, with whose they are", func(t *testing.T) {
		y.ask(s.ID, "write metrics\nclaude_tokens_total 42")
		y.ask(s.ID, "run busybox httpd -p 127.0.0.1:9464 -h .")
		want := []string{
			"/v1/metrics\n", "claude_tokens_total 42", "agentyard.session=" + s.ID + "\n", "agentyard.tenant=" + s.Tenant + "\n",
			"agentyard.profile=around\n", "service.name=agentyard-session\n", "k8s.pod.name=" + p.Name + "\n", "k8s.node.name=" + p.Spec.NodeName + "\n",
		}
		select {
		case got := <-posted:
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in %q", w, got)
				}
			}
		case <-time.After(patience):
			t.Fatal("nothing was sent")
		}
	})
	objects := func(t *testing.T) map[string]metav1.ObjectMeta {
		t.Helper()
		found, ours := map[string]metav1.ObjectMeta{}, metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + s.ID}
		maps, err := y.kube.CoreV1().ConfigMaps(y.namespace).List(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range maps.Items {
			found["ConfigMap"] = o.ObjectMeta
		}
		policies, err := y.kube.NetworkingV1().NetworkPolicies(y.namespace).List(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range policies.Items {
			found["NetworkPolicy"] = o.ObjectMeta
		}
		services, err := y.kube.CoreV1().Services(y.namespace).List(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range services.Items {
			found["Service"] = o.ObjectMeta
		}
		return found
	}
	t.Run("everything is the pod's, with our labels", func(t *testing.T) {
		found := objects(t)
		for _, kind := range []string{"ConfigMap", "NetworkPolicy", "Service"} {
			o, ok := found[kind]
			if !ok {
				t.Errorf("no %s", kind)
				continue
			}
			if len(o.OwnerReferences) != 1 || o.OwnerReferences[0].UID != p.UID || o.Labels["agentyard.dev/tenant"] != s.Tenant || o.Labels["app.kubernetes.io/managed-by"] != "agentyard-sessions" {
				t.Errorf("%s: owners %v, labels %v", kind, o.OwnerReferences, o.Labels)
			}
		}
		if p.Labels["agentyard.dev/session"] != s.ID || p.Labels["agentyard.dev/collector"] != "true" {
			t.Errorf("a user set labels of ours: %v", p.Labels)
		}
		policy, err := y.kube.NetworkingV1().NetworkPolicies(y.namespace).Get(t.Context(), found["NetworkPolicy"].Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		block := policy.Spec.Egress[0].To[0].IPBlock
		if policy.Spec.PodSelector.MatchLabels["agentyard.dev/pod"] != p.Labels["agentyard.dev/pod"] || !slices.Contains(block.Except, "169.254.0.0/16") || !slices.Contains(block.Except, "10.0.0.0/8") {
			t.Errorf("%+v", policy.Spec)
		}
	})
	reachable := func() []string {
		slices, err := y.kube.DiscoveryV1().EndpointSlices(y.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + s.ID})
		if err != nil {
			t.Fatal(err)
		}
		var ips []string
		for _, e := range slices.Items {
			for _, at := range e.Endpoints {
				ips = append(ips, at.Addresses...)
			}
		}
		return ips
	}
	t.Run("the name moves to the next pod", func(t *testing.T) {
		clustertest.Eventually(t, "the service has the pod's address", func() bool { return slices.Equal(reachable(), []string{y.pod(s.ID).Status.PodIP}) })
		for _, step := range []struct {
			op   api.Op[api.SessionRef, api.Session]
			want api.State
		}{{api.PauseSession, api.StatePaused}, {api.ResumeSession, api.StateRunning}} {
			if _, err := rpc.Call(y.admin, y.client, step.op, api.SessionRef{ID: s.ID}); err != nil {
				t.Fatal(err)
			}
			y.reaches(s.ID, step.want)
		}
		next := y.pod(s.ID)
		clustertest.Eventually(t, "the service is the new pod's", func() bool {
			found := objects(t)
			return len(found) == 3 && found["Service"].OwnerReferences[0].UID == next.UID && found["ConfigMap"].OwnerReferences[0].UID == next.UID &&
				slices.Equal(reachable(), []string{next.Status.PodIP})
		})
		if got := y.ask(s.ID, "run busybox cat /etc/agentyard/settings.json"); !strings.Contains(got, `"careful"`) {
			t.Errorf("after a pause it read %q", got)
		}
	})
	t.Run("nothing stays", func(t *testing.T) {
		y.end(s.ID)
		clustertest.Eventually(t, "all of it is gone", func() bool { return len(objects(t)) == 0 })
		if _, err := y.kube.CoreV1().Services(y.namespace).Get(t.Context(), s.ID, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the service: %v", err)
		}
	})
}

// TestCollectorWaits: a collector beside a pod that waits for a session sends nothing, and then the session's metrics, as the session's.
func TestCollectorWaits(t *testing.T) {
	t.Parallel()
	url, posted := endpoint(t)
	y := newYard(t, func(_ *sessions.Config, c *kube.Config) { c.CollectorImage, c.CollectorEndpoint = collectorImage, url })
	y.profile(api.Profile{Name: "measured", Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 1}, Pod: api.Pod{Collector: true}})
	clustertest.Eventually(t, "the pool is full", func() bool {
		st, err := rpc.Call(y.admin, y.client, api.GetPool, api.NameRef{Name: "measured"})
		return err == nil && st == api.PoolStatus{Want: 1, Ready: 1}
	})
	before := waiting(t, y.kube, y.namespace)
	s := y.create("measured")
	y.reaches(s.ID, api.StateRunning)
	if p := y.pod(s.ID); before[string(p.UID)] == nil {
		t.Fatalf("its pod %s did not wait for it", p.Name)
	}
	y.ask(s.ID, "write metrics\nclaude_tokens_total 42")
	y.ask(s.ID, "run busybox httpd -p 127.0.0.1:9464 -h .")
	select {
	case got := <-posted:
		for _, want := range []string{"claude_tokens_total 42", "agentyard.session=" + s.ID + "\n", "service.instance.id=" + s.ID + "\n", "agentyard.tenant=" + s.Tenant + "\n", "agentyard.profile=measured\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
	case <-time.After(patience): // the kubelet brings the pod's annotations when it looks at the pod again
		t.Fatal("nothing was sent")
	}
	y.end(s.ID)
}
