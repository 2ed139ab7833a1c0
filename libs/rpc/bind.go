package rpc

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"agentyard.dev/libs/api"
)

const (
	headerIdempotency = "Idempotency-Key"
	headerIfMatch     = "If-Match"
	maxIdempotencyKey = 255
)

var (
	durationType = reflect.TypeFor[api.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	listType     = reflect.TypeFor[api.List]()
)

// plan is how a request type is filled from an HTTP request, worked out once.
type plan struct {
	typ        reflect.Type
	method     string
	path       []field
	query      []field
	header     []field
	edge       []field
	body       []field
	whole      *field // in:"body": the body is this field
	lists      bool   // embeds api.List
	idempotent bool   // has the Idempotency-Key itself
}

// newPlan panics when a field cannot be bound: that is a mistake in libs/api.
func newPlan(info api.OpInfo) *plan {
	method, path, ok := strings.Cut(info.Route, " ")
	if !ok || info.Req.Kind() != reflect.Struct {
		panic(fmt.Sprintf("rpc: %s: cannot bind route %q to %s", info.Name(), info.Route, info.Req))
	}
	p := &plan{typ: info.Req, method: method}
	for _, f := range fieldsOf(info.Req) {
		switch f.in {
		case "path":
			if !strings.Contains(path, "{"+f.name+"}") && !strings.Contains(path, "{"+f.name+"...}") {
				panic(fmt.Sprintf("rpc: %s: route %q has no {%s}", info.Name(), info.Route, f.name))
			}
			p.path = append(p.path, f)
		case "query":
			p.query = append(p.query, f)
		case "header":
			f.header = http.CanonicalHeaderKey(f.header)
			p.idempotent = p.idempotent || f.header == headerIdempotency
			p.header = append(p.header, f)
		case "edge":
			p.edge = append(p.edge, f)
		case "body":
			p.whole = &f
		case "":
			p.body = append(p.body, f)
		default:
			panic(fmt.Sprintf("rpc: %s: field %s is in %q", info.Name(), f.name, f.in))
		}
	}
	if p.whole != nil && len(p.body) > 0 {
		panic(fmt.Sprintf("rpc: %s: fields beside the one that is the body", info.Name()))
	}
	for _, f := range slices.Concat(p.path, p.query, p.header) {
		if !bindable(f.typ) {
			panic(fmt.Sprintf("rpc: %s: field %s: a %s cannot come from %s", info.Name(), f.name, f.typ, f.in))
		}
	}
	for i := range info.Req.NumField() {
		sf := info.Req.Field(i)
		p.lists = p.lists || sf.Anonymous && sf.Type == listType
	}
	p.lists = p.lists || info.Req == listType
	return p
}

func bindable(t reflect.Type) bool {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return true
	}
	return reflect.PointerTo(t).Implements(textUnmarshaler)
}

// takesBody reports whether a body means something to the operation.
func (p *plan) takesBody() bool {
	return p.whole != nil || len(p.body) > 0 || p.method == http.MethodPost || p.method == http.MethodPut || p.method == http.MethodPatch
}

