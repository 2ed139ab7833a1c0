{{- define "tcagent.spec" -}}
# It finds the network namespaces of sessions through the node's processes and sets queueing disciplines in them: the only part of a yard with privileges.
node:
  adminPort: {{ .Values.adminPort }}
  capabilities: [NET_ADMIN, SYS_ADMIN, SYS_PTRACE]
flags:
  tcagent.data: /var/lib/agentyard
env:
  - name: AGENTAPI_TCAGENT_NODE
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
mounts:
  - {name: data, mountPath: /var/lib/agentyard}
volumes:
  - name: data # the last plans, which hold while the bus is away
    hostPath: {path: {{ .Values.dataPath }}, type: DirectoryOrCreate}
{{- end }}
