package rpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"agentyard.dev/libs/api"
)

// object is a JSON object that keeps the order in which its members were set.
type object []member

type member struct {
	key   string
	value any
}

func (o object) get(key string) any {
	for _, m := range o {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

func (o *object) set(key string, value any) {
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].value = value
			return
		}
	}
	*o = append(*o, member{key, value})
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.key, err)
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// enums are the string types with a closed set of values, in the order in which the document lists them.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[api.State](): words(api.StatePending, api.StateStarting, api.StateRunning, api.StatePausing, api.StatePaused,
		api.StateResuming, api.StateStopping, api.StateTerminated, api.StateFailed),
	reflect.TypeFor[api.Activity]():      words(api.ActivityIdle, api.ActivityWorking, api.ActivityApproval),
	reflect.TypeFor[api.TaskState]():     words(api.TaskStates()...),
	reflect.TypeFor[api.ParentFailure](): words(api.ParentFail, api.ParentCancel, api.ParentRun),
	reflect.TypeFor[api.Overlap]():       words(api.OverlapSkip, api.OverlapQueue, api.OverlapCancel),
	reflect.TypeFor[api.DeliveryState](): words(api.DeliveryPending, api.DeliveryDelivered, api.DeliveryFailed),
	reflect.TypeFor[api.Role]():          words(api.RoleAdmin, api.RoleMember, api.RoleViewer, api.RoleService),
	reflect.TypeFor[api.Code](): words(api.CodeInvalid, api.CodeUnauthenticated, api.CodeDenied, api.CodeNotFound, api.CodeConflict,
		api.CodeExhausted, api.CodeUnavailable, api.CodeInternal),
}

// openEnums are those to which a later version may add: a client must pass over what it does not know, so they are examples only.
var openEnums = map[reflect.Type][]string{
	reflect.TypeFor[api.EventType](): words(api.EventUserMessage, api.EventAgentMessage, api.EventAgentMessageChunk, api.EventAgentThoughtChunk,
		api.EventToolCall, api.EventApprovalRequest, api.EventApprovalAnswer, api.EventInterrupt, api.EventPlan, api.EventStatus, api.EventUsage,
		api.EventTerminal, api.EventError, api.EventGap),
	reflect.TypeFor[api.Permission](): words(api.SessionCreate, api.SessionRead, api.SessionRead.Any()),
	reflect.TypeFor[api.WaitReason](): words(api.WaitNotBefore, api.WaitQueueLimit, api.WaitTurn),
}

func words[T ~string](values ...T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// schemas makes the JSON Schemas of Go types; structs and enums become components, referred to by name.
type schemas struct {
	components object // name → schema
	types      map[string]reflect.Type
	named      map[reflect.Type]string // names that are not the type's own
	err        error
}

func newSchemas() *schemas {
	return &schemas{types: map[string]reflect.Type{}, named: map[reflect.Type]string{}}
}

func (s *schemas) name(t reflect.Type, name string) { s.named[t] = name }

// all returns the components, sorted by name.
func (s *schemas) all() (object, error) {
	slices.SortFunc(s.components, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return s.components, s.err
}

// of returns the schema of t as it stands in answers.
func (s *schemas) of(t reflect.Type) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return s.of(t.Elem())
	case t == timeType:
		return object{{"type", "string"}, {"format", "date-time"}}
	case t == durationType:
		return s.component(t, func() object {
			return object{
				{"type", "string"}, {"format", "go-duration"}, {"examples", []string{"90s", "2h30m"}},
				{"description", "A Go duration: decimal numbers with the units ms, s, m and h."},
			}
		})
	case t == reflect.TypeFor[json.RawMessage](), t.Kind() == reflect.Interface:
		return object{{"description", "Any JSON value."}}
	case enums[t] != nil:
		return s.component(t, func() object { return object{{"type", "string"}, {"enum", enums[t]}} })
	case openEnums[t] != nil:
		return s.component(t, func() object { return object{{"type", "string"}, {"examples", openEnums[t]}} })
	}
	switch t.Kind() {
	case reflect.String:
		return object{{"type", "string"}}
	case reflect.Bool:
		return object{{"type", "boolean"}}
	case reflect.Int, reflect.Int32:
		return object{{"type", "integer"}}
	case reflect.Int64:
		return object{{"type", "integer"}, {"format", "int64"}}
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		return object{{"type", "integer"}, {"format", "int64"}, {"minimum", 0}}
	case reflect.Float32, reflect.Float64:
		return object{{"type", "number"}, {"format", "double"}}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{{"type", "string"}, {"contentEncoding", "base64"}}
		}
		return object{{"type", "array"}, {"items", s.of(t.Elem())}}
	case reflect.Map:
		return object{{"type", "object"}, {"additionalProperties", s.of(t.Elem())}}
	case reflect.Struct:
		return s.component(t, func() object { return s.structure(t, fieldsOf(t), true) })
	}
	s.fail(fmt.Errorf("%s has no JSON form", t))
	return object{}
}

// input returns the schema of a request body of type t, of which fields (nil: all) are in the body. A request type says by
// its tags what it requires. A noun that is written as it is read (a profile) has a schema of its own, which requires nothing.
func (s *schemas) input(t reflect.Type, fields []field) object {
	if fields == nil {
		fields = fieldsOf(t)
	}
	name := s.nameOf(t)
	isRequest := strings.HasSuffix(name, "Request")
	if !isRequest {
		name += "Input"
	}
	return s.define(name, t, func() object {
		schema := s.structure(t, fields, isRequest)
		schema.set("additionalProperties", false)
		return schema
	})
}

func (s *schemas) structure(t reflect.Type, fields []field, requires bool) object {
	properties, required := object{}, []string{}
	for _, f := range fields {
		schema := s.of(f.typ)
		if f.name == "rev" && revisioned(t) {
			schema.set("readOnly", true)
		}
		if f.doc != "" {
			schema.set("description", f.doc)
		}
		properties.set(f.name, schema)
		if requires && !f.optional {
			required = append(required, f.name)
		}
	}
	schema := object{{"type", "object"}}
	if len(required) > 0 {
		schema.set("required", required)
	}
	if len(properties) > 0 {
		schema.set("properties", properties)
	}
	return schema
}

func (s *schemas) component(t reflect.Type, schema func() object) object {
	return s.define(s.nameOf(t), t, schema)
}

// define adds the component name, unless it is there, and refers to it.
func (s *schemas) define(name string, t reflect.Type, schema func() object) object {
	switch have, ok := s.types[name]; {
	case !ok:
		s.types[name] = t
		s.components.set(name, nil) // a type may hold itself
		s.components.set(name, schema())
	case have != t:
		s.fail(fmt.Errorf("%s and %s are both named %s", have, t, name))
	}
	return object{{"$ref", "#/components/schemas/" + name}}
}

func (s *schemas) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// nameOf returns the component's name: Page[Change[Session]] is SessionChangePage.
func (s *schemas) nameOf(t reflect.Type) string {
	if name, ok := s.named[t]; ok {
		return name
	}
	base, args, generic := strings.Cut(t.Name(), "[")
	name := strings.ToUpper(base[:min(1, len(base))]) + base[min(1, len(base)):]
	if !generic {
		if name == "" {
			s.fail(fmt.Errorf("%s has no name", t))
		}
		return name
	}
	var prefix string
	for _, arg := range strings.FieldsFunc(args, func(r rune) bool { return r == '[' || r == ']' || r == ',' }) {
		arg = arg[strings.LastIndexAny(arg, "./")+1:]
		prefix = arg + prefix // innermost first
	}
	return prefix + name
}
