{{/*
Names. A yard is one installation; its name begins the names of everything in it, also when each service is a
release of its own (global.yard then names the yard that they have in common).
*/}}

{{- define "lib.yard" -}}
{{ .Values.global.yard | default .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "lib.fullname" -}}
{{ include "lib.yard" . }}-{{ .Chart.Name }}
{{- end }}

{{/* The labels by which pods are selected: they never change. */}}
{{- define "lib.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "lib.yard" . }}
{{- end }}

{{- define "lib.labels" -}}
{{ include "lib.selector" . }}
app.kubernetes.io/part-of: agentyard
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "lib.metadata" -}}
name: {{ include "lib.fullname" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "lib.labels" . | nindent 2 }}
{{- end }}

{{/* lib.image (dict "root" $ "image" {repository, tag}): the reference of an image of ours. */}}
{{- define "lib.image" -}}
{{- $global := .root.Values.global.image }}
{{- $tag := .image.tag | default $global.tag | default .root.Chart.AppVersion }}
{{- with $global.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}:{{ $tag }}
{{- end }}

{{/* The namespace in which sessions' pods live: apart from the yard's own secrets. */}}
{{- define "lib.sessionNamespace" -}}
{{ .Values.global.sessionNamespace | default (printf "%s-sessions" (include "lib.yard" .)) }}
{{- end }}
