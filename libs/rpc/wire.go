package rpc

import (
	"strconv"
	"strings"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

// Headers of requests and answers on the bus. Their names are part of the bus protocol.
const (
	headerAuthorization = "Authorization"   // "Bearer <access token>"
	headerDeadline      = "Yard-Deadline"   // Unix milliseconds; afterwards nobody waits for the answer
	headerRequestID     = "Yard-Request-Id" // of the HTTP request behind the call
	headerError         = "Yard-Error"      // an api.Code; the body is an api.Error
	headerRevision      = "Yard-Revision"   // of a Revisioned answer
)

// headerReserve is what a message's headers may need of the bus's payload bound, in bytes. Tokens are the long ones.
const headerReserve = 8 << 10

// maxRetryAfter bounds what a peer may ask its caller to wait.
const maxRetryAfter = time.Hour

// carrier lets the trace propagator read and write a message's headers.
type carrier nats.Header

func (c carrier) Get(key string) string {
	if v := c[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { c[key] = []string{value} }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// bearer returns the access token of h, or "".
func bearer(h nats.Header) string {
	scheme, raw, _ := strings.Cut(carrier(h).Get(headerAuthorization), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return raw
}

// deadline returns the deadline that h carries; false for none or a malformed one, which bounds nothing.
func deadline(h nats.Header) (time.Time, bool) {
	ms, err := strconv.ParseInt(carrier(h).Get(headerDeadline), 10, 64)
	if err != nil || ms <= 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(ms), true
}

// answer is a successful reply: the JSON of the response, and its revision when it is Revisioned.
type answer struct {
	data []byte
	rev  uint64
}

// errorReply returns the header and the body that carry err.
func errorReply(err error) (nats.Header, []byte) {
	e := api.Redact(err)
	data, merr := json.Marshal(e)
	if merr != nil { // api.Error holds strings and numbers only
		data = nil
	}
	return nats.Header{headerError: {string(e.Code)}}, data
}

// readReply returns the answer that a reply carries, or the error. A code that this process does not know is internal.
func readReply(h nats.Header, data []byte) (answer, error) {
	code := carrier(h).Get(headerError)
	if _, failed := h[headerError]; failed {
		return answer{}, readError(code, data)
	}
	out := answer{data: data}
	if v := carrier(h).Get(headerRevision); v != "" {
		out.rev, _ = strconv.ParseUint(v, 10, 64)
	}
	return out, nil
}

func readError(code string, data []byte) *api.Error {
	var e api.Error
	if err := json.Unmarshal(data, &e); err != nil {
		e = api.Error{}
	}
	e.Code, e.Cause = api.Code(code), nil
	if !known(e.Code) {
		return &api.Error{Code: api.CodeInternal, Detail: "the service answered with an error that is not known here"}
	}
	if e.Detail == "" {
		e.Detail = "the service gave no reason"
	}
	e.RetryAfter = min(max(e.RetryAfter, 0), maxRetryAfter)
	return &e
}

func known(c api.Code) bool {
	switch c {
	case api.CodeInvalid, api.CodeUnauthenticated, api.CodeDenied, api.CodeNotFound, api.CodeConflict,
		api.CodeExhausted, api.CodeUnavailable, api.CodeInternal:
		return true
	}
	return false
}

// replyAllowed reports whether a server may answer to subject. A requester chooses the reply subject, and the server publishes
// there with its own permissions: without this check a session could make the sessions service write to a ledger, or to the inbox of another
// service. Inboxes of services are _INBOX.<service>.…, those of a session _INBOX_<session>.… (libs/bus).
func replyAllowed(subject, session string) bool {
	if session != "" {
		return strings.HasPrefix(subject, "_INBOX_"+session+".")
	}
	return strings.HasPrefix(subject, nats.InboxPrefix)
}
