{{/*
lib.workload (dict "root" $ "kind" "Deployment"|"DaemonSet" "spec" spec): a service's workload. Of spec:
  ports    [{name, containerPort}] besides the admin port
  flags    {flag: value}
  redis    whether the service uses Redis
  token    whether it talks to the Kubernetes API
  env      further variables
  volumes, mounts
  node     of a node agent: hostNetwork, hostPID, as root with these capabilities; adminPort, since the node's ports are others' too
*/}}
{{- define "lib.workload" -}}
{{- $root := .root }}
{{- $values := $root.Values }}
apiVersion: apps/v1
kind: {{ .kind }}
metadata: {{- include "lib.metadata" $root | nindent 2 }}
spec:
  {{- if eq .kind "Deployment" }}
  {{- if not $values.autoscaling.enabled }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  {{- else }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 10%}
  {{- end }}
  selector:
    matchLabels: {{- include "lib.selector" $root | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "lib.labels" $root | nindent 8 }}
        {{- with $values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        # A new generation of keys is a new credential, which a process reads when it starts.
        agentyard.dev/keys-generation: {{ $values.global.keys.generation | int | quote }}
        {{- with $values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec: {{- include "lib.podSpec" . | trim | nindent 6 }}
{{- end }}

{{- define "lib.podSpec" -}}
{{- $root := .root }}
{{- $values := $root.Values }}
serviceAccountName: {{ include "lib.fullname" $root }}
automountServiceAccountToken: {{ .spec.token | default false }}
enableServiceLinks: false
{{- with $values.global.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
# What a stop takes at most, the pause for load balancers before it, and some more.
terminationGracePeriodSeconds: {{ add $values.stopSeconds $values.drainSeconds 10 }}
{{- if .spec.node }}
hostNetwork: true
hostPID: true
dnsPolicy: ClusterFirstWithHostNet
securityContext:
  runAsUser: 0
  runAsGroup: 0
  seccompProfile: {type: RuntimeDefault}
{{- else }}
securityContext: {{- include "lib.podSecurity" $root | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq .kind "Deployment" }}
topologySpreadConstraints: {{- include "lib.spread" $root | trim | nindent 2 }}
{{- end }}
containers:
  - name: {{ $root.Chart.Name }}
    image: {{ include "lib.image" (dict "root" $root "image" $values.image) }}
    imagePullPolicy: {{ $values.global.image.pullPolicy }}
    env: {{- include "lib.env" . | trim | nindent 6 }}
    ports:
      - {name: admin, containerPort: {{ include "lib.adminPort" .spec }}}
      {{- range .spec.ports }}
      - {name: {{ .name }}, containerPort: {{ .containerPort }}}
      {{- end }}
    {{- include "lib.probes" $root | trim | nindent 4 }}
    lifecycle:
      preStop: # load balancers and proxies need a moment to learn that this pod goes
        sleep: {seconds: {{ $values.drainSeconds }}}
    resources: {{- toYaml $values.resources | nindent 6 }}
    securityContext: {{- include "lib.containerSecurity" (dict "capabilities" (dig "node" "capabilities" nil .spec) "writableRoot" $values.global.writableRoot) | nindent 6 }}
    volumeMounts:
      - {name: bus, mountPath: /etc/agentyard/bus, readOnly: true}
      {{- if $values.global.bus.caSecret }}
      - {name: bus-ca, mountPath: /etc/agentyard/bus-ca, readOnly: true}
      {{- end }}
      {{- with .spec.mounts }}{{ toYaml . | nindent 6 }}{{ end }}
volumes:
  - name: bus
    secret: {secretName: {{ include "lib.credentialsSecret" $root }}, defaultMode: 0440}
  {{- with $values.global.bus.caSecret }}
  - name: bus-ca
    secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
  {{- end }}
  {{- with .spec.volumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{- define "lib.probes" -}}
{{- $p := .Values.probes }}
startupProbe:
  httpGet: {path: /health, port: admin}
  periodSeconds: 1
  failureThreshold: {{ $p.startSeconds }}
livenessProbe:
  httpGet: {path: /health, port: admin}
  periodSeconds: {{ $p.periodSeconds }}
  timeoutSeconds: {{ $p.timeoutSeconds }}
  failureThreshold: {{ $p.failureThreshold }}
readinessProbe:
  httpGet: {path: /ready, port: admin}
  periodSeconds: {{ $p.readyPeriodSeconds }}
  timeoutSeconds: {{ $p.timeoutSeconds }}
  failureThreshold: {{ $p.failureThreshold }}
{{- end }}

{{/* The restricted Pod Security Standard, and a root that nobody writes. */}}
{{- define "lib.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "lib.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ not .writableRoot }}
capabilities:
  drop: [ALL]
  {{- with .capabilities }}
  add: {{ toJson . }}
  {{- end }}
{{- end }}

{{- define "lib.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- topologyKey: {{ $key }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "lib.selector" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{- define "lib.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "lib.metadata" . | nindent 2 }}
  {{- with .Values.serviceAccountAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false # a pod that needs the token asks for it
{{- end }}

{{- define "lib.adminPort" -}}
{{ dig "node" "adminPort" 9090 . }}
{{- end }}
