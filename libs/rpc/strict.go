package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"agentyard.dev/libs/api"
)

const (
	maxDepth  = 32 // of nested arrays and objects in a body
	maxFaults = 16 // reported of one request
	maxNamed  = 64 // bytes of an unknown name that an error repeats
)

// faults collects what is wrong with a request.
type faults []api.FieldError

func (f *faults) add(pointer, format string, args ...any) {
	if len(*f) < maxFaults {
		*f = append(*f, api.FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
}

// err returns the invalid error that reports all faults, or nil.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	lines := make([]string, len(f))
	for i, fault := range f {
		where := fault.Pointer
		if where == "" {
			where = "the body"
		}
		lines[i] = where + " " + fault.Detail
	}
	return &api.Error{Code: api.CodeInvalid, Detail: strings.Join(lines, "; "), Fields: f}
}

// checkJSON reports whether data is one JSON value in UTF-8, not too deep and without anything after it.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return invalid("", "is not UTF-8")
	}
	if depth(data) > maxDepth {
		return invalid("", fmt.Sprintf("is nested deeper than %d", maxDepth))
	}
	var raw json.RawMessage
	err := json.Unmarshal(data, &raw)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return invalid("", fmt.Sprintf("is not JSON: %s at byte %d", syntax, syntax.Offset))
	}
	return invalid("", "is not JSON")
}

// depth returns how deep the arrays and objects of data are nested, for valid JSON; for other data, some number.
func depth(data []byte) (deepest int) {
	now, inString, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped, inString = c == '\\', c != '"'
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// strict decodes raw, which checkJSON has checked, into v. Names must match exactly, once each.
func (f *faults) strict(raw json.RawMessage, v reflect.Value, pointer string) {
	t := v.Type()
	switch {
	case opaque(t) || t.Kind() == reflect.Interface:
		f.leaf(raw, v, pointer)
	case t.Kind() == reflect.Pointer:
		if isNull(raw) {
			v.SetZero()
			return
		}
		v.Set(reflect.New(t.Elem()))
		f.strict(raw, v.Elem(), pointer)
	case isNull(raw): // as encoding/json: leaves a value as it is
	case t.Kind() == reflect.Struct:
		fields := fieldsOf(t)
		f.object(raw, pointer, func(name string, raw json.RawMessage) {
			for i := range fields {
				if fields[i].name == name {
					f.strict(raw, v.FieldByIndex(fields[i].index), pointer+"/"+api.PointerToken(name))
					return
				}
			}
			f.unknown(pointer, name)
		})
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		v.Set(reflect.MakeMap(t))
		f.object(raw, pointer, func(name string, raw json.RawMessage) {
			item := reflect.New(t.Elem()).Elem()
			f.strict(raw, item, pointer+"/"+api.PointerToken(short(name)))
			v.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), item)
		})
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		f.array(raw, v, pointer)
	default:
		f.leaf(raw, v, pointer)
	}
}

func (f *faults) unknown(pointer, name string) {
	f.add(pointer+"/"+api.PointerToken(short(name)), "is not a known field")
}

// object calls each for every member of raw.
func (f *faults) object(raw json.RawMessage, pointer string, each func(name string, raw json.RawMessage)) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		f.add(pointer, "must be an object")
		return
	}
	seen := map[string]bool{}
	for dec.More() && len(*f) < maxFaults {
		name, err := dec.Token()
		var value json.RawMessage
		if err == nil {
			err = dec.Decode(&value)
		}
		key, ok := name.(string)
		if err != nil || !ok { // checkJSON has seen to it
			f.add(pointer, "is not JSON")
			return
		}
		if seen[key] {
			f.add(pointer+"/"+api.PointerToken(short(key)), "is given more than once")
			continue
		}
		seen[key] = true
		each(key, value)
	}
}

func (f *faults) array(raw json.RawMessage, v reflect.Value, pointer string) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		f.add(pointer, "must be an array")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		if len(*f) >= maxFaults {
			return
		}
		f.strict(item, v.Index(i), pointer+"/"+strconv.Itoa(i))
	}
}

// leaf decodes a value that has no fields of ours inside.
func (f *faults) leaf(raw json.RawMessage, v reflect.Value, pointer string) {
	err := json.Unmarshal(raw, v.Addr().Interface())
	switch {
	case err == nil:
	case opaque(v.Type()):
		f.add(pointer, "%s", opaqueFault(v.Type(), raw, err))
	default:
		f.add(pointer, "must be %s", kindName(v.Type()))
	}
}

// opaqueFault says what is wrong in the type's own words where those are ours.
func opaqueFault(t reflect.Type, raw json.RawMessage, err error) string {
	switch t {
	case durationType:
		if len(raw) > maxNamed {
			return `is not a duration such as "90s"`
		}
		return err.Error()
	case timeType:
		return `must be a time such as "2006-01-02T15:04:05Z" (RFC 3339)`
	}
	return "has the wrong form"
}

// short bounds what an error repeats of a client's own words.
func short(s string) string {
	if len(s) <= maxNamed {
		return s
	}
	return strings.ToValidUTF8(s[:maxNamed], "") + "…"
}
