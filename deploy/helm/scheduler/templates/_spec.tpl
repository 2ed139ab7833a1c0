{{- define "scheduler.spec" -}}
flags:
  scheduler.replicas: {{ .Values.global.bus.replicas }}
egress: # webhooks, to public addresses unless scheduler.webhook-allow-private says otherwise
  - ports: [{port: 443}]
    to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]}}]
{{- end }}