// readBody returns the body, within limit bytes; nil when there is none or it means nothing.
func (p *plan) readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if !p.takesBody() || r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	tooLarge := WithStatus(invalid("", fmt.Sprintf("is larger than %d bytes", limit)), http.StatusRequestEntityTooLarge)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	if r.ContentLength > 0 {
		if err := checkMedia(r); err != nil {
			return nil, err
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var max *http.MaxBytesError
	switch {
	case errors.As(err, &max):
		return nil, tooLarge
	case err != nil:
		return nil, &api.Error{Code: api.CodeInvalid, Detail: "the body ended early", Cause: err}
	case len(body) == 0:
		return nil, nil
	}
	return body, checkMedia(r)
}

// checkMedia refuses a body that is not said to be plain JSON: a page of another origin cannot send one without asking (CORS).
func checkMedia(r *http.Request) error {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, given := params["charset"]
	switch {
	case err != nil, media != "application/json", given && !strings.EqualFold(charset, "utf-8"):
		return WithStatus(invalid("", "must have the Content-Type application/json"), http.StatusUnsupportedMediaType)
	case r.Header.Get("Content-Encoding") != "":
		return WithStatus(invalid("", "must not have a Content-Encoding"), http.StatusUnsupportedMediaType)
	}
	return nil
}

// bind returns a pointer to a request filled from r and its body.
func (p *plan) bind(r *http.Request, body []byte) (reflect.Value, error) {
	req := reflect.New(p.typ)
	v := req.Elem()
	var f faults
	if err := p.bindBody(&f, v, body); err != nil {
		return req, err
	}
	for _, field := range p.edge {
		v.FieldByIndex(field.index).SetZero()
	}
	for _, field := range p.path {
		f.set(field, v, []string{r.PathValue(field.name)})
	}
	if err := p.bindQuery(&f, v, r.URL.RawQuery); err != nil {
		return req, err
	}
	if err := p.bindHeader(&f, v, r.Header); err != nil {
		return req, err
	}
	return req, f.err()
}

func (p *plan) bindBody(f *faults, v reflect.Value, body []byte) error {
	if body == nil {
		if p.whole != nil {
			return invalid("", "is missing")
		}
		return nil
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	if p.whole != nil {
		if isNull(body) {
			return invalid("", "must be an object")
		}
		f.strict(body, v.FieldByIndex(p.whole.index), "")
		return nil
	}
	elsewhere := slices.Concat(p.path, p.query, p.header)
	f.object(body, "", func(name string, raw json.RawMessage) {
		same := func(f field) bool { return f.name == name }
		if i := slices.IndexFunc(p.body, same); i >= 0 {
			f.strict(raw, v.FieldByIndex(p.body[i].index), p.body[i].pointer())
			return
		}
		if i := slices.IndexFunc(elsewhere, same); i >= 0 {
			f.add(elsewhere[i].pointer(), "belongs to the %s, not to the body", elsewhere[i].place())
			return
		}
		if !slices.ContainsFunc(p.edge, same) { // what the edge sets is passed over
			f.unknown("", name)
		}
	})
	return nil
}

// place says where in an HTTP request the field belongs.
func (f *field) place() string {
	if f.in == "header" {
		return "header " + f.header
	}
	return f.in
}

func (p *plan) bindQuery(f *faults, v reflect.Value, raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Detail: "the query of the URL is malformed", Cause: err}
	}
	known := 0
	for _, field := range p.query {
		values, ok := query[field.name]
		if !ok {
			continue
		}
		known++
		f.set(field, v, values)
		if p.lists && field.name == "limit" && len(values) == 1 && values[0] != "" {
			if n, err := strconv.Atoi(values[0]); err == nil && (n < 1 || n > api.MaxLimit) {
				f.add("/limit", "must be between 1 and %d", api.MaxLimit)
			}
		}
	}
	if known == len(query) {
		return nil
	}
	names := make([]string, 0, len(query))
	for name := range query {
		if !slices.ContainsFunc(p.query, func(f field) bool { return f.name == name }) {
			names = append(names, strings.ToValidUTF8(name, "�"))
		}
	}
	slices.Sort(names)
	for _, name := range names {
		f.add("/"+api.PointerToken(short(name)), "is not a known query parameter")
	}
	return nil
}

func (p *plan) bindHeader(f *faults, v reflect.Value, h http.Header) error {
	if keys, ok := h[headerIdempotency]; ok && p.method == http.MethodPost && (len(keys) != 1 || !validIdempotencyKey(keys[0])) {
		f.add("/idempotency_key", "must be 1 to %d printable ASCII characters (header %s)", maxIdempotencyKey, headerIdempotency)
	}
	for _, field := range p.header {
		values := h[field.header]
		switch {
		case len(values) == 0:
		case field.header == headerIfMatch:
			rev, err := parseIfMatch(values)
			if err != nil {
				return err
			}
			v.FieldByIndex(field.index).SetUint(rev)
		default:
			f.set(field, v, values)
		}
	}
	return nil
}

// giveKey gives a bound POST that its operation would do once a key of its own, if it has come with none, so that it may be asked again.
func (p *plan) giveKey(req reflect.Value) {
	if !p.idempotent || p.method != http.MethodPost {
		return
	}
	for _, field := range p.header {
		if v := req.Elem().FieldByIndex(field.index); field.header == headerIdempotency && v.Len() == 0 {
			v.SetString(FreshKey())
		}
	}
}

func validIdempotencyKey(key string) bool {
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return false
		}
	}
	return key != "" && len(key) <= maxIdempotencyKey
}

// set fills one field from text. An empty query parameter is as good as none: a form sends all of its fields.
func (f *faults) set(field field, v reflect.Value, values []string) {
	for _, s := range values {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			f.add(field.pointer(), "has characters that are not text")
			return
		}
	}
	v = v.FieldByIndex(field.index)
	if v.Kind() == reflect.Slice {
		values = slices.DeleteFunc(slices.Clone(values), func(s string) bool { return s == "" })
		v.Set(reflect.MakeSlice(v.Type(), len(values), len(values)))
		for i, s := range values {
			f.setOne(field, v.Index(i), s)
		}
		return
	}
	if len(values) != 1 {
		f.add(field.pointer(), "is given more than once")
		return
	}
	if values[0] != "" {
		f.setOne(field, v, values[0])
	}
}

func (f *faults) setOne(field field, v reflect.Value, s string) {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(s)); err != nil {
			f.add(field.pointer(), "%s", opaqueFault(v.Type(), []byte(s), err))
		}
		return
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
		return
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(s)
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		var n int64
		n, err = strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(n)
	default:
		var n uint64
		n, err = strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(n)
	}
	if err != nil {
		f.add(field.pointer(), "must be %s", kindName(v.Type()))
	}
}
