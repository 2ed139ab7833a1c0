package sessions

import (
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestPodProfile(t *testing.T) {
	good := api.Pod{
		PullSecrets: []string{"registry"}, RuntimeClass: "gvisor", NodeSelector: map[string]string{"kubernetes.io/arch": "arm64", "pool": ""},
		Tolerations: []api.Toleration{{Key: "gpu", Operator: "Exists"}, {Operator: "Exists"}, {Key: "example.com/pool", Value: "agents", Effect: "NoExecute"}},
		Devices:     map[string]int64{"nvidia.com/gpu": 2}, Requests: api.Resources{CPUs: 0.1}, Volume: &api.Volume{Bytes: 1 << 30, StorageClass: "fast"},
		Labels: map[string]string{"team": "red"}, Annotations: map[string]string{"note": "any\ntext"},
		Config: map[string]string{"settings.json": "{}\n"}, Collector: true,
		Egress:  []api.EgressRule{{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}, Ports: []int{443}}, {CIDR: "2001:db8::/32"}},
		Service: &api.PodService{Ports: []int{8080}, Namespaces: []string{"team-a"}},
	}
	check := func(image string, pod api.Pod) error {
		var bad problems
		bad.pod("", image, pod)
		return bad.Err()
	}
	for _, image := range []string{"", "debian", "registry.example:5000/a/b:1.2", "a@sha256:" + strings.Repeat("a", 64)} {
		if err := check(image, good); err != nil {
			t.Errorf("%q: %v", image, err)
		}
	}
	for _, c := range []struct {
		pointer string
		image   string
		change  func(*api.Pod)
	}{
		{pointer: "/image", image: "has spaces"},
		{pointer: "/image", image: "-flag"},
		{pointer: "/image", image: strings.Repeat("a", 600)},
		{"/pod/pull_secrets/0", "", func(p *api.Pod) { p.PullSecrets = []string{""} }},
		{"/pod/pull_secrets/0", "", func(p *api.Pod) { p.PullSecrets = []string{"../x"} }},
		{"/pod/runtime_class", "", func(p *api.Pod) { p.RuntimeClass = "UPPER" }},
		{"/pod/node_selector/a~1b~1c", "", func(p *api.Pod) { p.NodeSelector = map[string]string{"a/b/c": "d"} }},
		{"/pod/node_selector/a", "", func(p *api.Pod) { p.NodeSelector = map[string]string{"a": "no spaces"} }},
		{"/pod/tolerations/0/operator", "", func(p *api.Pod) { p.Tolerations = []api.Toleration{{Key: "a", Operator: "Like"}} }},
		{"/pod/tolerations/0/key", "", func(p *api.Pod) { p.Tolerations = []api.Toleration{{Operator: "Equal"}} }},
		{"/pod/tolerations/0/value", "", func(p *api.Pod) { p.Tolerations = []api.Toleration{{Key: "a", Operator: "Exists", Value: "b"}} }},
		{"/pod/tolerations/0/effect", "", func(p *api.Pod) { p.Tolerations = []api.Toleration{{Key: "a", Effect: "Maybe"}} }},
		{"/pod/devices/cpu", "", func(p *api.Pod) { p.Devices = map[string]int64{"cpu": 1} }},
		{"/pod/devices/nvidia.com~1gpu", "", func(p *api.Pod) { p.Devices = map[string]int64{"nvidia.com/gpu": 0} }},
		{"/pod/requests/cpus", "", func(p *api.Pod) { p.Requests.CPUs = -1 }},
		{"/pod/volume/bytes", "", func(p *api.Pod) { p.Volume = &api.Volume{} }},
		{"/pod/volume/storage_class", "", func(p *api.Pod) { p.Volume = &api.Volume{Bytes: 1 << 30, StorageClass: "a b"} }},
		{"/pod/labels/agentyard.dev~1session", "", func(p *api.Pod) { p.Labels = map[string]string{"agentyard.dev/session": "x"} }},
		{"/pod/labels/a", "", func(p *api.Pod) { p.Labels = map[string]string{"a": "no spaces"} }},
		{"/pod/annotations/a b", "", func(p *api.Pod) { p.Annotations = map[string]string{"a b": ""} }},
		{"/pod/annotations", "", func(p *api.Pod) { p.Annotations = map[string]string{"a": strings.Repeat("x", 40<<10)} }},
		{"/pod/config/a~1b", "", func(p *api.Pod) { p.Config = map[string]string{"a/b": ""} }},
		{"/pod/config/..", "", func(p *api.Pod) { p.Config = map[string]string{"..": ""} }},
		{"/pod/config", "", func(p *api.Pod) { p.Config = map[string]string{"a": strings.Repeat("x", 20<<10)} }},
		{"/pod/egress/0/cidr", "", func(p *api.Pod) { p.Egress = []api.EgressRule{{CIDR: "example.com"}} }},
		{"/pod/egress/0/cidr", "", func(p *api.Pod) { p.Egress = []api.EgressRule{{CIDR: "10.1.2.3/8"}} }},
		{"/pod/egress/0/except/0", "", func(p *api.Pod) { p.Egress = []api.EgressRule{{CIDR: "10.0.0.0/8", Except: []string{"11.0.0.0/16"}}} }},
		{"/pod/egress/0/except/0", "", func(p *api.Pod) { p.Egress = []api.EgressRule{{CIDR: "10.0.0.0/8", Except: []string{"10.0.0.0/8"}}} }},
		{"/pod/egress/0/ports/0", "", func(p *api.Pod) { p.Egress = []api.EgressRule{{CIDR: "10.0.0.0/8", Ports: []int{70000}}} }},
		{"/pod/service/ports", "", func(p *api.Pod) { p.Service = &api.PodService{Namespaces: []string{"a"}} }},
		{"/pod/service/ports", "", func(p *api.Pod) { p.Service = &api.PodService{Ports: []int{9000}, Namespaces: []string{"a"}} }},
		{"/pod/service/ports/1", "", func(p *api.Pod) { p.Service = &api.PodService{Ports: []int{80, 80}, Namespaces: []string{"a"}} }},
		{"/pod/service/namespaces", "", func(p *api.Pod) { p.Service = &api.PodService{Ports: []int{80}} }},
		{"/pod/service/namespaces/0", "", func(p *api.Pod) { p.Service = &api.PodService{Ports: []int{80}, Namespaces: []string{"A b"}} }},
		{"/pod", "", func(p *api.Pod) { p.PullSecrets = make([]string, 40) }},
	} {
		pod := good
		if c.change != nil {
			c.change(&pod)
		}
		var e *api.Error
		if err := check(c.image, pod); !asError(err, &e) || len(e.Fields) != 1 || e.Fields[0].Pointer != c.pointer {
			t.Errorf("%s: got %v", c.pointer, err)
		}
	}
}
