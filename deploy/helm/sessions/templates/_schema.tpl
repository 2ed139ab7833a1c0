{{/* Parts of the custom resources' schemas. libs/api has what they mean. */}}
{{- define "sessions.durationSchema" -}}
type: string
description: {{ . }}
maxLength: 40
pattern: '^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$'
x-kubernetes-validations:
  - {rule: 'duration(self) >= duration("1s") && duration(self) <= duration("8784h")', message: must be between 1s and 8784h}
{{- end }}

{{- define "sessions.agentSchema" -}}
type: object
description: {{ . }}
properties:
  kind: {type: string, maxLength: 40, description: 'Such as demo, claude or codex; acp and custom run the command.'}
  version: {type: string, maxLength: 200}
  command:
    type: array
    maxItems: 64
    items: {type: string, maxLength: 4096}
    description: Replaces the kind's own command.
    x-kubernetes-validations:
      - {rule: 'size(self) == 0 || size(self[0]) > 0', message: must begin with a program}
  args: {type: array, maxItems: 64, items: {type: string, maxLength: 4096}, description: Appended to the command.}
{{- end }}

{{- define "sessions.statusSchema" -}}
observedGeneration: {type: integer, format: int64, description: Generation of the object that this status is about.}
reason: {type: string, description: 'Why, for a person.'}
conditions:
  type: array
  x-kubernetes-list-type: map
  x-kubernetes-list-map-keys: [type]
  items:
    type: object
    required: [type, status, reason, message, lastTransitionTime]
    properties:
      type: {type: string, maxLength: 316}
      status: {type: string, enum: ["True", "False", Unknown]}
      observedGeneration: {type: integer, format: int64, minimum: 0}
      lastTransitionTime: {type: string, format: date-time}
      reason: {type: string, minLength: 1, maxLength: 1024}
      message: {type: string, maxLength: 32768}
{{- end }}

{{- define "sessions.resourcesSchema" -}}
type: object
description: {{ . }}
properties:
  cpus: {type: number, minimum: 0, maximum: 1024}
  memoryBytes:
    type: integer
    format: int64
    minimum: 0
    x-kubernetes-validations:
      - {rule: 'self == 0 || self >= 16777216', message: must be 0 or at least 16 MiB}
  processes:
    type: integer
    minimum: 0
    x-kubernetes-validations:
      - {rule: 'self == 0 || self >= 16', message: must be 0 or at least 16}
{{- end }}

{{- define "sessions.envSchema" -}}
type: object
description: {{ . }}
maxProperties: 128
additionalProperties: {type: string, maxLength: 32768}
x-kubernetes-validations:
  - {rule: 'self.all(k, k.matches("^[A-Za-z_][A-Za-z0-9_]{0,127}$"))', message: 'a variable has a name of letters, digits and "_"'}
  - {rule: '!self.exists(k, k.upperAscii().matches("^(LD_|DYLD_|AGENTYARD_|AGENTAPI_)"))', message: 'variables that begin with LD_, DYLD_, AGENTYARD_ or AGENTAPI_ are reserved'}
{{- end }}

{{/* A map whose keys are plain names, without a prefix. */}}
{{- define "sessions.plainKeys" -}}
x-kubernetes-validations:
  - {rule: 'self.all(k, k.matches("^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"))', message: 'a key is 1 to 63 of letters, digits, "-", "_" and "."'}
{{- end }}
