package declare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// decode reads the spec of an object as the yard's API has it. Fields of objects are in camel case (idleTimeout), those of the API are not
// (idle_timeout); keys of maps are what they are. A field that the API does not have is an error.
func decode[T any](spec any) (T, error) {
	var out T
	text, err := json.Marshal(rename(spec, reflect.TypeFor[T]()))
	if err != nil {
		return out, fmt.Errorf("encode: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return out, dec.Decode(&out)
}

// rename returns v, a value of JSON, with the names of the fields that a t has.
func rename(v any, t reflect.Type) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, value := range v {
			switch t.Kind() {
			case reflect.Map:
				out[k] = rename(value, t.Elem())
			case reflect.Struct:
				name, of := k, reflect.TypeFor[any]()
				for _, f := range reflect.VisibleFields(t) {
					if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "" && camel(tag) == k {
						name, of = tag, f.Type
					}
				}
				out[name] = rename(value, of)
			default:
				out[k] = value
			}
		}
		return out
	case []any:
		if t.Kind() != reflect.Slice {
			return v
		}
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = rename(value, t.Elem())
		}
		return out
	}
	return v
}

// camel returns a name of the API as objects have it.
func camel(name string) string {
	words := strings.Split(name, "_")
	for i, w := range words[1:] {
		if w != "" {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, "")
}
