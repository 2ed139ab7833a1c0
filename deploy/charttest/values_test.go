package charttest

import (
	"strings"
	"testing"
)

// A value that is wrong is refused by its name, before anything is installed.
func TestWrongValuesAreRefused(t *testing.T) {
	for _, c := range []struct{ chart, values, names string }{
		{"agentyard", "gatewai: {replicas: 2}", "gatewai"},
		{"agentyard", "gateway: {replica: 2}", "replica"},
		{"agentyard", "gateway: {replicas: many}", "/replicas"},
		{"agentyard", "gateway: {config: {gateway.max-bodyy: 1}}", "gateway.max-bodyy"},
		{"agentyard", "gateway: {config: {gateway.write-timeout: 10}}", "gateway.write-timeout"},
		{"agentyard", "gateway: {config: {gateway.write-timeout: 10 seconds}}", "gateway.write-timeout"},
		{"agentyard", "gateway: {config: {gateway.listen: \":80\"}}", "gateway.listen"},
		{"agentyard", "gateway: {service: {type: Loadbalancer}}", "/service/type"},
		{"agentyard", "gateway: {httpRoute: {parentRefs: [{namespace: x}]}}", "/httpRoute/parentRefs/0"},
		{"agentyard", "nats: {replicas: 2}", "/replicas"},
		{"agentyard", "nats: {storage: {size: 20}}", "/storage/size"},
		{"agentyard", "global: {bus: {replicas: 2}}", "/global/bus/replicas"},
		{"agentyard", "global: {image: {pullPolicy: always}}", "/global/image/pullPolicy"},
		{"agentyard", "global: {log: {level: verbose}}", "/global/log/level"},
		{"agentyard", "global: {keys: {generation: -1}}", "/global/keys/generation"},
		{"agentyard", "global: {traces: {}}", "traces"},
		{"auth", "autoscaling: {cpuUtilization: 200}", "/autoscaling/cpuUtilization"},
		{"sessions", "namespace: {podSecurity: none}", "/namespace/podSecurity"},
		{"tcagent", "replicas: 3", "replicas"},
		{"redis", "maxMemory: 1GB", "/maxMemory"},
	} {
		_, _, err := Render(Helm(c.chart), Release{Name: "yard", Namespace: "yard"}, parse(t, c.values))
		if err == nil || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s, %s: got %v, want an error that names %s", c.chart, c.values, err, c.names)
		}
	}
}

// What cannot work is said when it is rendered.
func TestMissingValuesAreNamed(t *testing.T) {
	for values, want := range map[string]string{
		"ingress: {enabled: true}":                                           "host: ",
		"httpRoute: {enabled: true}, host: yard.example.com":                 "httpRoute.parentRefs: ",
		"tls: {issuer: {name: ca}}":                                          "host: ",
		"httpRoute: {enabled: true, parentRefs: [{name: public}]}, host: ''": "host: ",
	} {
		_, _, err := Render(Helm("gateway"), Release{Name: "yard", Namespace: "yard"}, parse(t, "{"+values+"}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", values, err, want)
		}
	}
}

func TestNotes(t *testing.T) {
	notes := func(values string) string {
		_, text := arrangement{name: "notes", chart: "agentyard", more: values}.render(t)
		return text
	}
	for values, want := range map[string][]string{
		"{}":                                {"namespace yard", "port-forward service/agentyard-gateway 8080:80", "secret agentyard-admin", "helm test -n yard agentyard"},
		"gateway: {host: yard.example.com}": {"https://yard.example.com"},
		"global: {bus: {replicas: 3}}":      {"WARNING", "no stream can be made"},
		"tcagent: {enabled: true}":          {"WARNING", "global.networkPolicy.nodes"},
		"gateway: {tls: {enabled: false}, host: yard.test}": {"http://yard.test"},
	} {
		text := notes(values)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: the notes do not say %q:\n%s", values, w, text)
			}
		}
	}
	if strings.Contains(notes("{}"), "WARNING") {
		t.Error("a warning for the default values")
	}
}

// Services that are releases of their own meet under the yard's name.
func TestServicesApartAreOneYard(t *testing.T) {
	whole := map[string]string{}
	for _, o := range (arrangement{name: "whole", chart: "agentyard", more: "tccontroller: {enabled: true}"}).objects(t) {
		whole[o.Kind()+"/"+o.Name()] = strings.ReplaceAll(o.Text, "app.kubernetes.io/managed-by", "")
	}
	for _, s := range []string{"gateway", "auth", "sessions", "scheduler", "tccontroller", "nats", "redis"} {
		for _, o := range (arrangement{name: s, chart: s, more: "global: {yard: agentyard}"}).objects(t) {
			key := o.Kind() + "/" + o.Name()
			if want, ok := whole[key]; !ok {
				t.Errorf("%s makes %s, which the umbrella chart does not", s, key)
			} else if got := strings.ReplaceAll(o.Text, "app.kubernetes.io/managed-by", ""); got != want && o.Kind() != "StatefulSet" && key != "Deployment/agentyard-redis" {
				t.Errorf("%s makes another %s than the umbrella chart: %s", s, key, difference([]byte(got), []byte(want)))
			}
		}
	}
}
