package kube

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

var update = flag.Bool("update", false, "write the golden files again")

// TestManifest shows the pods that profiles become.
func TestManifest(t *testing.T) {
	cfg := DefaultConfig()
	cfg.CollectorImage, cfg.CollectorEndpoint = "localhost/collector:1", "http://otel.example:4318"
	r := New(cfg, Deps{BusURL: "nats://bus:4222"})
	cfg.CAConfigMap = "yard-ca"
	trusting := New(cfg, Deps{BusURL: "tls://bus:4222"})
	for name, l := range map[string]launch.Launch{
		"default": {Pod: launch.Pod{Profile: "default"}},
		"full": {
			Sandbox: launch.Sandbox{Resources: api.Resources{CPUs: 0.25, MemoryBytes: 1 << 30}},
			Pod: launch.Pod{
				Profile: "gpu", Image: "registry.example/agents/python:3.14", SessionLabels: map[string]string{"ticket": "A-1", "a/b": "c"},
				Pod: api.Pod{
					PullSecrets: []string{"registry"}, RuntimeClass: "gvisor", NodeSelector: map[string]string{"pool": "agents"},
					Tolerations: []api.Toleration{{Key: "gpu", Operator: "Exists", Effect: "NoSchedule"}, {Key: "node.kubernetes.io/unreachable", Operator: "Exists"}},
					Devices:     map[string]int64{"nvidia.com/gpu": 1},
					Requests:    api.Resources{CPUs: 0.1},
					Volume:      &api.Volume{Bytes: 1 << 30}, WritableRoot: true,
					// A user's labels are the user's, whatever they are called.
					Labels: map[string]string{"team": "red", labelSession: "sother"}, Annotations: map[string]string{"note": "hello"},
				},
			},
		},
		"trusting": {Pod: launch.Pod{Profile: "default"}},
		"around": {Pod: launch.Pod{Profile: "open", Pod: api.Pod{
			Config: map[string]string{"a.json": "{}", "b": "x"}, Collector: true,
			Egress: []api.EgressRule{{CIDR: "192.0.2.0/24"}}, Service: &api.PodService{Ports: []int{8080}, Namespaces: []string{"team-a"}},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			l.Tenant, l.Session, l.Incarnation = "acme", "sabcdefghijklmnop", 3
			of := r
			if name == "trusting" {
				of = trusting
			}
			p := of.manifest(generic{id: "sponmlkjihgfedcba", credentials: []byte("bootstrap"), pod: l.Pod, limits: l.Sandbox.Resources})
			assign(p, l)
			if p.Labels[labelSession] != l.Session {
				t.Errorf("labels %v", p.Labels)
			}
			golden(t, name, p)
		})
	}
}

func golden(t *testing.T, name string, p *corev1.Pod) {
	t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.JSONToYAML(data)
	if err != nil {
		t.Fatal(err)
	}
	goldenText(t, name, string(got))
}

func goldenText(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s is stale (%v); run with -update and look at the difference. It is now:\n%s", path, err, got)
	}
}

func TestEndOf(t *testing.T) {
	ended := func(s corev1.ContainerStateTerminated) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{Name: container, State: corev1.ContainerState{Terminated: &s}}}}
	}
	evicted := ended(corev1.ContainerStateTerminated{ExitCode: 137})
	evicted.Reason, evicted.Message = "Evicted", "The node was low on resource: memory."
	drained := ended(corev1.ContainerStateTerminated{ExitCode: 0, Reason: "Completed"})
	drained.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"}}
	unmade := corev1.PodStatus{Phase: corev1.PodFailed, InitContainerStatuses: []corev1.ContainerStatus{{
		Name: "runner", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "no space left"}},
	}}}
	for _, c := range []struct {
		name   string
		status corev1.PodStatus
		want   []string // nil: it has not ended
	}{
		{"pending", corev1.PodStatus{Phase: corev1.PodPending}, nil},
		{"running", corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: container}}}, nil},
		{"a sidecar ended", corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "other", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}, {Name: container},
		}}, nil},
		{"crashed", ended(corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error", Message: "one\ntwo\nthree\nfour\n"}), []string{"exit status 2", "two\nthree\nfour"}},
		{"out of memory", ended(corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}), []string{"OOMKilled", "memory"}},
		{"killed", ended(corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error"}), []string{"killed"}},
		{"cannot start", ended(corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: "exec: no such file"}), []string{"StartError", "no such file"}},
		{"evicted", evicted, []string{"Evicted", "low on resource"}},
		{"drained", drained, []string{"its pod was evicted", "exit status 0"}},
		{"no node took it after all", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Node didn't have enough resource"}, []string{"OutOfcpu", "enough"}},
		{"init failed", unmade, []string{"init container runner", "no space left"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ended := endOf(&corev1.Pod{Status: c.status})
			if ended != (c.want != nil) {
				t.Fatalf("ended: %v, %q", ended, got)
			}
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q does not say %q", got, want)
				}
			}
		})
	}
}

