package kube

import (
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// metricsPort is where agents show their metrics, scraped every scrapeSeconds.
	metricsPort   = 9464
	scrapeSeconds = 15
	collectorDir  = "/etc/collector"
	collectorFile = "collector.yaml"
	// targetsNote is the annotation that tells a pod's collector what to read and whose it is, as a file of targets (file_sd of Prometheus). The kubelet brings it into targetsDir, where only
	// the collector sees it, and brings it anew when a session takes a pod that waited. So a collector may be there before its session.
	targetsNote = "agentyard.dev/scrape"
	targetsDir  = "/etc/collector-targets"
	targetsFile = "targets.json"
	noTargets   = "[]"
	// labelCollector marks the pods that send metrics, for the chart's network policy.
	labelCollector = "agentyard.dev/collector"
)

// collects reports whether the operator has said with what and to where agents' metrics are sent.
func (r *Runtime) collects() bool { return r.cfg.CollectorImage != "" && r.cfg.CollectorEndpoint != "" }

// targetsOf is the targetsNote of a session's pod. Its label becomes the resource's service.instance.id; an agent's own label of that name cannot take its place (honor_labels).
func targetsOf(session string) string {
	text, _ := json.Marshal([]map[string]any{{ // of these it has no error
		"targets": []string{"127.0.0.1:" + strconv.Itoa(metricsPort)}, "labels": map[string]string{"instance": session},
	}})
	return string(text)
}

// collector is the sidecar that reads the agent's metrics: an init container that goes on beside the others and ends after them, so that it neither
// keeps a pod whose agent has ended nor misses its last numbers. It has no credential, no volume of the session's, and only its own configuration.
func (r *Runtime) collector(g generic, secure *corev1.SecurityContext) corev1.Container {
	secure = secure.DeepCopy()
	*secure.ReadOnlyRootFilesystem = true
	always := corev1.ContainerRestartPolicyAlways
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	return corev1.Container{
		Name: "collector", Image: r.cfg.CollectorImage, ImagePullPolicy: corev1.PullPolicy(r.cfg.PullPolicy), RestartPolicy: &always,
		Args: []string{"--config=" + collectorDir + "/" + collectorFile},
		Env: []corev1.EnvVar{
			field("YARD_TENANT", "metadata.labels['"+labelTenant+"']"),
			{Name: "YARD_PROFILE", Value: g.pod.Profile},
			field("YARD_POD", "metadata.name"), field("YARD_NAMESPACE", "metadata.namespace"), field("YARD_NODE", "spec.nodeName"),
		},
		SecurityContext: secure,
		VolumeMounts: []corev1.VolumeMount{
			{Name: "collector", MountPath: collectorDir, ReadOnly: true}, {Name: "targets", MountPath: targetsDir, ReadOnly: true},
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("48Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("160Mi")},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// collectorConfig is the collector's configuration. The components are in the distribution "otelcol" and larger ones. Names of
// attributes are OpenTelemetry's where it has any (semantic conventions for services and Kubernetes).
func (r *Runtime) collectorConfig() string {
	return fmt.Sprintf(`receivers:
  prometheus:
    config:
      scrape_configs:
        - job_name: agent
          scrape_interval: %ds
          file_sd_configs:
            - {files: [%q], refresh_interval: 5s}
processors:
  memory_limiter: {check_interval: 1s, limit_mib: 120, spike_limit_mib: 24}
  resource:
    attributes:
      - {key: service.name, value: agentyard-session, action: upsert}
      - {key: service.namespace, value: "${env:YARD_TENANT}", action: upsert}
      - {key: agentyard.tenant, value: "${env:YARD_TENANT}", action: upsert}
      - {key: agentyard.session, from_attribute: service.instance.id, action: upsert}
      - {key: agentyard.profile, value: "${env:YARD_PROFILE}", action: upsert}
      - {key: k8s.namespace.name, value: "${env:YARD_NAMESPACE}", action: upsert}
      - {key: k8s.pod.name, value: "${env:YARD_POD}", action: upsert}
      - {key: k8s.node.name, value: "${env:YARD_NODE}", action: upsert}
      - {key: server.address, action: delete}
  batch: {timeout: 5s}
exporters:
  otlphttp: {endpoint: %q}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [prometheus], processors: [memory_limiter, resource, batch], exporters: [otlphttp]}
`, scrapeSeconds, targetsDir+"/"+targetsFile, r.cfg.CollectorEndpoint)
}
