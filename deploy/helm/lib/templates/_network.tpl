{{/*
lib.networkPolicy (dict "root" $ "spec" spec): what a service's pods may receive and send, and nothing else. Of spec:
  redis     it talks to Redis
  ingress   [rule] besides metrics
  egress    [rule] besides the name service, the bus, Redis and the collector of traces
*/}}
{{- define "lib.networkPolicy" -}}
{{- $root := .root }}
{{- $policy := $root.Values.global.networkPolicy }}
{{- if $policy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "lib.metadata" $root | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "lib.selector" $root | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- include "lib.metricsIngress" (dict "root" $root "port" "admin") | nindent 4 }}
    {{- with .spec.ingress }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- with $root.Values.extraIngress }}{{ toYaml . | nindent 4 }}{{ end }}
  egress:
    {{- include "lib.dnsEgress" $root | nindent 4 }}
    {{- if $root.Values.global.bus.url }}
    - ports: [{port: {{ $root.Values.global.bus.port }}}] # a bus that is not this chart's: its address is the operator's
    {{- else }}
    - to: [{podSelector: {matchLabels: {{ include "lib.peer" (dict "root" $root "name" "nats") }}}}]
      ports: [{port: 4222}]
    {{- end }}
    {{- if and .spec.redis $root.Values.global.redis.enabled }}
    {{- if $root.Values.global.redis.secret }}
    - ports: [{port: {{ $root.Values.global.redis.port }}}] # likewise
    {{- else }}
    - to: [{podSelector: {matchLabels: {{ include "lib.peer" (dict "root" $root "name" "redis") }}}}]
      ports: [{port: 6379}]
    {{- end }}
    {{- end }}
    {{- if $root.Values.global.tracing.endpoint }}
    - ports: [{port: {{ $root.Values.global.tracing.port }}}] # the collector of traces, wherever it is
    {{- end }}
    {{- with .spec.egress }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- with $root.Values.extraEgress }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}
{{- end }}

{{/* lib.peer (dict "root" $ "name" "nats"): the labels of another part of the same yard. */}}
{{- define "lib.peer" -}}
{{ dict "app.kubernetes.io/name" .name "app.kubernetes.io/instance" (include "lib.yard" .root) | toJson }}
{{- end }}

{{/* The runners in sessions' pods, which the gateway and the scheduler ask; sessions' own policy names both. */}}
{{- define "lib.runnersEgress" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ include "lib.sessionNamespace" . }}}}
      podSelector: {matchLabels: {{ include "lib.peer" (dict "root" . "name" "agentyard-session") }}}
  ports: [{port: 9000}]
{{- end }}

{{- define "lib.metricsIngress" -}}
- ports: [{port: {{ .port }}}]
  {{- with .root.Values.global.networkPolicy.metricsFrom }}
  from: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "lib.dnsEgress" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  to: {{- toYaml .Values.global.networkPolicy.dnsTo | nindent 4 }}
{{- end }}
