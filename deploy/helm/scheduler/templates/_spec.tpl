{{- define "scheduler.spec" -}}
flags:
  scheduler.replicas: {{ .Values.global.bus.replicas }}
  scheduler.secret-keys-file: /etc/agentyard/secrets/secret.keys
mounts:
  - {name: secrets, mountPath: /etc/agentyard/secrets, readOnly: true}
volumes:
  - name: secrets
    secret: {secretName: {{ .Values.secretKeysSecret | default (printf "%s-scheduler-secrets" (include "lib.yard" .)) }}, defaultMode: 0440}
egress:
  {{- include "lib.runnersEgress" . | nindent 2 }} # whose files and result branches it asks for
  # Webhooks, to public addresses unless scheduler.webhook-allow-private says otherwise
  - ports: [{port: 443}]
    to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]}}]
{{- end }}
