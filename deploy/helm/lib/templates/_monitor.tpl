{{/* How Prometheus' operator finds /metrics: a PodMonitor, or a ServiceMonitor with a Service of its own. */}}
{{- define "lib.monitor" -}}
{{- $m := .Values.global.monitoring }}
{{- if eq $m.kind "PodMonitor" }}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  {{- include "lib.metadata" . | nindent 2 }}
    {{- with $m.labels }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  selector:
    matchLabels: {{- include "lib.selector" . | nindent 6 }}
  podMetricsEndpoints:
    - {port: admin, path: /metrics, interval: {{ $m.interval }}}
{{- else if eq $m.kind "ServiceMonitor" }}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "lib.fullname" . }}-metrics
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "lib.labels" . | nindent 4 }}
    agentyard.dev/metrics: "true"
spec:
  clusterIP: None
  selector: {{- include "lib.selector" . | nindent 4 }}
  ports:
    - {name: admin, port: 9090, targetPort: admin}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "lib.metadata" . | nindent 2 }}
    {{- with $m.labels }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  selector:
    matchLabels:
      {{- include "lib.selector" . | nindent 6 }}
      agentyard.dev/metrics: "true"
  endpoints:
    # Our metrics have a label "service", as the operator gives to what it finds by a Service: alerts and dashboards go by ours.
    - {port: admin, path: /metrics, interval: {{ $m.interval }}, honorLabels: true}
{{- end }}
{{- end }}