func TestHoldupOf(t *testing.T) {
	waiting := func(reason, message string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
	for want, status := range map[string]corev1.PodStatus{
		"": {ContainerStatuses: waiting("ContainerCreating", "")},
		"no node takes it: 0/3 nodes are available: 3 Insufficient cpu.": {Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available: 3 Insufficient cpu."},
		}},
		"its image cannot be had: ImagePullBackOff: Back-off pulling": {ContainerStatuses: waiting("ImagePullBackOff", "Back-off pulling")},
		"its image cannot be had: ErrImagePull: not found":            {InitContainerStatuses: waiting("ErrImagePull", "not found"), ContainerStatuses: waiting("PodInitializing", "")},
		"its container cannot be made: CreateContainerError: bad":     {ContainerStatuses: waiting("CreateContainerError", "bad")},
	} {
		if got := holdupOf(&corev1.Pod{Status: status}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestStrip: what is read of a pod survives, and the rest does not.
func TestStrip(t *testing.T) {
	full := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", UID: "u", ResourceVersion: "7", Annotations: map[string]string{"a": "b"},
			Labels:        map[string]string{labelSession: "s", labelPod: "i", "other": "x"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
		},
		Spec:   corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: container, Env: []corev1.EnvVar{{Name: "SECRET", Value: "s3cr3t"}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady}, {Type: corev1.PodScheduled}}},
	}
	obj, err := strip(full)
	p, ok := obj.(*corev1.Pod)
	if err != nil || !ok {
		t.Fatalf("%T, %v", obj, err)
	}
	text := p.String()
	if strings.Contains(text, "s3cr3t") || len(p.Annotations)+len(p.ManagedFields) > 0 || p.Labels["other"] != "" || len(p.Status.Conditions) != 1 {
		t.Errorf("kept %s", text)
	}
	if p.Name != "p" || p.UID != "u" || p.ResourceVersion != "7" || p.Spec.NodeName != "n" || p.Labels[labelSession] != "s" || p.Labels[labelPod] != "i" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("lost something: %s", text)
	}
}

// TestObserve: the end of each pod is told once, in whatever order the news comes.
func TestObserve(t *testing.T) {
	r := New(DefaultConfig(), Deps{})
	pod := func(name, uid string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("u-" + name), Labels: map[string]string{
				labelSession: "sabcdefghijklmnop", labelTenant: "acme", labelIncarnation: "1", labelPod: uid,
			}},
			Status: corev1.PodStatus{Phase: phase},
		}
	}
	p := pod("a", "i", corev1.PodRunning)
	r.observe(p, true)
	next := pod("next", "i", corev1.PodFailed) // a second pod of the same session
	next.Labels[labelIncarnation] = "2"
	r.observe(next, false)
	dead := pod("a", "i", corev1.PodFailed)
	r.observe(dead, false)
	r.observe(dead, false)
	r.removed(dead)
	r.removed(dead)
	if len(r.news) != 2 || r.news[0].Incarnation != 2 || r.news[1].Session != "sabcdefghijklmnop" || r.news[1].Incarnation != 1 || r.news[1].Unwatched {
		t.Errorf("told %+v", r.news)
	}
	nobodys := pod("warm", "i", corev1.PodFailed)
	delete(nobodys.Labels, labelSession)
	r.observe(nobodys, false)
	if len(r.news) != 2 {
		t.Error("told the end of a pod that is nobody's")
	}
	found := pod("b", "i", corev1.PodFailed)
	r.observe(found, true)
	if len(r.news) != 3 || !r.news[2].Unwatched {
		t.Errorf("what was dead at the beginning: %+v", r.news)
	}
	lost := pod("c", "i", corev1.PodRunning)
	past := metav1.NewTime(time.Now().Add(-time.Hour))
	lost.DeletionTimestamp = &past
	r.observe(lost, false)
	if known := r.pods.named["c"]; known == nil || known.deleted.IsZero() || known.ended {
		t.Errorf("a pod that is being deleted: %+v", known)
	}
}
