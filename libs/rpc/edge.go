package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

const (
	defaultMaxBody = 3 << 19 // 1.5 MiB: a message of 1 MiB with its attachments in base64
	// An operation may take the server's 30 s, and the bus some more.
	defaultEdgeTimeout = 35 * time.Second
	// A request with ?wait= may take 120 s (API.md), and the bus some more.
	defaultWaitTimeout = 130 * time.Second
)

// Edge answers operations over HTTP: it binds the request (path, query, header, body), checks its size, calls the operation over
// the bus and writes the answer or problem+json. The caller's token must be in the request's context (token.WithRaw), put there by the
// gateway's authentication; for Idempotency so must the principal (api.WithPrincipal).
//
// It is strict, because a typing mistake that is passed over becomes a surprise later: an unknown or repeated query parameter, an unknown or
// repeated field of the body and trailing text are invalid, with a pointer to each.
type Edge struct {
	cfg EdgeConfig
	ask func(context.Context, *ask) (answer, error)
}

// EdgeConfig bounds requests.
type EdgeConfig struct {
	MaxBody int64         // bytes; zero: 1.5 MiB
	Timeout time.Duration // of an operation; zero: 35 s
	// WaitTimeout is Timeout for a request with the query parameter "wait"; zero: 130 s.
	WaitTimeout time.Duration
	// Idempotency, if set, answers repeated POSTs of operations that have no Idempotency-Key field of their own.
	Idempotency Idempotency
	// Fill, if set, sets the fields with the tag in:"edge" of a bound request, a pointer to the operation's request type.
	Fill func(r *http.Request, req any)
}

// Idempotency keeps the answers of requests under their Idempotency-Key, for 24 h.
type Idempotency interface {
	// Do returns the answer that is kept under key, with Replayed set, or calls do and keeps its answer. An error of do is
	// returned and not kept. While another caller is inside do with the same key, and for a key that is kept with another Request, it
	// returns conflict.
	Do(ctx context.Context, key IdempotencyKey, do func(context.Context) (Answer, error)) (Answer, error)
}

// IdempotencyKey names one request of one principal.
type IdempotencyKey struct {
	Tenant  string
	ID      string // hash of the principal, the operation and the header's value, in lower-case hex: a subject token
	Request string // hash of path, query and body: a different request must not be answered with this one's answer
}

// Answer is a successful answer of an operation as Idempotency keeps it.
type Answer struct {
	Revision uint64          `json:"revision,omitempty"` // the ETag
	Body     json.RawMessage `json:"body"`
	Replayed bool            `json:"-"` // kept from an earlier request
}

// NewEdge returns an edge that asks through c.
func NewEdge(c *Client, cfg EdgeConfig) *Edge { return newEdge(c.ask, cfg) }

func newEdge(ask func(context.Context, *ask) (answer, error), cfg EdgeConfig) *Edge {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultEdgeTimeout
	}
	if cfg.WaitTimeout <= 0 {
		cfg.WaitTimeout = defaultWaitTimeout
	}
	return &Edge{cfg: cfg, ask: ask}
}

// Register adds the routes of ops (those with a Route) to mux. It panics for a route or a request type that cannot be bound. An operation that
// creates (201) gets the header Location when another one of ops has the route of what it creates.
func (e *Edge) Register(mux *http.ServeMux, ops ...api.AnyOp) {
	for _, op := range ops {
		info := op.Info()
		if info.Route == "" {
			continue
		}
		rt := &route{edge: e, info: info, plan: newPlan(info)}
		if info.Status == http.StatusCreated {
			rt.item = itemOf(info, ops)
		}
		mux.Handle(info.Route, rt)
	}
}

// itemOf returns the field that names an item of the collection at info's route: the last of the route of another one of ops. "" when there is none.
func itemOf(info api.OpInfo, ops []api.AnyOp) string {
	_, collection, _ := strings.Cut(info.Route, " ")
	for _, op := range ops {
		_, path, _ := strings.Cut(op.Info().Route, " ")
		if last, ok := strings.CutPrefix(path, collection+"/{"); ok && strings.HasSuffix(last, "}") && !strings.Contains(last, "/") {
			return strings.TrimSuffix(last, "}")
		}
	}
	return ""
}

// route is one operation's place in the HTTP API.
type route struct {
	edge *Edge
	info api.OpInfo
	plan *plan
	item string // the field of the answer that ends Location; "": no Location
}

func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, err := rt.answer(w, r)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	if rt.item != "" {
		if location := rt.location(r, out.Body); location != "" {
			w.Header().Set("Location", location)
		}
	}
	if out.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	writeBody(w, r, rt.info.Status, out.Body, out.Revision)
}

func (rt *route) answer(w http.ResponseWriter, r *http.Request) (Answer, error) {
	body, err := rt.plan.readBody(w, r, rt.edge.cfg.MaxBody)
	if err != nil {
		return Answer{}, err
	}
	req, err := rt.plan.bind(r, body)
	if err != nil {
		return Answer{}, err
	}
	if rt.edge.cfg.Fill != nil {
		rt.edge.cfg.Fill(r, req.Interface())
	}
	rt.plan.giveKey(req)
	data, err := json.Marshal(req.Interface())
	if err != nil {
		return Answer{}, api.Errorf(api.CodeInternal, "encode the request of %s: %w", rt.info.Name(), err)
	}
	timeout := rt.edge.cfg.Timeout
	if r.URL.Query().Get("wait") != "" {
		timeout = rt.edge.cfg.WaitTimeout
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	do := func(ctx context.Context) (Answer, error) {
		a := &ask{
			info: rt.info, subject: opSubject(rt.info.Service, rt.info.Verb), data: data,
			repeatable: repeatable(rt.info, req.Elem()),
		}
		out, err := rt.edge.ask(ctx, a)
		return Answer{Revision: out.rev, Body: out.data}, err
	}
	if key, ok := rt.idempotencyKey(r, body); ok {
		return rt.edge.cfg.Idempotency.Do(ctx, key, do)
	}
	return do(ctx)
}

// idempotencyKey returns under what the answer is kept, if it is: the operation does not see to it, and it is known who asks.
func (rt *route) idempotencyKey(r *http.Request, body []byte) (IdempotencyKey, bool) {
	value := r.Header.Get(headerIdempotency) // bind has checked it
	p, ok := api.PrincipalFrom(r.Context())
	if !ok || value == "" || r.Method != http.MethodPost || rt.edge.cfg.Idempotency == nil || rt.plan.idempotent || rt.info.Permission == api.Public {
		return IdempotencyKey{}, false
	}
	return IdempotencyKey{
		Tenant:  p.Tenant,
		ID:      hash(p.Tenant, p.ID, rt.info.Name(), value),
		Request: hash(r.URL.EscapedPath(), r.URL.RawQuery, string(body)),
	}, true
}

// hash returns the SHA-256 of parts, of which none but the last may hold a NUL.
func hash(parts ...string) string {
	h := sha256.New()
	for i, part := range parts {
		if i > 0 {
			_, _ = h.Write([]byte{0}) // a hash's Write never fails
		}
		_, _ = io.WriteString(h, part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// location returns the path of what the operation created.
func (rt *route) location(r *http.Request, body []byte) string {
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(body, &fields) != nil || json.Unmarshal(fields[rt.item], &name) != nil || name == "" {
		return ""
	}
	return r.URL.EscapedPath() + "/" + url.PathEscape(name)
}
