package rpc

import (
	"net/http"
	"reflect"
)

// ReadBody reads the JSON object that is r's body, at most limit bytes, into v, a pointer to a struct: for what is answered over HTTP and is no
// operation, with the strictness and the errors of Edge. No body is an object without fields.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	body, err := (&plan{method: http.MethodPost}).readBody(w, r, limit)
	if err != nil || body == nil {
		return err
	}
	return DecodeStrict(body, v)
}

// DecodeStrict reads data, one JSON object in UTF-8, into v, a pointer to a struct. A field that is unknown, repeated or written in another
// case is invalid, and the error points at it; what is right beside it is in v all the same.
func DecodeStrict(data []byte, v any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	if isNull(data) {
		return invalid("", "must be an object")
	}
	var f faults
	f.strict(data, reflect.ValueOf(v).Elem(), "")
	return f.err()
}
