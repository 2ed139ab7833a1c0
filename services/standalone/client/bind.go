package client

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// binding is a request as HTTP carries it.
type binding struct {
	method string
	target string // path and query
	header http.Header
	body   []byte // nil: none
}

// bind places the fields of req where their `in` tags say (api.Op) and the rest in a JSON body.
func bind(route string, req any) (binding, error) {
	method, path, ok := strings.Cut(route, " ")
	if !ok {
		return binding{}, errors.New("the operation is not in the HTTP API")
	}
	b := binding{method: method, header: http.Header{}}
	query := url.Values{}
	elsewhere := map[string]bool{}
	var whole any // the field that is the body
	v := reflect.ValueOf(req)
	for _, f := range reflect.VisibleFields(v.Type()) {
		in := f.Tag.Get("in")
		if in == "" || !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		elsewhere[name] = true
		fv := v.FieldByIndex(f.Index)
		values, err := texts(fv)
		if err != nil && in != "body" {
			return binding{}, fmt.Errorf("%s: %w", name, err)
		}
		switch kind, arg, _ := strings.Cut(in, ":"); kind {
		case "path":
			if len(values) != 1 || values[0] == "." || values[0] == ".." {
				return binding{}, fmt.Errorf("%s: want one name", name)
			}
			path = strings.Replace(path, "{"+name+"}", url.PathEscape(values[0]), 1)
		case "query":
			query[name] = values
		case "header":
			if len(values) > 0 && arg == "If-Match" {
				values[0] = strconv.Quote(values[0])
			}
			if len(values) > 0 {
				b.header.Set(arg, values[0])
			}
		case "body":
			whole = fv.Interface()
		}
	}
	b.target = path
	if q := query.Encode(); q != "" {
		b.target += "?" + q
	}
	if method == http.MethodGet || method == http.MethodDelete {
		return b, nil
	}
	var err error
	b.body, err = body(req, whole, elsewhere)
	return b, err
}

// body returns the JSON of whole, or of req without the fields that stand elsewhere.
func body(req, whole any, elsewhere map[string]bool) ([]byte, error) {
	if whole != nil {
		return json.Marshal(whole)
	}
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	for name := range elsewhere {
		delete(fields, name)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return json.Marshal(fields)
}

// texts returns a field's value as text; none for the zero value.
func texts(v reflect.Value) ([]string, error) {
	if v.IsZero() {
		return nil, nil
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		t, err := m.MarshalText()
		return []string{string(t)}, err
	}
	switch v.Kind() {
	case reflect.String:
		return []string{v.String()}, nil
	case reflect.Bool:
		return []string{strconv.FormatBool(v.Bool())}, nil
	case reflect.Int, reflect.Int64, reflect.Int32:
		return []string{strconv.FormatInt(v.Int(), 10)}, nil
	case reflect.Uint, reflect.Uint64, reflect.Uint32:
		return []string{strconv.FormatUint(v.Uint(), 10)}, nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String {
			var out []string
			for i := range v.Len() {
				out = append(out, v.Index(i).String())
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("a %s cannot stand outside the body", v.Type())
}
