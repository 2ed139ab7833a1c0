{{- define "scheduler.spec" -}}
redis: false
{{- end }}
