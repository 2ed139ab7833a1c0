package rpc

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	v1 "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
)

// TestEncoding: requests, answers and the ledgers' records are the same bytes, and are read as the same values, whether the standard library of this release
// of Go does it or what replaces it in the next (ADR 46). So processes that were built with either understand each other.
func TestEncoding(t *testing.T) {
	types := []reflect.Type{
		reflect.TypeFor[api.Change[api.SessionRecord]](), reflect.TypeFor[api.Change[api.TaskRecord]](), reflect.TypeFor[api.Event](),
		reflect.TypeFor[api.Change[api.TrafficPlanRecord]](), reflect.TypeFor[api.Error](),
	}
	for _, op := range api.Operations() {
		types = append(types, op.Info().Req, op.Info().Resp)
	}
	for _, typ := range types {
		for name, level := range map[string]int{"with nothing": 0, "with everything": 4} {
			v := reflect.New(typ)
			fillIn(v.Elem(), level)
			want, err := json.Marshal(v.Interface())
			if err != nil {
				t.Errorf("%v: %v", typ, err)
				continue
			}
			got, err := v1.Marshal(v.Interface())
			if err != nil || string(got) != string(want) {
				t.Errorf("%v %s:\n%s\n%s %v", typ, name, want, got, err)
			}
			a, b := reflect.New(typ), reflect.New(typ)
			errA, errB := json.Unmarshal(want, a.Interface()), v1.Unmarshal(want, b.Interface())
			if (errA == nil) != (errB == nil) || !reflect.DeepEqual(a.Interface(), b.Interface()) {
				t.Errorf("%v %s: read as\n%+v %v\n%+v %v", typ, name, a.Elem(), errA, b.Elem(), errB)
			}
		}
	}
}

// fillIn gives v and what it consists of, so many references deep, values that have to be escaped, rounded or left out with care.
func fillIn(v reflect.Value, level int) {
	if level == 0 || !v.CanSet() {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = time.Date(2026, 11, 22, 19, 30, 0, 120_000_000, time.UTC)
		return
	case *json.RawMessage:
		*p = json.RawMessage(`{"a":[1,2.50,"<b>"]}`)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("<a href=\"x\">\u2028 é \x01 \U0001F600 &")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1e21)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillIn(v.Elem(), level-1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fillIn(v.Index(0), level-1)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillIn(key, level)
		fillIn(value, level-1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			fillIn(v.Field(i), level)
		}
	}
}
