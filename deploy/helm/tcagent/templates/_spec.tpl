{{- define "tcagent.spec" -}}
redis: false
{{- end }}
