// Package rpc carries operations (api.Op) over the bus and over HTTP.
//
// A server answers operations in a queue group with the middleware chain recover → observe → authenticate and authorise →
// limit → timeout; a client asks with observe → breaker → timeout; an edge turns HTTP requests into client calls. Together with
// libs/bus it is the home of nats.go; it is the only home of go-kit and gobreaker.
package rpc

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Authenticator verifies the access token that travels with a call (token.Verifier).
type Authenticator interface {
	Verify(ctx context.Context, raw string) (api.Principal, error)
}

// ServerConfig says how a service answers.
type ServerConfig struct {
	Service     string
	Auth        Authenticator
	Logger      *slog.Logger
	Metrics     prometheus.Registerer // nil: none
	Concurrency int                   // operations at once; zero: 256. Above it callers get exhausted at once.
	Timeout     time.Duration         // of one operation; zero: 30 s (wait operations set their own with HandleLong)
	// Denied, if set, is told of each refusal, for the audit ledger. It must not block.
	Denied func(ctx context.Context, op api.OpInfo, p api.Principal, err error)
}

// Server answers operations. Register handlers with Handle before Run.
type Server struct{}

// NewServer returns a server without handlers.
func NewServer(c *bus.Conn, cfg ServerConfig) *Server { panic("todo") }

// Handle registers the handler of op. The handler finds the verified principal with api.PrincipalFrom and the raw token with token.Raw.
// For an operation with permission api.SessionScoped the principal is the session itself (ID and Name its id, Tenant
// its tenant), proven by the subject.
func Handle[Req, Resp any](s *Server, op api.Op[Req, Resp], h func(ctx context.Context, req Req) (Resp, error)) {
	panic("todo")
}

// HandleLong is Handle for an operation that may take up to timeout and waits rather than works: it is not counted in Concurrency (own bound: 4096).
func HandleLong[Req, Resp any](s *Server, op api.Op[Req, Resp], timeout time.Duration, h func(ctx context.Context, req Req) (Resp, error)) {
	panic("todo")
}

// Run answers until ctx ends, then stops taking requests and waits for those in flight.
func (s *Server) Run(ctx context.Context) error { panic("todo") }

// Client asks operations of other services.
type Client struct{}

// ClientConfig says how a client asks.
type ClientConfig struct {
	Name    string                // of the asking service, for metrics and traces
	Metrics prometheus.Registerer // nil: none
	Timeout time.Duration         // when ctx has no deadline; zero: 10 s
}

// NewClient returns a client on c.
func NewClient(c *bus.Conn, cfg ClientConfig) *Client { panic("todo") }

// Call asks op and waits for its answer. The raw token of ctx (token.Raw) travels with it. A missing service is
// unavailable at once (NATS no responders).
func Call[Req, Resp any](ctx context.Context, c *Client, op api.Op[Req, Resp], req Req) (Resp, error) {
	panic("todo")
}

// CallAsSession asks a SessionScoped op on the session's own subject (the runner).
func CallAsSession[Req, Resp any](ctx context.Context, c *Client, tenant, session string, op api.Op[Req, Resp], req Req) (Resp, error) {
	panic("todo")
}

// Edge answers operations over HTTP: it binds the request (path, query, header, body), checks its size, calls the operation over
// the bus and writes the answer or problem+json. The caller's token must be in the request's context (token.WithRaw), put there by the
// gateway's authentication.
type Edge struct{}

// EdgeConfig bounds requests.
type EdgeConfig struct {
	MaxBody int64 // bytes; zero: 1.5 MiB
	Timeout time.Duration
}

// NewEdge returns an edge that asks through c.
func NewEdge(c *Client, cfg EdgeConfig) *Edge { panic("todo") }

// Register adds the routes of ops (those with a Route) to mux.
func (e *Edge) Register(mux *http.ServeMux, ops ...api.AnyOp) { panic("todo") }

// WriteError writes err as RFC 9457 problem+json (api.Redact), with Retry-After when it has one, and 412 for a conflict that
// an If-Match caused.
func WriteError(w http.ResponseWriter, r *http.Request, err error) { panic("todo") }

// WriteJSON writes v with status, and its ETag when it is Revisioned (304 for a matching If-None-Match).
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) { panic("todo") }

// OpenAPI returns the OpenAPI 3.1 document of ops. extra paths (raw OpenAPI path items) describe what is not an operation.
func OpenAPI(title, version string, ops []api.AnyOp, extra map[string]any) ([]byte, error) {
	panic("todo")
}
