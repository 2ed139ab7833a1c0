package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// plainRecord is SessionRecord without its methods.
type plainRecord SessionRecord

// recordFields are the JSON names of a SessionRecord's fields, in quotes.
var recordFields = func() map[string]bool {
	names := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[SessionRecord]()) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" && len(f.Index) <= 2 {
			names[`"`+name+`"`] = true
		}
	}
	return names
}()

// UnmarshalJSON implements json.Unmarshaler: what has no field goes to Rest.
func (r *SessionRecord) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, (*plainRecord)(r)); err != nil {
		return err
	}
	r.Rest = nil
	for name, value := range members(data) {
		if recordFields[string(name)] {
			continue
		}
		var key string
		if err := json.Unmarshal(name, &key); err != nil {
			return fmt.Errorf("session record: %w", err)
		}
		if r.Rest == nil {
			r.Rest = map[string]json.RawMessage{}
		}
		r.Rest[key] = bytes.Clone(value)
	}
	return nil
}

// members yields the members of a valid JSON object: each name as it stands, quotes included, and its value. It is what a second
// decoder would do, at a tenth of the cost: views hold tens of thousands of records.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		depth, quoted, start := 0, false, 0
		var name []byte
		for i := 0; i < len(object); i++ {
			c := object[i]
			switch {
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case quoted:
			case depth == 1 && c == ':' && name == nil:
				name, start = bytes.TrimSpace(object[start:i]), i+1
			case depth == 1 && (c == ',' || c == '}'):
				if name != nil && !yield(name, bytes.TrimSpace(object[start:i])) {
					return
				}
				name, start = nil, i+1
				if c == '}' {
					return
				}
			case c == '{' || c == '[':
				if depth++; depth == 1 {
					start = i + 1
				}
			case c == '}' || c == ']':
				depth--
			}
		}
	}
}

// MarshalJSON implements json.Marshaler.
func (r SessionRecord) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(plainRecord(r))
	if err != nil || len(r.Rest) == 0 {
		return data, err
	}
	data = data[:len(data)-1] // the closing brace; a record is never empty
	for _, name := range slices.Sorted(maps.Keys(r.Rest)) {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		if recordFields[string(key)] {
			continue
		}
		data = append(append(append(append(data, ','), key...), ':'), r.Rest[name]...)
	}
	return append(data, '}'), nil
}
