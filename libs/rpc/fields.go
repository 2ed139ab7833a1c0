package rpc

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"

	"agentyard.dev/libs/api"
)

// field is one field of a struct as JSON and the HTTP edge see it.
type field struct {
	name     string // in JSON
	optional bool   // omitempty or omitzero
	in       string // "", "path", "query", "header", "body" or "edge"
	header   string // of in "header"
	doc      string
	index    []int
	typ      reflect.Type
}

// pointer is the field's place in the request (RFC 6901).
func (f *field) pointer() string { return "/" + api.PointerToken(f.name) }

var fieldCache sync.Map // reflect.Type → []field

// fieldsOf returns the fields of struct type t in their order, those of embedded structs in their place; the outer one of two with the
// same name wins, as in encoding/json.
func fieldsOf(t reflect.Type) []field {
	if fs, ok := fieldCache.Load(t); ok {
		return fs.([]field)
	}
	fs := collectFields(t, nil)
	slices.SortStableFunc(fs, func(a, b field) int { return len(a.index) - len(b.index) })
	seen := map[string]bool{}
	fs = slices.DeleteFunc(fs, func(f field) bool {
		dup := seen[f.name]
		seen[f.name] = true
		return dup
	})
	slices.SortStableFunc(fs, func(a, b field) int { return slices.Compare(a.index, b.index) })
	got, _ := fieldCache.LoadOrStore(t, fs)
	return got.([]field)
}

func collectFields(t reflect.Type, index []int) []field {
	var fs []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		at := append(slices.Clone(index), i)
		switch {
		case tag == "-":
			continue
		case sf.Anonymous && name == "" && sf.Type.Kind() == reflect.Struct:
			fs = append(fs, collectFields(sf.Type, at)...)
			continue
		case !sf.IsExported():
			continue
		case !tagged || name == "":
			name = sf.Name
		}
		in, header, _ := strings.Cut(sf.Tag.Get("in"), ":")
		fs = append(fs, field{
			name: name, optional: strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero"),
			in: in, header: header, doc: sf.Tag.Get("doc"), index: at, typ: sf.Type,
		})
	}
	return fs
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// opaque reports whether values of t read their JSON themselves.
func opaque(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}
