{{/* A hook's metadata: agentyard.hook (dict "root" $ "name" "keys" "on" "pre-install,pre-upgrade" "weight" "-10" "delete" "…") */}}
{{- define "agentyard.hook" -}}
name: {{ include "lib.yard" .root }}-{{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  app.kubernetes.io/name: {{ .name }}
  app.kubernetes.io/instance: {{ include "lib.yard" .root }}
  app.kubernetes.io/part-of: agentyard
annotations:
  helm.sh/hook: {{ .on }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: {{ .delete | default "before-hook-creation,hook-succeeded" }}
{{- end }}

{{/* agentyard.hookPod (dict "root" $ "name" "keys" "token" true "args" […]): the pod of a hook. */}}
{{- define "agentyard.hookPod" -}}
{{- $values := .root.Values }}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .token }}
enableServiceLinks: false
restartPolicy: {{ .restart }}
{{- with $values.global.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext: {{- include "lib.podSecurity" .root | nindent 2 }}
containers:
  - name: {{ .name }}
    image: {{ include "lib.image" (dict "root" .root "image" $values.keys.image) }}
    imagePullPolicy: {{ $values.global.image.pullPolicy }}
    args: {{- toYaml .args | nindent 6 }}
    resources: {{- toYaml $values.keys.resources | nindent 6 }}
    securityContext: {{- include "lib.containerSecurity" dict | nindent 6 }}
    {{- with .mounts }}
    volumeMounts: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- with .volumes }}
volumes: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The Secrets that the keys job makes and keeps, one a line. */}}
{{- define "agentyard.secrets" -}}
{{- $yard := include "lib.yard" . }}
{{- range list "keyring" "gateway-bus" "auth-bus" "sessions-bus" "scheduler-bus" "tcagent-bus" "tcnode-bus" "nats-trust" "sessions-secrets" "scheduler-secrets" "auth" "admin" "redis" }}
- {{ $yard }}-{{ . }}
{{- end }}
{{- end }}
