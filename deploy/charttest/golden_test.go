package charttest

import (
	"path/filepath"
	"testing"
)

// arrangement is one way to install a chart.
type arrangement struct {
	name  string
	chart string
	files []string // values, in the chart's directory
	more  string   // further values
}

// everything switches on what is off by default.
const everything = `
global:
  bus: {replicas: 3, tls: true, caSecret: bus-ca}
  keys: {generation: 2, oldest: 1}
  image: {registry: registry.example.com/yard, tag: v1.2.3, pullSecrets: [pull]}
  tracing: {endpoint: "http://collector.observability:4318"}
  monitoring: {kind: ServiceMonitor, labels: {release: prometheus}}
  networkPolicy:
    metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: observability}}}]
    nodes: [10.0.0.0/16]
nats:
  replicas: 3
  tls: {issuer: {name: yard-ca, kind: Issuer}}
  storage: {className: fast}
gateway:
  host: yard.example.com
  preview: {enabled: true, host: preview.example.com}
  tls: {issuer: {name: letsencrypt}}
  ingress: {enabled: true, className: nginx, annotations: {nginx.ingress.kubernetes.io/proxy-read-timeout: "3600"}}
  httpRoute: {enabled: true, parentRefs: [{name: public, namespace: ingress}]}
  autoscaling: {enabled: true}
  allowFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]
  config: {gateway.max-body: 67108864, gateway.principal-rate: 12.5, gateway.allowed-hosts: "yard.internal"}
  extraEnv: [{name: SOME, value: thing}]
  podLabels: {team: platform}
  podAnnotations: {example.com/note: "yes"}
  nodeSelector: {disk: ssd}
  tolerations: [{key: dedicated, operator: Exists}]
  affinity: {nodeAffinity: {}}
  priorityClassName: high
  serviceAccountAnnotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/yard"}
sessions:
  runner:
    ca:
      bundle: |
        -----BEGIN CERTIFICATE-----
        MIIB
        -----END CERTIFICATE-----
  collector:
    endpoint: http://collector.observability:4318
    to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: observability}}}]
  declarations:
    enabled: true
    namespaces: {team-a: default/ua234567a234567ab, team-b: acme/ub234567b234567bc}
    url: https://yard.example.com
tcagent:
  enabled: true
  criSocket: /run/containerd/containerd.sock
  defaultPolicy: {name: default, link: {upload: {ceiling: 50Mbit}, download: {ceiling: 200Mbit}}}
  faults: {relay: true}
tccontroller: {enabled: true}
dashboards: {enabled: true}
alerts: {enabled: true, labels: {release: prometheus}}
`

var arrangements = func() []arrangement {
	all := []arrangement{
		{name: "agentyard", chart: "agentyard"},
		{name: "agentyard-ha", chart: "agentyard", files: []string{"values-ha.yaml"}},
		{name: "agentyard-dev", chart: "agentyard", files: []string{"values-dev.yaml"}},
		{name: "agentyard-everything", chart: "agentyard", more: everything},
		{name: "agentyard-external", chart: "agentyard", more: `
global: {bus: {url: "tls://nats.example.com:4222"}, redis: {secret: my-redis, port: 6380}, monitoring: {kind: PodMonitor}, networkPolicy: {enabled: true}}
keys: {enabled: false}
nats: {enabled: false}
redis: {enabled: false}
`},
	}
	for _, s := range append([]string{"nats", "redis"}, Services...) {
		all = append(all, arrangement{name: s, chart: s, more: "global: {yard: agentyard}"})
	}
	return all
}()

// objects renders an arrangement.
func (a arrangement) objects(t *testing.T) []Object {
	t.Helper()
	objects, _ := a.render(t)
	return objects
}

func (a arrangement) render(t *testing.T) ([]Object, string) {
	t.Helper()
	var files []string
	for _, f := range a.files {
		files = append(files, filepath.Join(Helm(a.chart), f))
	}
	values, err := Values(parse(t, a.more), files...)
	if err != nil {
		t.Fatal(err)
	}
	release := "agentyard"
	if a.chart != "agentyard" {
		release = "one-of-several"
	}
	objects, notes, err := Render(Helm(a.chart), Release{Name: release, Namespace: "yard"}, values)
	if err != nil {
		t.Fatalf("%s: %v", a.name, err)
	}
	return objects, notes
}

func TestGolden(t *testing.T) {
	for _, a := range arrangements {
		t.Run(a.name, func(t *testing.T) {
			objects, notes := a.render(t)
			text := Manifest(objects)
			if notes != "" {
				text = append(text, "# NOTES\n"+notes...)
			}
			generated(t, filepath.Join("testdata", a.name+".yaml"), text)
		})
	}
}
