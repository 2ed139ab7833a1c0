package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"agentyard.dev/libs/api"
)

// decodeStrict reads exactly one JSON object without unknown fields.
func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && typ.Field != "" {
			return api.Invalid("/"+typ.Field, "must be a JSON %s", typ.Type.Kind())
		}
		return &api.Error{Code: api.CodeInvalid, Detail: "this is not the JSON object that is expected here: " + jsonError(err), Cause: err}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return api.Errorf(api.CodeInvalid, "there is something after the JSON object")
	}
	return nil
}

// jsonError says what is wrong without repeating much of the input.
func jsonError(err error) string {
	msg := err.Error()
	if len(msg) > 120 {
		msg = msg[:120] + "…"
	}
	return msg
}
