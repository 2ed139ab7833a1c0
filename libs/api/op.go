package api

import (
	"net/http"
	"reflect"
)

// Op is one operation: which service answers it, what it takes and returns, who may
// call it and where it stands in the HTTP API. On the bus it is a request to
// yard.v1.op.<service>.<verb>.
//
// Every field of Req has a json tag, which is its name on the bus and in the HTTP body.
// A field with the tag `in:"path"`, `in:"query"` or `in:"header:Name"` is taken from there
// by the HTTP edge, under its json name (or Name). Such fields are strings, integers,
// booleans, durations or string slices.
type Op[Req, Resp any] struct {
	Service    string // queue group and subject token: "sessions"
	Verb       string // subject token: "create"
	Permission Permission
	Route      string // "POST /api/v1/sessions"; empty: not in the HTTP API
	Status     int    // of success; zero: 200
	Summary    string // one line for OpenAPI and the CLI
	// Repeatable says that doing it again is as doing it once, and answered alike: when an instance is silent, another is asked. What reads (GET)
	// is so without saying it, and so is a request with an idempotency key of its own.
	Repeatable bool
	// Waits says that it answers when something has happened: silence says nothing of the instance, and nobody else is asked.
	Waits bool
}

// OpInfo is what an operation is apart from its types: the form in which tables
// (routes, permissions, OpenAPI) hold operations of all types.
type OpInfo struct {
	Service    string
	Verb       string
	Permission Permission
	Route      string
	Status     int
	Summary    string
	Repeatable bool
	Waits      bool
	Req        reflect.Type
	Resp       reflect.Type
}

// AnyOp is an Op of any types.
type AnyOp interface{ Info() OpInfo }

// Info implements AnyOp.
func (o Op[Req, Resp]) Info() OpInfo {
	status := o.Status
	if status == 0 {
		status = http.StatusOK
	}
	return OpInfo{
		Service: o.Service, Verb: o.Verb, Permission: o.Permission, Route: o.Route,
		Status: status, Summary: o.Summary, Repeatable: o.Repeatable, Waits: o.Waits,
		Req: reflect.TypeFor[Req](), Resp: reflect.TypeFor[Resp](),
	}
}

// Name returns "service.verb", the operation's name in logs, metrics and OpenAPI.
func (i OpInfo) Name() string { return i.Service + "." + i.Verb }

// None is the request or the response of an operation that has none.
type None struct{}

// Revisioned is a response whose revision is its HTTP ETag.
type Revisioned interface{ Revision() uint64 }

// Page is one page of a list. An empty NextCursor says that it is the last.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// List is embedded in the request of an operation that lists.
type List struct {
	Limit  int    `json:"limit,omitempty" in:"query"` // 1–500; zero: 50
	Cursor string `json:"cursor,omitempty" in:"query"`
}

// The bounds of List.Limit.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// Bound returns the effective limit, or an invalid error.
func (l List) Bound() (int, error) {
	switch {
	case l.Limit == 0:
		return DefaultLimit, nil
	case l.Limit < 0 || l.Limit > MaxLimit:
		return 0, Invalid("/limit", "must be between 1 and %d", MaxLimit)
	}
	return l.Limit, nil
}
