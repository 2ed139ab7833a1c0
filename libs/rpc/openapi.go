package rpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
)

// sessionCookie is the cookie that the gateway gives to browsers (over https; its prefix is not to be had over plain http).
const sessionCookie = "__Host-agentyard"

// OpenAPI returns the OpenAPI 3.1 document of ops. extra paths (raw OpenAPI path items) describe what is not an operation; they may refer to
// the schemas of the document, Event and Problem among them, and to its responses. The same input gives the same bytes.
//
// Descriptions of fields come from their tag doc. It fails for two operations of one name or one route, and for two types of one name.
func OpenAPI(title, version string, ops []api.AnyOp, extra map[string]any) ([]byte, error) {
	d := &document{schemas: newSchemas(), names: map[string]bool{}}
	for _, op := range ops {
		info := op.Info()
		if info.Route == "" {
			continue
		}
		if err := d.operation(info, ops); err != nil {
			return nil, fmt.Errorf("openapi: %s: %w", info.Name(), err)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(extra)) {
		if err := d.extra(path, extra[path]); err != nil {
			return nil, fmt.Errorf("openapi: %w", err)
		}
	}
	d.schemas.of(reflect.TypeFor[api.Event]())
	components, err := d.components()
	if err != nil {
		return nil, fmt.Errorf("openapi: %w", err)
	}
	var tags []any
	for _, name := range d.tags {
		tags = append(tags, object{{"name", name}})
	}
	data, err := json.Marshal(object{
		{"openapi", "3.1.0"},
		{"info", object{{"title", title}, {"version", version}}},
		{"servers", []any{object{{"url", "/"}}}},
		{"security", []any{object{{"bearer", []any{}}}, object{{"cookie", []any{}}}}},
		{"tags", tags},
		{"paths", d.paths},
		{"components", components},
	})
	if err != nil {
		return nil, fmt.Errorf("openapi: encode: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return nil, fmt.Errorf("openapi: indent: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// document is an OpenAPI document on its way.
type document struct {
	schemas *schemas
	paths   object
	tags    []string
	names   map[string]bool // of operations
}

func (d *document) operation(info api.OpInfo, ops []api.AnyOp) error {
	method, path, _ := strings.Cut(info.Route, " ")
	path = strings.ReplaceAll(path, "...}", "}")
	if d.names[info.Name()] {
		return fmt.Errorf("second operation of this name")
	}
	d.names[info.Name()] = true
	if !slices.Contains(d.tags, info.Service) {
		d.tags = append(d.tags, info.Service)
	}
	p := newPlan(info)
	op := object{{"operationId", info.Name()}, {"tags", []string{info.Service}}, {"summary", info.Summary}}
	switch info.Permission {
	case api.Public:
		op.set("security", []any{})
	case api.Authenticated:
	default:
		op.set("x-permission", info.Permission)
	}
	if params := d.parameters(info, p); len(params) > 0 {
		op.set("parameters", params)
	}
	if body := d.requestBody(p); body != nil {
		op.set("requestBody", body)
	}
	op.set("responses", d.responses(info, p, ops))
	return d.add(path, strings.ToLower(method), op)
}

func (d *document) add(path, method string, op any) error {
	item, _ := d.paths.get(path).(object)
	if item.get(method) != nil {
		return fmt.Errorf("second operation at %s %s", method, path)
	}
	item.set(method, op)
	d.paths.set(path, item)
	return nil
}

func (d *document) extra(path string, item any) error {
	methods, ok := item.(map[string]any)
	if !ok {
		return fmt.Errorf("extra path %s is a %T, want map[string]any", path, item)
	}
	for _, method := range slices.Sorted(maps.Keys(methods)) {
		if err := d.add(path, method, methods[method]); err != nil {
			return err
		}
	}
	return nil
}

func (d *document) parameters(info api.OpInfo, p *plan) []any {
	var params []any
	add := func(name, in, doc string, required bool, schema any) {
		param := object{{"name", name}, {"in", in}}
		if required {
			param.set("required", true)
		}
		if doc != "" {
			param.set("description", doc)
		}
		param.set("schema", schema)
		params = append(params, param)
	}
	for _, f := range p.path {
		add(f.name, "path", f.doc, true, d.schemas.of(f.typ))
	}
	for _, f := range p.query {
		schema := d.schemas.of(f.typ)
		if p.lists && f.name == "limit" {
			schema = object{{"type", "integer"}, {"minimum", 1}, {"maximum", api.MaxLimit}, {"default", api.DefaultLimit}}
		}
		add(f.name, "query", f.doc, false, schema)
	}
	for _, f := range p.header {
		switch {
		case f.header == headerIfMatch && p.method == http.MethodGet, f.header == headerIdempotency:
		case f.header == headerIfMatch:
			add(f.header, "header", "The ETag that the entity must still have, or *.", false, object{{"type", "string"}})
		default:
			add(f.header, "header", f.doc, false, d.schemas.of(f.typ))
		}
	}
	if p.idempotent || p.method == http.MethodPost && info.Permission != api.Public {
		add(headerIdempotency, "header", "A repeat with the same key within 24 h returns the first answer.", false,
			object{{"type", "string"}, {"minLength", 1}, {"maxLength", maxIdempotencyKey}})
	}
	if p.method == http.MethodGet && revisioned(info.Resp) {
		add("If-None-Match", "header", "Answers 304 when the entity still has this ETag.", false, object{{"type", "string"}})
	}
	return params
}

func (d *document) requestBody(p *plan) any {
	var schema any
	required := p.whole != nil
	switch {
	case p.whole != nil:
		schema = d.schemas.input(p.whole.typ, nil)
	case len(p.body) > 0:
		schema = d.schemas.input(p.typ, p.body)
		required = slices.ContainsFunc(p.body, func(f field) bool { return !f.optional })
	default:
		return nil
	}
	body := object{}
	if required {
		body.set("required", true)
	}
	body.set("content", object{{"application/json", object{{"schema", schema}}}})
	return body
}

func (d *document) responses(info api.OpInfo, p *plan, ops []api.AnyOp) object {
	success := object{{"description", http.StatusText(info.Status)}}
	headers := object{}
	if revisioned(info.Resp) {
		headers.set("ETag", object{{"description", "The entity's revision."}, {"schema", object{{"type", "string"}}}})
	}
	if info.Status == http.StatusCreated && itemOf(info, ops) != "" {
		headers.set("Location", object{{"description", "The path of what was created."}, {"schema", object{{"type", "string"}}}})
	}
	if len(headers) > 0 {
		success.set("headers", headers)
	}
	if info.Status != http.StatusNoContent {
		success.set("content", object{{"application/json", object{{"schema", d.schemas.of(info.Resp)}}}})
	}
	out := object{{strconv.Itoa(info.Status), success}}
	reads := p.method == http.MethodGet
	if reads && revisioned(info.Resp) {
		out.set("304", object{{"description", "The entity still has the ETag."}})
	}
	ifMatch := slices.ContainsFunc(p.header, func(f field) bool { return f.header == headerIfMatch })
	for _, r := range refusals {
		var may bool
		switch r.status {
		case 401:
			may = info.Permission != api.Public
		case 403:
			may = info.Permission != api.Public && info.Permission != api.Authenticated
		case 404:
			may = len(p.path) > 0
		case 409:
			may = !reads
		case 412:
			may = ifMatch && !reads
		case 413, 415:
			may = p.takesBody()
		default:
			may = true
		}
		if may {
			out.set(strconv.Itoa(r.status), object{{"$ref", "#/components/responses/" + r.name}})
		}
	}
	return out
}

func revisioned(t reflect.Type) bool { return t.Implements(reflect.TypeFor[api.Revisioned]()) }

// refusals are the problem responses that operations share.
var refusals = []struct {
	status      int
	name, about string
}{
	{400, "Invalid", "The request is not valid; errors says where."},
	{401, "Unauthenticated", "A valid credential is needed."},
	{403, "Denied", "The caller lacks the permission."},
	{404, "NotFound", "It does not exist, or not for the caller."},
	{409, "Conflict", "It is in conflict with the current state."},
	{412, "PreconditionFailed", "The entity no longer has the ETag of If-Match."},
	{413, "TooLarge", "The body is too large."},
	{415, "UnsupportedMediaType", "The body is not application/json."},
	{429, "Exhausted", "A quota or rate is used up; Retry-After says when to try again."},
	{500, "Internal", "An internal error."},
	{503, "Unavailable", "Not available now; try again."},
}

func (d *document) components() (object, error) {
	d.schemas.name(reflect.TypeFor[problem](), "Problem")
	schema := d.schemas.of(reflect.TypeFor[problem]())
	responses := object{}
	for _, r := range refusals {
		response := object{{"description", r.about}}
		if r.status == 429 || r.status == 503 {
			response.set("headers", object{{"Retry-After", object{{"description", "Seconds."}, {"schema", object{{"type", "integer"}}}}}})
		}
		response.set("content", object{{"application/problem+json", object{{"schema", schema}}}})
		responses.set(r.name, response)
	}
	all, err := d.schemas.all()
	return object{
		{"securitySchemes", object{
			{"bearer", object{{"type", "http"}, {"scheme", "bearer"}, {"description", "An API key or an access token."}}},
			{"cookie", object{{"type", "apiKey"}, {"in", "cookie"}, {"name", sessionCookie}}},
		}},
		{"responses", responses},
		{"schemas", all},
	}, err
}
