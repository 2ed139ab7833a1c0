{{/*
Configuration. Flags reach a service as AGENTAPI_* variables: -gateway.public-url is AGENTAPI_GATEWAY_PUBLIC_URL.
*/}}

{{- define "lib.variable" -}}
AGENTAPI_{{ . | upper | replace "." "_" | replace "-" "_" }}
{{- end }}

{{/* A value as a flag takes it: Helm reads numbers as floating point. */}}
{{- define "lib.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else if kindIs "slice" . }}{{ join "," . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/*
lib.env (dict "root" $ "spec" spec): the container's variables, sorted by name. spec.flags are what the chart decides,
values.config what the operator does; the chart's schema keeps the two apart.
*/}}
{{- define "lib.env" -}}
{{- $root := .root }}
{{- $flags := dict "admin-listen" (printf ":%s" (include "lib.adminPort" .spec)) "log.level" $root.Values.global.log.level "log.format" $root.Values.global.log.format
      "stop-timeout" (printf "%ds" (int $root.Values.stopSeconds)) "bus.url" (include "lib.busURL" $root)
      "bus.credentials" "/etc/agentyard/bus/bus.creds" "bus.replicas" $root.Values.global.bus.replicas }}
{{- with $root.Values.global.tracing.endpoint }}{{ $_ := set $flags "otel.endpoint" . }}{{ end }}
{{- range $flag, $value := $root.Values.config }}
  {{- if not (kindIs "invalid" $value) }}{{ $_ := set $flags $flag $value }}{{ end }}
{{- end }}
{{- range $flag, $value := .spec.flags }}{{ $_ := set $flags $flag $value }}{{ end }}
{{- range $flag := keys $flags | sortAlpha }}
- name: {{ include "lib.variable" $flag }}
  value: {{ include "lib.text" (get $flags $flag) | quote }}
{{- end }}
{{- if and .spec.redis $root.Values.global.redis.enabled }}
- name: AGENTAPI_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ include "lib.redisSecret" $root }}, key: redis.url}
{{- end }}
- name: GOMEMLIMIT
  valueFrom:
    resourceFieldRef: {resource: limits.memory}
{{- if $root.Values.global.bus.caSecret }}
- name: SSL_CERT_DIR # beside the image's own bundle
  value: /etc/agentyard/bus-ca
{{- end }}
{{- with .spec.env }}
{{ toYaml . }}
{{- end }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "lib.busURL" -}}
{{- $scheme := ternary "tls" "nats" .Values.global.bus.tls }}
{{- .Values.global.bus.url | default (printf "%s://%s-nats:4222" $scheme (include "lib.yard" .)) }}
{{- end }}

{{- define "lib.credentialsSecret" -}}
{{- $role := get (dict "tccontroller" "tcagent" "tcagent" "tcnode") .Chart.Name | default .Chart.Name }}{{/* what a node agent has must not be the controller's */}}
{{- .Values.credentialsSecret | default (printf "%s-%s-bus" (include "lib.yard" .) $role) }}
{{- end }}

{{- define "lib.redisSecret" -}}
{{ .Values.global.redis.secret | default (printf "%s-redis" (include "lib.yard" .)) }}
{{- end }}
