{{/* The fields of a profile (libs/api, Profile), as a custom resource has them. */}}
{{- define "sessions.profileSchema" -}}
type: object
description: What a session of this kind is. Sessions that run keep what they were created with.
required: [agent]
properties:
  description: {type: string, maxLength: 2000}
  agent:
    {{- include "sessions.agentSchema" "The agent." | nindent 4 }}
    required: [kind]
  env: {{- include "sessions.envSchema" "Variables of the agents' environment." | nindent 4 }}
  resources: {{- include "sessions.resourcesSchema" "What a session's processes may use together." | nindent 4 }}
  ttl: {{- include "sessions.durationSchema" "How old its sessions may become before they are stopped." | nindent 4 }}
  idleTimeout: {{- include "sessions.durationSchema" "How long they may be idle." | nindent 4 }}
  idleAction: {type: string, enum: [pause, stop], description: What becomes of an idle session.}
  secrets:
    type: array
    maxItems: 32
    description: Secrets of the yard that its agents are given.
    items:
      type: object
      required: [name]
      x-kubernetes-validations:
        - {rule: 'has(self.env) || has(self.file)', message: must have an env or a file}
      properties:
        name: {type: string, pattern: '^[A-Za-z0-9_-]{1,64}$'}
        scope: {type: string, enum: [user, tenant]}
        env: {type: string, pattern: '^[A-Za-z_][A-Za-z0-9_]{0,127}$'}
        file:
          type: string
          minLength: 1
          maxLength: 255
          x-kubernetes-validations:
            - {rule: '!self.startsWith("/") && !self.split("/").exists(p, p == "" || p == "." || p == "..")', message: must be a path below the home}
        optional: {type: boolean}
        hosts:
          type: array
          maxItems: 16
          description: 'With env GIT_TOKEN: where the secret may be presented, as git.example.org or git.example.org:8443. No other host gets it.'
          items: {type: string, minLength: 1, maxLength: 255}
  mcpServers:
    type: array
    maxItems: 32
    description: 'Servers of the Model Context Protocol. In values "${secret:NAME}" stands for a secret of the yard.'
    items:
      type: object
      required: [name]
      x-kubernetes-validations:
        - {rule: '!has(self.type) || self.type == "stdio" ? has(self.command) && !has(self.url) && !has(self.headers) : has(self.url) && !has(self.command) && !has(self.args) && !has(self.env)', message: 'a stdio server has a command, args and env; one on HTTP a url and headers'}
      properties:
        name: {type: string, pattern: '^[A-Za-z0-9_-]{1,64}$'}
        type: {type: string, enum: [stdio, http, sse]}
        command: {type: string, minLength: 1, maxLength: 4096}
        args: {type: array, maxItems: 64, items: {type: string, maxLength: 4096}}
        env: {{- include "sessions.envSchema" "Variables of the server's environment." | nindent 10 }}
        url: {type: string, maxLength: 2048, pattern: '^https?://[^@\s]+$'}
        headers: {type: object, maxProperties: 32, additionalProperties: {type: string, maxLength: 32768}}
  credentials:
    type: object
    description: Files in which an agent refreshes its own sign-in, kept for its owner's next session.
    properties:
      files: {type: array, maxItems: 8, items: {type: string, minLength: 1, maxLength: 255}}
  isolation: {type: array, maxItems: 8, items: {type: string, enum: [user, mount, pid, cgroup, uid]}}
  roles: {type: array, maxItems: 8, items: {type: string, enum: [admin, member, viewer, service]}, description: Who may use the profile; none means everyone who may create sessions.}
  image: {type: string, maxLength: 512, pattern: '^([A-Za-z0-9][A-Za-z0-9._:/@-]*)?$', description: Container image that its agents live in; none means the yard's own.}
  pod: {{- include "sessions.podSchema" . | nindent 4 }}
  pool:
    type: object
    description: Pods that are ready before there are sessions for them.
    required: [size]
    x-kubernetes-validations:
      - {rule: 'self.size + (has(self.burst) ? self.burst : 0) >= 1 && self.size + (has(self.burst) ? self.burst : 0) <= 500', message: size and burst must be 1 to 500 together}
    properties:
      size: {type: integer, minimum: 0, maximum: 500}
      burst: {type: integer, minimum: 0, maximum: 500}
      timezone: {type: string, maxLength: 64}
      schedule:
        type: array
        maxItems: 32
        items:
          type: object
          required: [from, to]
          properties:
            days: {type: array, maxItems: 7, items: {type: string, enum: [mon, tue, wed, thu, fri, sat, sun]}}
            from: {type: string, pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$'}
            to: {type: string, pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$'}
{{- end }}

{{- define "sessions.podSchema" -}}
type: object
description: Shapes the pods. What makes a pod safe, and the labels by which the yard finds it, cannot be set.
properties:
  pullSecrets: {type: array, maxItems: 32, items: {type: string, minLength: 1, maxLength: 253, pattern: '^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'}}
  runtimeClass: {type: string, maxLength: 253, pattern: '^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$', description: Such as gvisor or kata.}
  nodeSelector: {type: object, maxProperties: 32, additionalProperties: {type: string, maxLength: 63}}
  tolerations:
    type: array
    maxItems: 32
    items:
      type: object
      x-kubernetes-validations:
        - {rule: 'has(self.key) && self.key != "" || has(self.operator) && self.operator == "Exists"', message: must have a key or the operator Exists}
        - {rule: '!(has(self.value) && self.value != "" && has(self.operator) && self.operator == "Exists")', message: Exists has no value}
      properties:
        key: {type: string, maxLength: 317}
        operator: {type: string, enum: [Exists, Equal]}
        value: {type: string, maxLength: 63}
        effect: {type: string, enum: [NoSchedule, PreferNoSchedule, NoExecute]}
  devices:
    type: object
    description: 'Extended resources such as nvidia.com/gpu: 1.'
    maxProperties: 32
    additionalProperties: {type: integer, minimum: 1, maximum: 1024}
  requests: {{- include "sessions.resourcesSchema" "What a node must have left." | nindent 4 }}
  volume:
    type: object
    description: Holds workspace and home, and outlives a pod.
    required: [bytes]
    properties:
      bytes: {type: integer, format: int64, minimum: 1048576}
      storageClass: {type: string, maxLength: 253, pattern: '^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$'}
      keep: {type: boolean, description: Leaves the volume when the session is deleted.}
  writableRoot: {type: boolean}
  config:
    type: object
    description: Files, by name, that the agent finds in /etc/agentyard. They are no secrets.
    maxProperties: 32
    additionalProperties: {type: string, maxLength: 16384}
    {{- include "sessions.plainKeys" . | nindent 4 }}
  collector: {type: boolean, description: 'Whether a collector beside the agent sends on the metrics that it shows on port 9464.'}
  egress:
    type: array
    maxItems: 32
    description: What the pods may reach beside the bus and the name service.
    items:
      type: object
      required: [cidr]
      x-kubernetes-validations:
        - {rule: '!has(self.except) || self.except.all(e, isCIDR(e) && cidr(self.cidr).containsCIDR(e) && e != self.cidr)', message: the exceptions must be networks within the cidr}
      properties:
        cidr:
          type: string
          maxLength: 49
          x-kubernetes-validations:
            - {rule: 'isCIDR(self) && cidr(self) == cidr(self).masked()', message: must be a network such as 192.0.2.0/24}
        except: {type: array, maxItems: 16, items: {type: string, maxLength: 49}}
        ports: {type: array, maxItems: 16, x-kubernetes-list-type: set, items: {type: integer, minimum: 1, maximum: 65535}}
  service:
    type: object
    description: 'Gives each session a name in the cluster, <session>.<namespace>.svc, and lets pods of other namespaces reach it.'
    required: [ports, namespaces]
    properties:
      ports:
        type: array
        minItems: 1
        maxItems: 16
        x-kubernetes-list-type: set
        items: {type: integer, minimum: 1, maximum: 65535}
        x-kubernetes-validations:
          - {rule: '!(9000 in self)', message: 9000 is the runner's own}
      namespaces: {type: array, minItems: 1, maxItems: 16, items: {type: string, maxLength: 63, pattern: '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'}}
  labels:
    type: object
    description: Put on the pods under the prefix user.agentyard.dev/.
    maxProperties: 32
    additionalProperties: {type: string, maxLength: 63, pattern: '^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$'}
    {{- include "sessions.plainKeys" . | nindent 4 }}
  annotations:
    type: object
    description: Likewise.
    maxProperties: 32
    additionalProperties: {type: string, maxLength: 32768}
    {{- include "sessions.plainKeys" . | nindent 4 }}
{{- end }}
