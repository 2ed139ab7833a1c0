package kube

import (
	"reflect"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

func TestGrants(t *testing.T) {
	cfg := DefaultConfig()
	cfg.EgressNever = "169.254.0.0/16, 10.96.0.0/12,fe80::/10"
	r := New(cfg, Deps{})
	for _, c := range []struct {
		rule   api.EgressRule
		except []string
		err    string
	}{
		{api.EgressRule{CIDR: "192.0.2.0/24"}, nil, ""},
		{api.EgressRule{CIDR: "0.0.0.0/0", Except: []string{"192.168.0.0/16"}}, []string{"192.168.0.0/16", "169.254.0.0/16", "10.96.0.0/12"}, ""},
		{api.EgressRule{CIDR: "0.0.0.0/0", Except: []string{"169.254.0.0/16"}}, []string{"169.254.0.0/16", "10.96.0.0/12"}, ""},
		{api.EgressRule{CIDR: "::/0"}, []string{"fe80::/10"}, ""},
		{api.EgressRule{CIDR: "169.254.169.254/32"}, nil, "169.254.0.0/16"},
		{api.EgressRule{CIDR: "169.254.0.0/16"}, nil, "169.254.0.0/16"},
		{api.EgressRule{CIDR: "10.96.0.1/32"}, nil, "10.96.0.0/12"},
		{api.EgressRule{CIDR: "example.com"}, nil, "no network"},
	} {
		rules, err := r.grants([]api.EgressRule{c.rule})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("%v: %v", c.rule, err)
			}
			if why := r.refuses(api.Pod{Egress: []api.EgressRule{c.rule}}); !strings.Contains(why, c.err) {
				t.Errorf("%v: a profile with it is refused with %q", c.rule, why)
			}
			continue
		}
		if err != nil || len(rules) != 1 || !reflect.DeepEqual(rules[0].To[0].IPBlock.Except, c.except) || rules[0].To[0].IPBlock.CIDR != c.rule.CIDR {
			t.Errorf("%v: %v, %v", c.rule, rules, err)
		}
	}
	cfg.EgressNever = "nonsense"
	if err := New(cfg, Deps{}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "egress-never") {
		t.Errorf("a wrong -kube.egress-never: %v", err)
	}
}

func TestAround(t *testing.T) {
	cfg := DefaultConfig()
	r := New(cfg, Deps{})
	if a, err := r.aroundOf(launch.Pod{}); err != nil || !a.empty() {
		t.Errorf("around a pod of the default profile: %+v, %v", a, err)
	}
	if why := r.refuses(api.Pod{Collector: true}); !strings.Contains(why, "kube.collector-endpoint") {
		t.Errorf("a collector without an endpoint: %q", why)
	}
	p := launch.Pod{Pod: api.Pod{
		Egress:  []api.EgressRule{{CIDR: "192.0.2.0/24", Ports: []int{443, 80}}},
		Service: &api.PodService{Ports: []int{8080}, Namespaces: []string{"a", "b"}},
	}}
	a, err := r.aroundOf(p)
	if err != nil || a.policy == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	if got := a.policy; !reflect.DeepEqual(got.PolicyTypes, []networkingv1.PolicyType{"Egress", "Ingress"}) || len(got.Egress[0].Ports) != 2 ||
		got.Egress[0].Ports[0].Port.IntValue() != 443 || len(got.Ingress[0].From) != 2 || got.Ingress[0].Ports[0].Port.IntValue() != 8080 {
		t.Errorf("%+v", got)
	}
	p.Service = nil
	if a, _ := r.aroundOf(p); !reflect.DeepEqual(a.policy.PolicyTypes, []networkingv1.PolicyType{"Egress"}) {
		t.Errorf("a profile without a service closes what the gateway needs: %+v", a.policy)
	}
	cfg.NetworkPolicies = false
	if a, err := New(cfg, Deps{}).aroundOf(p); err != nil || !a.empty() {
		t.Errorf("without network policies: %+v, %v", a, err)
	}
}

// A pod of a pool is another's when what is around it is another.
func TestShapeHasWhatIsAround(t *testing.T) {
	r := New(DefaultConfig(), Deps{})
	shapes := map[string]bool{}
	for _, p := range []api.Pod{
		{}, {Config: map[string]string{"a": "1"}}, {Config: map[string]string{"a": "2"}}, {Egress: []api.EgressRule{{CIDR: "192.0.2.0/24"}}},
		{Egress: []api.EgressRule{{CIDR: "192.0.2.0/25"}}}, {Service: &api.PodService{Ports: []int{1}, Namespaces: []string{"a"}}},
	} {
		shapes[r.shape(generic{pod: launch.Pod{Pod: p}})] = true
	}
	if len(shapes) != 6 {
		t.Errorf("%d shapes of 6", len(shapes))
	}
}

// TestCollectorGolden keeps a configuration as it is, which a real collector reads in deploy/collector.
func TestCollectorGolden(t *testing.T) {
	cfg := DefaultConfig()
	cfg.CollectorImage, cfg.CollectorEndpoint = "x", "http://otel:4318"
	goldenText(t, "collector", New(cfg, Deps{}).collectorConfig())
}

func TestCollectorConfig(t *testing.T) {
	cfg := DefaultConfig()
	cfg.CollectorImage, cfg.CollectorEndpoint = "x", `http://otel:4318/"#`
	var config struct {
		Receivers map[string]struct {
			Config struct {
				ScrapeConfigs []map[string]any `json:"scrape_configs"`
			}
		}
		Processors map[string]any
		Exporters  map[string]struct{ Endpoint string }
		Service    struct {
			Pipelines map[string]map[string][]string
		}
	}
	if err := yaml.Unmarshal([]byte(New(cfg, Deps{}).collectorConfig()), &config); err != nil {
		t.Fatal(err)
	}
	scrape := config.Receivers["prometheus"].Config.ScrapeConfigs[0]
	if scrape["scrape_interval"] != "15s" || !strings.Contains(yamlOf(t, scrape), "/etc/collector-targets/targets.json") {
		t.Errorf("scrapes %v", scrape)
	}
	if got := targetsOf("s1"); got != `[{"labels":{"instance":"s1"},"targets":["127.0.0.1:9464"]}]` {
		t.Errorf("reads %s", got)
	}
	if got := config.Exporters["otlphttp"].Endpoint; got != cfg.CollectorEndpoint {
		t.Errorf("sends to %q", got)
	}
	for _, c := range config.Service.Pipelines["metrics"]["processors"] {
		if _, ok := config.Processors[c]; !ok {
			t.Errorf("there is no processor %s", c)
		}
	}
	for _, key := range []string{"service.name", "agentyard.tenant", "agentyard.session", "agentyard.profile", "k8s.pod.name", "k8s.namespace.name", "k8s.node.name"} {
		if !strings.Contains(yamlOf(t, config.Processors["resource"]), "key: "+key+"\n") {
			t.Errorf("no attribute %s", key)
		}
	}
}

func yamlOf(t *testing.T, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
