// Package client asks agentyard's HTTP API. It derives each call from the operation's
// value in libs/api, follows a session's events across any loss of the connection, and
// talks to a session over a WebSocket.
//
// Every method is safe for concurrent use. A refusal by the server is an *api.Error with the
// server's code and detail; a server that cannot be reached is one with the code unavailable.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// maxAnswer bounds one JSON answer: a page of 500 sessions is far below it.
const maxAnswer = 64 << 20

// tries is how often a call that may be repeated is made before its failure is
// returned; with the pauses between them they outlast a restart of the server on a laptop.
const tries = 4

// Client asks one server with one credential.
type Client struct {
	base *url.URL
	key  string
	http *http.Client
}

// New returns a client of the server at base ("http://127.0.0.1:8080"), which presents
// key as its bearer credential; an empty key presents none.
func New(base, key string) (*Client, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, fmt.Errorf("server address: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("server address %q: want http://host:port or https://host", base)
	case u.User != nil:
		return nil, errors.New("server address: it must not hold a credential")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawQuery, u.Fragment = "", ""
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 150 * time.Second // create?wait=running answers within 120 s
	return &Client{base: u, key: key, http: &http.Client{
		Transport: t,
		// The API redirects nowhere. A redirect would carry the key to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// URL returns the server's address.
func (c *Client) URL() string { return c.base.String() }

// Do asks op and waits for its answer. A read, and a write with an idempotency key, is
// made again when the server cannot be reached or is not ready.
func Do[Req, Resp any](ctx context.Context, c *Client, op api.Op[Req, Resp], req Req) (Resp, error) {
	var resp Resp
	b, err := bind(op.Route, req)
	if err != nil {
		return resp, fmt.Errorf("%s: %w", op.Summary, err)
	}
	repeatable := b.method == http.MethodGet || b.header.Get("Idempotency-Key") != ""
	for try := 1; ; try++ {
		err = c.once(ctx, b, &resp)
		if err == nil || !repeatable || try == tries || !transient(err) {
			return resp, err
		}
		if err := pause(ctx, try); err != nil {
			return resp, err
		}
	}
}

func (c *Client) once(ctx context.Context, b binding, out any) error {
	var body io.Reader
	if b.body != nil {
		body = bytes.NewReader(b.body)
	}
	resp, err := c.Request(ctx, b.method, b.target, b.header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.base.Host, err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the answer of %s is longer than %d bytes", c.base.Host, maxAnswer)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s does not answer like an agentyard server: %w", c.URL(), err)
	}
	return nil
}

// Request makes one request for target (path and query below the server's address) and
// returns its answer when the status is 2xx; the caller closes its body. For another status it
// returns the *api.Error that the server wrote.
func (c *Client) Request(ctx context.Context, method, target string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL()+target, body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	req.Header.Set("User-Agent", "agentyard-cli")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.reach(ctx, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, problem(resp)
}

// reach says in one line that the server could not be reached.
func (c *Client) reach(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why := err
	var op *net.OpError
	var ue *url.Error
	if errors.As(err, &op) {
		why = op
	} else if errors.As(err, &ue) {
		why = ue.Err
	}
	return &api.Error{Code: api.CodeUnavailable, Detail: fmt.Sprintf("cannot reach %s: %v", c.URL(), why), Cause: err}
}

// problem turns an RFC 9457 answer, or any other refusal, into an *api.Error.
func problem(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var p struct {
		Title  string           `json:"title"`
		Detail string           `json:"detail"`
		Code   api.Code         `json:"code"`
		Errors []api.FieldError `json:"errors"`
	}
	_ = json.Unmarshal(data, &p) // a proxy's HTML page leaves p empty
	e := &api.Error{Code: p.Code, Detail: p.Detail, Fields: p.Errors}
	if e.Code == "" {
		e.Code = codeOf(resp.StatusCode)
	}
	if e.Detail == "" {
		e.Detail = p.Title
	}
	if e.Detail == "" {
		e.Detail = "the server answers " + resp.Status
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// codeOf is the code of a status whose answer names none.
func codeOf(status int) api.Code {
	switch status {
	case http.StatusUnauthorized:
		return api.CodeUnauthenticated
	case http.StatusForbidden:
		return api.CodeDenied
	case http.StatusNotFound:
		return api.CodeNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return api.CodeConflict
	case http.StatusTooManyRequests:
		return api.CodeExhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return api.CodeUnavailable
	}
	if status >= 400 && status < 500 {
		return api.CodeInvalid
	}
	return api.CodeInternal
}

// transient reports whether the same request may succeed a moment later.
func transient(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == api.CodeUnavailable
}
