package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/go-kit/kit/endpoint"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/token"
)

// errPanicked is what an operation ends with until it has returned.
var errPanicked = errors.New("the operation panicked")

// recover turns a panic into an internal error: one request must not end the service.
func (s *Server) recover(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				op := request.(*call).h.info.Name()
				s.log.ErrorContext(ctx, "panic", "op", op, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
				resp, err = nil, api.Errorf(api.CodeInternal, "%s: %w: %v", op, errPanicked, p)
			}
		}()
		return next(ctx, request)
	}
}

// observe measures the operation and writes its one line of log.
func (s *Server) observe(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (resp any, err error) {
		c, start := request.(*call), time.Now()
		err = errPanicked
		defer func() { s.observed(ctx, c, time.Since(start), err) }()
		return next(ctx, request)
	}
}

func (s *Server) observed(ctx context.Context, c *call, took time.Duration, err error) {
	code, level := "ok", slog.LevelDebug
	if err != nil {
		code = string(api.CodeOf(err))
		if code == string(api.CodeInternal) {
			level = slog.LevelWarn
		}
		if refused(err) && s.cfg.Denied != nil {
			s.cfg.Denied(token.WithRaw(ctx, c.raw), c.h.info, c.principal, err)
		}
	}
	s.seconds.WithLabelValues(s.cfg.Service, c.h.info.Verb, code).Observe(took.Seconds())
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("op", c.h.info.Name()), slog.String("code", code), slog.Duration("took", took),
		slog.String("tenant", c.principal.Tenant), slog.String("principal", c.principal.ID),
	}
	if c.session != "" {
		attrs = append(attrs, slog.String("session", c.session))
	}
	if id := RequestID(ctx); id != "" {
		attrs = append(attrs, slog.String("request_id", id))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	s.log.LogAttrs(ctx, level, "operation", attrs...)
}

func refused(err error) bool {
	code := api.CodeOf(err)
	return code == api.CodeUnauthenticated || code == api.CodeDenied
}

// authorise finds out who asks, from the token or the runner's subject, and whether they may. Nothing else in a
// message says who asks.
func (s *Server) authorise(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		c := request.(*call)
		want := c.h.info.Permission
		if want == api.SessionScoped {
			if c.session == "" {
				return nil, api.Errorf(api.CodeDenied, "only a session's own runner may ask %s", c.h.info.Name())
			}
			c.principal = api.Principal{ID: c.session, Name: c.session, Tenant: c.tenant}
			return next(api.WithPrincipal(ctx, c.principal), request)
		}
		if want == api.ServiceScoped {
			if c.peer == "" {
				return nil, api.Errorf(api.CodeDenied, "only another service may ask %s", c.h.info.Name())
			}
			c.principal = api.Principal{ID: "service:" + c.peer, Name: c.peer}
			return next(api.WithPrincipal(ctx, c.principal), request)
		}
		raw := bearer(c.msg.Header)
		p, err := s.verify(ctx, raw)
		switch {
		case err == nil:
			c.principal, c.raw = p, raw
			ctx = token.WithRaw(api.WithPrincipal(ctx, p), raw)
		case want != api.Public:
			return nil, err
		}
		if want != api.Public && !p.Can(want) && !p.Can(want.Any()) {
			return nil, api.Errorf(api.CodeDenied, "this needs the permission %s", want)
		}
		return next(ctx, request)
	}
}

func (s *Server) verify(ctx context.Context, raw string) (api.Principal, error) {
	if raw == "" || s.cfg.Auth == nil {
		return api.Principal{}, api.Errorf(api.CodeUnauthenticated, "no valid credential came with the request")
	}
	return s.cfg.Auth.Verify(ctx, raw)
}

// limit bounds how many operations work at once.
func (s *Server) limit(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		slots := request.(*call).h.pool.slots
		if !take(slots) {
			return nil, s.overloaded()
		}
		defer func() { <-slots }()
		return next(ctx, request)
	}
}

// timeout bounds one operation; the caller's own deadline is in ctx already.
func (s *Server) timeout(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		most := request.(*call).h.timeout
		if t, ok := ctx.Deadline(); ok && time.Until(t) <= most {
			return next(ctx, request)
		}
		ctx, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		return next(ctx, request)
	}
}
