package rpc

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
)

// ProblemType begins the type of each problem; its code follows.
const ProblemType = "https://agentyard.dev/errors/"

// problem is RFC 9457 problem+json.
type problem struct {
	Type      string           `json:"type"`
	Title     string           `json:"title"`
	Status    int              `json:"status"`
	Detail    string           `json:"detail"`
	Code      api.Code         `json:"code"`
	Errors    []api.FieldError `json:"errors,omitempty"`
	RequestID string           `json:"request_id,omitempty"`
}

var titles = map[api.Code]string{
	api.CodeInvalid:         "The request is not valid",
	api.CodeUnauthenticated: "A valid credential is needed",
	api.CodeDenied:          "Not permitted",
	api.CodeNotFound:        "Not found",
	api.CodeConflict:        "In conflict with the current state",
	api.CodeExhausted:       "Too much at once",
	api.CodeUnavailable:     "Not available now",
	api.CodeInternal:        "Internal error",
}

// statusError is an error with an HTTP status that its code does not give.
type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// WithStatus returns err for WriteError to write with status, where the one of its code is not exact enough (405, 413, 415, …).
func WithStatus(err error, status int) error { return &statusError{err, status} }

// WriteError writes err as RFC 9457 problem+json (api.Redact), with Retry-After when it has one, and 412 for a conflict that
// an If-Match caused.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	e := api.Redact(err)
	status := e.Code.Status()
	var exact *statusError
	switch match := r.Header.Get(headerIfMatch); {
	case errors.As(err, &exact):
		status = exact.status
	case e.Code == api.CodeConflict && match != "" && match != "*":
		status = http.StatusPreconditionFailed
	}
	h := w.Header()
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="agentyard"`)
	}
	title, ok := titles[e.Code]
	if !ok {
		title = http.StatusText(status)
	}
	data, merr := json.Marshal(problem{
		Type: ProblemType + string(e.Code), Title: title, Status: status, Detail: e.Detail,
		Code: e.Code, Errors: e.Fields, RequestID: RequestID(r.Context()),
	})
	if merr != nil { // strings and numbers only
		data = nil
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	write(w, r, status, data)
}

// WriteJSON writes v with status, and its ETag when it is Revisioned (304 for a matching If-None-Match).
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		WriteError(w, r, api.Errorf(api.CodeInternal, "encode the answer: %w", err))
		return
	}
	var rev uint64
	if revisioned, ok := v.(api.Revisioned); ok {
		rev = revisioned.Revision()
	}
	writeBody(w, r, status, data, rev)
}

// writeBody writes an answer in JSON, with the entity tag of rev if it is not zero.
func writeBody(w http.ResponseWriter, r *http.Request, status int, data []byte, rev uint64) {
	h := w.Header()
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if h.Get("Cache-Control") == "" {
		if reads {
			h.Set("Cache-Control", "private, no-cache") // may be kept, must be asked again with its ETag
		} else {
			h.Set("Cache-Control", "no-store") // may hold a secret
		}
	}
	if rev != 0 {
		h.Set("ETag", etag(rev))
		if reads && status == http.StatusOK && matches(r.Header, rev) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	h.Set("Content-Type", "application/json")
	write(w, r, status, data)
}

func write(w http.ResponseWriter, r *http.Request, status int, data []byte) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // the client is gone: nobody to tell
	}
}

// Problems serves mux, and problem+json where mux has no route for a request (404) or none for its method (405).
func Problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		refusal := &discard{header: http.Header{}}
		h.ServeHTTP(refusal, r)
		switch refusal.status {
		case http.StatusNotFound:
			WriteError(w, r, api.Errorf(api.CodeNotFound, "there is nothing at this path"))
		case http.StatusMethodNotAllowed:
			w.Header().Set("Allow", refusal.header.Get("Allow"))
			WriteError(w, r, WithStatus(api.Errorf(api.CodeInvalid, "this path does not answer the method; it answers %s", refusal.header.Get("Allow")), refusal.status))
		default: // a redirect to the path's clean form
			h.ServeHTTP(w, r)
		}
	})
}

// discard keeps the status and headers of an answer only.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }
