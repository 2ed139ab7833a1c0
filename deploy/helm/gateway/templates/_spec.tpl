{{- define "gateway.spec" -}}
{{- $name := include "lib.fullname" . }}
{{- $hosts := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace)
      (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) }}
{{- with get .Values.config "gateway.allowed-hosts" }}{{ $hosts = append $hosts . }}{{ end }}
redis: true
ports:
  - {name: http, containerPort: 8080}
  {{- if .Values.preview.enabled }}
  - {name: preview, containerPort: 8081}
  {{- end }}
flags:
  gateway.listen: ":8080"
  # The operator's hosts, and those of the Service, by which callers in the cluster reach it.
  gateway.allowed-hosts: {{ join "," $hosts | quote }}
  {{- if .Values.preview.enabled }}
  gateway.preview-listen: ":8081"
  {{- end }}
  {{- if .Values.host }}
  gateway.public-url: {{ ternary "https" "http" .Values.tls.enabled }}://{{ .Values.host }}
  {{- end }}
ingress:
  - ports: [{port: http}{{ if .Values.preview.enabled }}, {port: preview}{{ end }}]
    {{- with .Values.allowFrom }}
    from: {{- toYaml . | nindent 6 }}
    {{- end }}
egress:
  {{- include "lib.runnersEgress" . | nindent 2 }}
{{- end }}
