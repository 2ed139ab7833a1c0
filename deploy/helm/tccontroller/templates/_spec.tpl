{{- define "tccontroller.spec" -}}
redis: false
{{- end }}
