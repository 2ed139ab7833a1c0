{{- define "sessions.spec" -}}
token: true # it makes the pods of sessions
flags:
  sessions.runtime: kube
  sessions.issuer-file: /etc/agentyard/bus/session.issuer
  # Not the key that the issuer gives: that changes with the generation.
  sessions.secret-keys-file: /etc/agentyard/secrets/secret.keys
  sessions.bus-url: {{ include "sessions.runnerBusURL" . }}
  sessions.replicas: {{ .Values.global.bus.replicas }}
  kube.namespace: {{ include "lib.sessionNamespace" . }}
  kube.instance: {{ include "lib.yard" . }}
  kube.service-account: {{ include "lib.yard" . }}-session
  kube.image: {{ include "lib.image" (dict "root" . "image" .Values.runner.image) }}
  kube.pull-policy: {{ .Values.global.image.pullPolicy }}
  {{- with include "sessions.runnerCA" . }}
  kube.ca-configmap: {{ . }}
  {{- end }}
  kube.network-policies: {{ .Values.global.networkPolicy.enabled }}
  {{- if .Values.collector.endpoint }}
  kube.collector-image: {{ .Values.collector.image }}
  kube.collector-endpoint: {{ .Values.collector.endpoint }}
  {{- end }}
  {{- if .Values.declarations.enabled }}
  {{- $given := list }}
  {{- range $namespace, $user := .Values.declarations.namespaces }}{{ $given = append $given (printf "%s=%s" $namespace $user) }}{{ end }}
  kube.declarations: {{ join "," $given | quote }}
  kube.declarations-url: {{ .Values.declarations.url | quote }}
  {{- end }}
mounts:
  - {name: secrets, mountPath: /etc/agentyard/secrets, readOnly: true}
volumes:
  - name: secrets
    secret: {secretName: {{ .Values.secretKeysSecret | default (printf "%s-sessions-secrets" (include "lib.yard" .)) }}, defaultMode: 0440}
egress:
  - ports: [{port: 443}, {port: 6443}] # the Kubernetes API, whose address no selector names
{{- end }}

{{/* The bus as the runners find it, from another namespace. */}}
{{- define "sessions.runnerBusURL" -}}
{{- $scheme := ternary "tls" "nats" .Values.global.bus.tls }}
{{- .Values.global.bus.url | default (printf "%s://%s-nats.%s.svc:4222" $scheme (include "lib.yard" .) .Release.Namespace) }}
{{- end }}

{{/* The ConfigMap with the authorities that runners trust; empty: none. */}}
{{- define "sessions.runnerCA" -}}
{{- if .Values.runner.ca.configMap }}{{ .Values.runner.ca.configMap }}
{{- else if .Values.runner.ca.bundle }}{{ include "lib.yard" . }}-runner-ca
{{- end }}
{{- end }}
