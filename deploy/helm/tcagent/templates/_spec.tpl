{{- define "tcagent.spec" -}}
{{- if and .Values.defaultPolicy (not .Values.criSocket) }}{{ fail "defaultPolicy: needs criSocket, which tells sessions' pods from others" }}{{ end -}}
# It finds the network namespaces of sessions through the node's processes and sets queueing disciplines in them: the only part of a yard with privileges.
node:
  adminPort: {{ .Values.adminPort }}
  capabilities: {{ concat (list "NET_ADMIN" "SYS_ADMIN" "SYS_PTRACE") (ternary (list "NET_RAW") list .Values.faults.relay) | toJson }}
flags:
  tcagent.data: /var/lib/agentyard
  {{- with .Values.criSocket }}
  tcagent.cri: /run/agentyard/cri/{{ base . }}
  {{- end }}
  {{- if .Values.defaultPolicy }}
  tcagent.default: /etc/agentyard/tcagent/default.yaml
  {{- end }}
env:
  - name: AGENTAPI_TCAGENT_NODE
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
mounts:
  - {name: data, mountPath: /var/lib/agentyard}
  {{- if .Values.criSocket }}
  - {name: cri, mountPath: /run/agentyard/cri, readOnly: true}
  {{- end }}
  {{- if .Values.defaultPolicy }}
  - {name: default-policy, mountPath: /etc/agentyard/tcagent, readOnly: true}
  {{- end }}
  {{- if .Values.faults.relay }}
  - {name: tun, mountPath: /dev/net/tun}
  {{- end }}
volumes:
  - name: data # the last plans, which hold while the bus is away
    hostPath: {path: {{ .Values.dataPath }}, type: DirectoryOrCreate}
  {{- with .Values.criSocket }}
  - name: cri # the directory, since a runtime that is started again makes another socket
    hostPath: {path: {{ dir . }}, type: Directory}
  {{- end }}
  {{- if .Values.defaultPolicy }}
  - name: default-policy
    configMap: {name: {{ include "tcagent.defaultPolicy" $ }}}
  {{- end }}
  {{- if .Values.faults.relay }}
  - name: tun
    hostPath: {path: /dev/net/tun, type: CharDevice}
  {{- end }}
{{- end }}

{{/* The agent reads it when it starts, so that another policy is another name. */}}
{{- define "tcagent.defaultPolicy" -}}
{{ include "lib.fullname" . }}-default-{{ .Values.defaultPolicy | toJson | sha256sum | trunc 10 }}
{{- end }}
