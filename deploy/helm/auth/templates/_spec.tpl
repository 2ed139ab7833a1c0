{{- define "auth.spec" -}}
flags:
  auth.secret-file: /etc/agentyard/auth/auth.secret
  auth.bootstrap-key-file: /etc/agentyard/admin/admin.key
  auth.ledger-replicas: {{ .Values.global.bus.replicas }}
mounts:
  - {name: secret, mountPath: /etc/agentyard/auth, readOnly: true}
  - {name: admin, mountPath: /etc/agentyard/admin, readOnly: true}
volumes:
  - name: secret
    secret: {secretName: {{ .Values.secret | default (printf "%s-auth" (include "lib.yard" .)) }}, defaultMode: 0440}
  - name: admin
    secret: {secretName: {{ .Values.adminKeySecret | default (printf "%s-admin" (include "lib.yard" .)) }}, defaultMode: 0440}
{{- end }}
