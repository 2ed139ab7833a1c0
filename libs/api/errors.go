package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code classifies an error for whoever has to act on it. The set is closed.
type Code string

// The codes, each with what the caller should do.
const (
	CodeInvalid         Code = "invalid"         // correct the request
	CodeUnauthenticated Code = "unauthenticated" // present a valid credential
	CodeDenied          Code = "denied"          // ask for the permission
	CodeNotFound        Code = "not_found"       // it does not exist, or not for you
	CodeConflict        Code = "conflict"        // read again, then decide
	CodeExhausted       Code = "exhausted"       // wait, or free some quota
	CodeUnavailable     Code = "unavailable"     // try again
	CodeInternal        Code = "internal"        // report it; the text stays in the process
)

// Error is an error that crosses a process boundary. Detail is written for a person:
// what is wrong, where, and what to do. Cause stays in the process.
type Error struct {
	Code       Code          `json:"code"`
	Detail     string        `json:"detail"`
	Fields     []FieldError  `json:"errors,omitempty"`      // of an invalid request
	RetryAfter time.Duration `json:"retry_after,omitempty"` // of an exhausted or unavailable one; nanoseconds on the bus
	Cause      error         `json:"-"`
}

// FieldError says what is wrong with one field; Pointer is an RFC 6901 JSON pointer.
type FieldError struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}

func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Detail == "" && t.Code == e.Code
}

// Errorf returns an Error of code c. A %w operand becomes its Cause.
func Errorf(c Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: c, Detail: err.Error(), Cause: errors.Unwrap(err)}
}

// Invalid returns an invalid error that blames one field.
func Invalid(pointer, format string, args ...any) *Error {
	detail := fmt.Sprintf(format, args...)
	return &Error{
		Code:   CodeInvalid,
		Detail: pointer + ": " + detail,
		Fields: []FieldError{{Pointer: pointer, Detail: detail}},
	}
}

// CodeOf returns the code that err carries: a context's end is unavailable, and an
// error without a code is internal.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return CodeUnavailable
	}
	return CodeInternal
}

// Redact returns err as it may leave the process: an Error without its cause. The
// text of an internal error, and of one without a code, is replaced.
func Redact(err error) *Error {
	var e *Error
	if errors.As(err, &e) && e.Code != CodeInternal {
		return &Error{Code: e.Code, Detail: e.Detail, Fields: e.Fields, RetryAfter: e.RetryAfter}
	}
	if CodeOf(err) == CodeUnavailable {
		return &Error{Code: CodeUnavailable, Detail: "the request ran out of time; try again"}
	}
	return &Error{Code: CodeInternal, Detail: "an internal error occurred; the log has the details"}
}

// Status returns the HTTP status of code c.
func (c Code) Status() int {
	switch c {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeUnauthenticated:
		return http.StatusUnauthorized
	case CodeDenied:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeExhausted:
		return http.StatusTooManyRequests
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
