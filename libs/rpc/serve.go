package rpc

import (
	"context"
	"strconv"
	"strings"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/go-kit/kit/endpoint"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"

	"agentyard.dev/libs/api"
)

// handler is one registered operation with its middleware.
type handler struct {
	info     api.OpInfo
	pool     *pool
	timeout  time.Duration
	endpoint endpoint.Endpoint // takes a *call, returns an answer
}

// call is one request on its way through the middleware.
type call struct {
	h         *handler
	msg       *nats.Msg
	tenant    string        // of a runner's request: proven by its subject
	session   string        // likewise
	peer      string        // the service that asks what only it may: proven by its subject
	principal api.Principal // once authorised
	raw       string        // its access token, unless it is a session
}

func (s *Server) handle(info api.OpInfo, p *pool, timeout time.Duration, inner endpoint.Endpoint) {
	switch {
	case s.running.Load():
		panic("rpc: handler of " + info.Name() + " registered on a running server")
	case info.Service != s.cfg.Service:
		panic("rpc: " + info.Name() + " registered on a server of " + s.cfg.Service)
	case s.handlers[info.Verb] != nil:
		panic("rpc: second handler of " + info.Name())
	}
	h := &handler{info: info, pool: p, timeout: timeout}
	h.endpoint = endpoint.Chain(s.recover, s.observe, s.authorise, s.limit, s.timeout)(inner)
	s.handlers[info.Verb] = h
}

// decoding is the innermost endpoint: it reads the request, asks the handler and writes the answer, so that the cost of a large request falls on
// callers who may ask.
func decoding[Req, Resp any](s *Server, info api.OpInfo, h func(context.Context, Req) (Resp, error)) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		var req Req
		if err := decodeLoose(request.(*call).msg.Data, &req); err != nil {
			return nil, err
		}
		resp, err := h(ctx, req)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(&resp)
		if err != nil {
			return nil, api.Errorf(api.CodeInternal, "encode the answer of %s: %w", info.Name(), err)
		}
		if limit := s.nc.MaxPayload(); limit > 0 && int64(len(data)) > limit-headerReserve {
			s.log.WarnContext(ctx, "answer larger than the bus carries", "op", info.Name(), "code", api.CodeInternal, "bytes", len(data), "limit", limit)
			return nil, api.Errorf(api.CodeExhausted, "the answer is larger than %d bytes; ask for less at once", limit-headerReserve)
		}
		out := answer{data: data}
		if r, ok := any(&resp).(api.Revisioned); ok {
			out.rev = r.Revision()
		}
		return out, nil
	}
}

// receive is called by the subscription, one message at a time: it must not block.
func (s *Server) receive(msg *nats.Msg) {
	c := &call{msg: msg}
	verb, ok := c.route(s.cfg.Service)
	if !ok || !replyAllowed(msg.Reply, c.session) {
		return // not a request of ours, or nobody whom we may answer
	}
	if t, ok := deadline(msg.Header); ok && !time.Now().Before(t) {
		return // nobody waits any more
	}
	c.h = s.handlers[verb]
	if c.h == nil || c.session != "" && c.h.info.Permission != api.SessionScoped || c.peer != "" && c.h.info.Permission != api.ServiceScoped {
		s.refuse(c, "unknown", api.Errorf(api.CodeNotFound, "%s has no operation %q", s.cfg.Service, verb))
		return
	}
	if !take(c.h.pool.admit) {
		s.refuse(c, c.h.info.Verb, s.overloaded())
		return
	}
	s.crew.Go(func() { s.serve(c) }) // Run waits for it: drain takes its place in the pool
}

// route reads the verb, and for a runner's request who asks, from the subject.
func (c *call) route(service string) (verb string, ok bool) {
	if rest, ok := strings.CutPrefix(c.msg.Subject, api.RunnerPrefix); ok {
		tokens := strings.Split(rest, ".")
		if len(tokens) != 3 || !api.ValidName(tokens[0]) || !api.ValidID(api.KindSession, tokens[1]) {
			return "", false
		}
		c.tenant, c.session = tokens[0], tokens[1]
		return tokens[2], true
	}
	if rest, ok := strings.CutPrefix(c.msg.Subject, api.PeerPrefix); ok {
		tokens := strings.Split(rest, ".")
		if len(tokens) != 3 || !api.ValidName(tokens[0]) || tokens[1] != service {
			return "", false
		}
		c.peer = tokens[0]
		return tokens[2], true
	}
	verb, ok = strings.CutPrefix(c.msg.Subject, api.OpPrefix+service+".")
	return verb, ok
}

func (s *Server) overloaded() *api.Error {
	return &api.Error{
		Code: api.CodeExhausted, RetryAfter: overloadRetry,
		Detail: "the " + s.cfg.Service + " service has too much to do; try again in a moment",
	}
}

// refuse answers a request that gets no goroutine.
func (s *Server) refuse(c *call, op string, err *api.Error) {
	s.seconds.WithLabelValues(s.cfg.Service, op, string(err.Code)).Observe(0)
	s.reply(c, answer{}, err)
}

// serve answers one request.
func (s *Server) serve(c *call) {
	defer func() { <-c.h.pool.admit }()
	ctx := context.Background()
	if c.h.pool == s.long {
		ctx = s.waiting
	}
	if t, ok := deadline(c.msg.Header); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, t)
		defer cancel()
	}
	ctx = otel.GetTextMapPropagator().Extract(ctx, carrier(c.msg.Header))
	ctx = WithRequestID(ctx, carrier(c.msg.Header).Get(headerRequestID))
	ctx, span := tracer().Start(ctx, c.h.info.Name(), asServer)
	defer span.End()

	out, err := c.h.endpoint(ctx, c)
	if err != nil {
		span.SetStatus(codes.Error, string(api.CodeOf(err)))
		s.reply(c, answer{}, err)
		return
	}
	s.reply(c, out.(answer), nil)
}

func (s *Server) reply(c *call, out answer, err error) {
	msg := &nats.Msg{Subject: c.msg.Reply, Data: out.data}
	switch {
	case err != nil:
		msg.Header, msg.Data = errorReply(err)
	case out.rev != 0:
		msg.Header = nats.Header{headerRevision: {strconv.FormatUint(out.rev, 10)}}
	}
	if err := s.nc.PublishMsg(msg); err != nil {
		s.log.Warn("answer not sent", "op", c.msg.Subject, "err", err) // the caller runs into its deadline
	}
}
