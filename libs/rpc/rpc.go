// Package rpc carries operations (api.Op) over the bus and over HTTP.
//
// A server answers operations in a queue group with the middleware chain recover → observe → authenticate and authorise →
// limit → timeout; a client asks with observe → breaker → timeout → repeat; an edge turns HTTP requests into client calls. Together with
// libs/bus it is the home of nats.go; it is the only home of go-kit and gobreaker.
//
// On the bus an operation is a request to yard.v1.op.<service>.<verb> with the JSON of Req; the answer is the JSON of Resp,
// or the JSON of a redacted api.Error with the header Yard-Error. The caller's access token, its deadline, the trace and the
// request's id travel in headers (wire.go). Delivery is at most once, but for what may be asked twice (repeat.go): a caller that
// gets unavailable does not know whether the operation happened, and asks again where the operation is idempotent.
package rpc

import (
	"context"

	"agentyard.dev/libs/api"
)

// Authenticator verifies the access token that travels with a call (token.Verifier).
type Authenticator interface {
	Verify(ctx context.Context, raw string) (api.Principal, error)
}

type requestIDKey struct{}

// maxRequestID bounds a request id, in bytes; a longer one is not taken over.
const maxRequestID = 64

// WithRequestID returns a context that carries a request's id: into problem+json, and with calls to the services. An id that
// is empty, longer than 64 bytes or not of printable ASCII is not carried.
func WithRequestID(ctx context.Context, id string) context.Context {
	if id == "" || len(id) > maxRequestID || !printable(id) {
		return ctx
	}
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the request's id that ctx carries, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// printable reports whether s is of printable ASCII without spaces at all.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
