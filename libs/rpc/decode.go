package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
)

// decodeLoose reads a request from the bus. Fields that this version does not know are passed over: a newer caller may send them. An error is
// invalid and points at the field where the decoder knows it.
func decodeLoose(data []byte, v any) error {
	if len(data) == 0 {
		return nil
	}
	err := json.Unmarshal(data, v)
	var typ *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &typ):
		pointer := ""
		if typ.Field != "" {
			pointer = "/" + strings.ReplaceAll(typ.Field, ".", "/")
		}
		return invalid(pointer, "must be "+kindName(typ.Type)+", not "+typ.Value)
	}
	return invalid("", "is not the expected JSON: "+err.Error())
}

// invalid returns an invalid error at pointer; "" is the whole body.
func invalid(pointer, detail string) *api.Error {
	where := pointer
	if where == "" {
		where = "the body"
	}
	return &api.Error{
		Code: api.CodeInvalid, Detail: where + " " + detail,
		Fields: []api.FieldError{{Pointer: pointer, Detail: detail}},
	}
}

// kindName says for a person what a value of type t is in JSON.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a base64 string"
		}
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return fmt.Sprint("a ", t.Kind())
}

var null = []byte("null")

func isNull(raw []byte) bool { return bytes.Equal(raw, null) }
